"""The page about datasets before a training."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ..analysis.advice import SHORTEST
from ..analysis.anchor_fit import HALF
from ..data.objects import AREAS
from .inspection import MOST_SIZES, Inspection
from .object_charts import draw_classes, draw_overlaps, draw_ratios, draw_sizes
from .pages import render_page
from .sample import MOST
from .themes import Chart

CHARTED = ("classes", "sizes", "shapes", "anchors")  # sections of the page
MOST_ERRORS = 20  # per file


def render_inspection(inspection: Inspection, title: str, settings: Mapping[str, str]) -> bytes:
    """Render the page.

    Args:
        inspection: its content.
        title: heading of the page.
        settings: texts for the end of the page, by their headings.
    """
    return render_page("inspection.html", _content(inspection, title, settings))


def _content(inspection: Inspection, title: str, settings: Mapping[str, str]) -> dict[str, Any]:
    samples = inspection.samples
    errors = sum(len(f.errors) for f in inspection.findings)
    warnings = sum(len(f.warnings) for f in inspection.findings)
    first = next(iter(inspection.sets.values()), None)
    return {
        "title": title,
        "written": datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        "errors": errors,
        "warnings": warnings,
        "findings": inspection.findings,
        "most_errors": MOST_ERRORS,
        "notes": inspection.notes,
        "sets": inspection.sets,
        "first": first,
        "numbers": inspection.numbers,
        "advice": inspection.advice,
        "areas": AREAS,
        "shortest": [length for length, _ in SHORTEST],
        "half": HALF,
        "input": inspection.cfg.INPUT,
        "levels": _level_rows(inspection),
        "anchors": inspection.anchors,
        "class_rows": _class_rows(inspection),
        "size_rows": _size_rows(inspection),
        "most_sizes": MOST_SIZES,
        "charts": dict.fromkeys(CHARTED, []) | _charts(inspection),
        "samples": samples,
        "most_samples": MOST,
        "settings": settings,
    }


def _level_rows(inspection: Inspection) -> list[dict[str, Any]]:
    """Get the rows of the levels from which the heads pool objects."""
    levels = inspection.levels
    if not levels:
        return []
    names, strides, limits = levels.names, levels.strides, levels.limits()
    rows = []
    for name, stride, low, high in zip(names, strides, (0, *limits), (*limits, None)):
        pixels = f"{low:g} to {high:g}" if high else f"from {low:g} on"
        cells = f"{low / stride:g} to {high / stride:g}" if high else f"from {low / stride:g} on"
        rows.append({"name": name, "stride": stride, "pixels": pixels, "cells": cells})
    return rows


def _class_rows(inspection: Inspection) -> list[dict[str, Any]]:
    """Get the rows of the classes, by decreasing frequency in the training set."""
    by_class: dict[tuple[int, str], dict[str, Any]] = {}
    for name, numbers in inspection.numbers.items():
        for index, row in enumerate(numbers["classes"]):
            by_class.setdefault((index, row["name"]), {})[name] = row
    rows = [{"name": name, "of": of} for (_, name), of in by_class.items()]
    first = next(iter(inspection.sets), "")
    return sorted(rows, key=lambda row: -row["of"].get(first, {"objects": 0})["objects"])


def _size_rows(inspection: Inspection) -> list[dict[str, Any]]:
    """Get the rows of the image sizes, the most common one first."""
    rows: dict[tuple[int, int], dict[str, Any]] = {}
    for name in inspection.sets:
        for size in inspection.image_sizes(name):
            row = rows.setdefault(size.file, {**asdict(size), "of": {}})
            row["of"][name] = size.images
    return sorted(rows.values(), key=lambda row: -sum(row["of"].values()))


def _charts(inspection: Inspection) -> dict[str, list[dict[str, Any]]]:
    """Draw charts by the section of the page, leaving out datasets without objects."""
    sets = [data for data in inspection.sets.values() if len(data.objects.boxes)]
    if not sets:
        return {}
    names = [data.name for data in sets]
    first = sets[0]
    alike = [data for data in sets if list(data.class_names) == list(first.class_names)]
    counts = {d.name: d.objects.per_class(len(d.class_names))[1] for d in alike}
    lengths = {data.name: data.objects.lengths for data in sets}
    inputs = {name: inspection.resized[name].lengths for name in names}
    ratios = {data.name: data.objects.ratios for data in sets}
    drawn = {
        "classes": Chart.draw(
            "Objects of each class, on a logarithmic scale",
            draw_classes,
            counts,
            first.class_names,
        ),
        "sizes": Chart.draw(
            "Sizes of the objects, as shares of each dataset's objects",
            draw_sizes,
            lengths,
            inputs,
            inspection.levels,
        ),
        "shapes": Chart.draw(
            "Height over width of the objects, as shares of each dataset's objects",
            draw_ratios,
            ratios,
            inspection.anchors,
        ),
    }
    if inspection.anchors:
        drawn["anchors"] = Chart.draw(
            "Share of the objects whose best anchor has at least this IoU",
            draw_overlaps,
            {name: inspection.overlaps[name] for name in names},
            inspection.anchors.threshold,
        )
    return {section: [chart.embed(f"figure-{section}")] for section, chart in drawn.items()}
