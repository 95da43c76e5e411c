"""A page about data sets before a training: their content, and how a detector fits it."""

from __future__ import annotations

import datetime
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from detectron2.config import CfgNode

from .. import __version__
from ..analysis.advice import SHORTEST, Advice, advise
from ..analysis.anchor_fit import HALF, AnchorFit, Anchors, Levels
from ..data.findings import Findings
from ..data.objects import AREAS, Objects
from ..files import to_json
from .object_charts import draw_classes, draw_overlaps, draw_ratios, draw_sizes
from .pages import render_page
from .sample import PICTURES, draw_sample
from .themes import Chart

logger = logging.getLogger(__name__)

QUANTILES = (0.01, 0.1, 0.5, 0.9, 0.99)
MOST_SIZES = 8  # number of most common image sizes
CHARTED = ("classes", "sizes", "shapes", "anchors")  # sections of the page
MOST_ERRORS = 20  # per file


@dataclass(frozen=True)
class ImageSize:
    """A size of images.

    Attributes:
        file: width and height in pixels.
        input: width and height in the detector's input.
        scale: scale of the width.
        images: number of images with this size.
    """

    file: tuple[int, int]
    input: tuple[int, int]
    scale: float
    images: int


@dataclass
class DataSet:
    """A data set on the page.

    Attributes:
        name: name in the config.
        images: images in Detectron2's format.
        class_names: names in the order of the class indices.
        pictured: whether its images are shown. Otherwise they are shown with another data set.
        notes: sentences about what is shown.
    """

    name: str
    images: Sequence[Mapping[str, Any]]
    class_names: Sequence[str]
    pictured: bool = True
    notes: list[str] = field(default_factory=list)

    @cached_property
    def objects(self) -> Objects:
        return Objects.of(self.images)


class Inspection:
    """The content of the page.

    Attributes:
        cfg: config of the detector.
        sets: data sets by name, the training set first.
        findings: findings of the checks.
        notes: sentences about what cannot be shown.
    """

    def __init__(
        self,
        cfg: CfgNode,
        sets: Sequence[DataSet],
        findings: Sequence[Findings],
        notes: Sequence[str] = (),
    ):
        self.cfg = cfg
        self.sets = {data.name: data for data in sets}
        self.findings = [f for f in findings if f.errors or f.warnings]
        self.notes = list(notes)
        self.levels = Levels.of(cfg)
        self.anchors: Anchors | None = None
        try:
            self.anchors = Anchors.of(cfg)
        except ValueError as error:
            self.notes.append(f"Nothing is said of anchors: {error}")

    @cached_property
    def resized(self) -> dict[str, Objects]:
        """The objects in the detector's input."""
        size = self.cfg.INPUT.MIN_SIZE_TEST, self.cfg.INPUT.MAX_SIZE_TEST
        return {name: data.objects.resized(*size) for name, data in self.sets.items()}

    @cached_property
    def overlaps(self) -> dict[str, np.ndarray]:
        """The IoU of each object with its best anchor."""
        if not self.anchors:
            return {}
        return {name: self.anchors.best(objects)[0] for name, objects in self.resized.items()}

    @cached_property
    def advice(self) -> list[Advice]:
        first = next(iter(self.sets.values()), None)
        return advise(self.cfg, self.anchors, first.objects) if first else []

    @cached_property
    def numbers(self) -> dict[str, dict[str, Any]]:
        """The numbers of each data set, by its name."""
        return {name: self._count(data) for name, data in self.sets.items()}

    def _count(self, data: DataSet) -> dict[str, Any]:
        objects, resized = data.objects, self.resized[data.name]
        per_image = objects.per_image
        images, instances = objects.per_class(len(data.class_names))
        sizes = self._image_sizes(data.name)
        classes = zip(data.class_names, images.tolist(), instances.tolist())
        counts = {
            "images": len(data.images),
            "images_without_objects": int((per_image == 0).sum()),
            "objects": len(objects.boxes),
            "crowd": objects.crowd,
            "empty_boxes": objects.empty,
            "objects_per_image": {
                "mean": float(per_image.mean()) if len(per_image) else 0.0,
                "median": float(np.median(per_image)) if len(per_image) else 0.0,
                "most": int(per_image.max(initial=0)),
            },
            "classes": [{"name": n, "images": i, "objects": o} for n, i, o in classes],
            "sizes": {"file": objects.per_area(), "input": resized.per_area()},
            "lengths": {"file": _quantiles(objects.lengths), "input": _quantiles(resized.lengths)},
            "shorter_than": {
                str(length): int((resized.lengths < length).sum()) for length, _ in SHORTEST
            },
            "ratios": _quantiles(objects.ratios),
            "different_image_sizes": len(sizes),
            "image_sizes": [asdict(size) for size in sizes[:MOST_SIZES]],
        }
        if self.levels:
            assigned = np.bincount(self.levels.assign(resized), minlength=len(self.levels.names))
            counts["levels"] = dict(zip(self.levels.names, assigned.tolist()))
        if self.anchors:
            overlaps = self.overlaps[data.name]
            counts["anchors"] = asdict(AnchorFit.of(overlaps, self.anchors.threshold))
        return counts

    def as_json(self, title: str) -> bytes:
        """Export all numbers of the page."""
        content = {
            "title": title,
            "crnas_d2": __version__,
            "findings": [asdict(f) for f in self.findings],
            "notes": self.notes,
            "detector": self.detector(),
            "data_sets": self.numbers,
            "advice": [advice.as_json() for advice in self.advice],
        }
        return to_json(content, indent=1, ensure_ascii=False).encode()

    def detector(self) -> dict[str, Any]:
        keys = ("MIN_SIZE_TRAIN", "MAX_SIZE_TRAIN", "MIN_SIZE_TEST", "MAX_SIZE_TEST")
        return {
            "meta_architecture": self.cfg.MODEL.META_ARCHITECTURE,
            "input": {key: self.cfg.INPUT[key] for key in keys},
            "levels": (
                {**asdict(self.levels), "limits": self.levels.limits()} if self.levels else {}
            ),
            "anchors": asdict(self.anchors) if self.anchors else {},
        }

    def page(self, title: str, settings: Mapping[str, str]) -> bytes:
        """Render the page.

        Args:
            title: heading of the page.
            settings: texts for the end of the page, by their headings.
        """
        return render_page("inspection.html", self._content(title, settings))

    def _content(self, title: str, settings: Mapping[str, str]) -> dict[str, Any]:
        pictures = self.pictures
        errors = sum(len(f.errors) for f in self.findings)
        warnings = sum(len(f.warnings) for f in self.findings)
        first = next(iter(self.sets.values()), None)
        return {
            "title": title,
            "written": datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
            "errors": errors,
            "warnings": warnings,
            "findings": self.findings,
            "most_errors": MOST_ERRORS,
            "notes": self.notes,
            "sets": self.sets,
            "first": first,
            "numbers": self.numbers,
            "advice": self.advice,
            "areas": AREAS,
            "shortest": [length for length, _ in SHORTEST],
            "half": HALF,
            "input": self.cfg.INPUT,
            "levels": self._level_rows(),
            "anchors": self.anchors,
            "class_rows": self._class_rows(),
            "size_rows": self._size_rows(),
            "most_sizes": MOST_SIZES,
            "charts": dict.fromkeys(CHARTED, []) | self._charts(),
            "pictures": pictures,
            "most_pictures": PICTURES,
            "settings": settings,
        }

    def _level_rows(self) -> list[dict[str, Any]]:
        """Get the rows of the levels from which the heads pool objects."""
        if not self.levels:
            return []
        names, strides, limits = self.levels.names, self.levels.strides, self.levels.limits()
        rows = []
        for name, stride, low, high in zip(names, strides, (0, *limits), (*limits, None)):
            pixels = f"{low:g} to {high:g}" if high else f"from {low:g} on"
            cells = (
                f"{low / stride:g} to {high / stride:g}" if high else f"from {low / stride:g} on"
            )
            rows.append({"name": name, "stride": stride, "pixels": pixels, "cells": cells})
        return rows

    def _class_rows(self) -> list[dict[str, Any]]:
        """Get the rows of the classes, by decreasing frequency in the training set."""
        by_class: dict[tuple[int, str], dict[str, Any]] = {}
        for name, numbers in self.numbers.items():
            for index, row in enumerate(numbers["classes"]):
                by_class.setdefault((index, row["name"]), {})[name] = row
        rows = [{"name": name, "of": of} for (_, name), of in by_class.items()]
        first = next(iter(self.sets), "")
        return sorted(rows, key=lambda row: -row["of"].get(first, {"objects": 0})["objects"])

    def _size_rows(self) -> list[dict[str, Any]]:
        """Get the rows of the image sizes, the most common one first."""
        rows: dict[tuple[int, int], dict[str, Any]] = {}
        for name in self.sets:
            for size in self._image_sizes(name):
                row = rows.setdefault(size.file, {**asdict(size), "of": {}})
                row["of"][name] = size.images
        return sorted(rows.values(), key=lambda row: -sum(row["of"].values()))

    def _image_sizes(self, name: str) -> list[ImageSize]:
        """Get the image sizes of a data set, the most common one first."""
        files, inputs = self.sets[name].objects.sizes, self.resized[name].sizes
        pairs = Counter(map(tuple, np.hstack([files, inputs]).astype(int).tolist()))
        return [
            ImageSize((w, h), (new_w, new_h), new_w / w, count)
            for (h, w, new_h, new_w), count in sorted(pairs.items(), key=lambda p: (-p[1], p[0]))
        ]

    def _charts(self) -> dict[str, list[dict[str, Any]]]:
        """Draw charts by the section of the page, leaving out data sets without objects."""
        sets = [data for data in self.sets.values() if len(data.objects.boxes)]
        if not sets:
            return {}
        names = [data.name for data in sets]
        first = sets[0]
        alike = [data for data in sets if list(data.class_names) == list(first.class_names)]
        counts = {d.name: d.objects.per_class(len(d.class_names))[1] for d in alike}
        lengths = {data.name: data.objects.lengths for data in sets}
        inputs = {name: self.resized[name].lengths for name in names}
        ratios = {data.name: data.objects.ratios for data in sets}
        drawn = {
            "classes": Chart.draw(
                "Objects of each class, on a logarithmic scale",
                draw_classes,
                counts,
                first.class_names,
            ),
            "sizes": Chart.draw(
                "Sizes of the objects, as shares of each data set's objects",
                draw_sizes,
                lengths,
                inputs,
                self.levels,
            ),
            "shapes": Chart.draw(
                "Height over width of the objects, as shares of each data set's objects",
                draw_ratios,
                ratios,
                self.anchors,
            ),
        }
        if self.anchors:
            drawn["anchors"] = Chart.draw(
                "Share of the objects whose best anchor has at least this IoU",
                draw_overlaps,
                {name: self.overlaps[name] for name in names},
                self.anchors.threshold,
            )
        return {section: [chart.embed(f"figure-{section}")] for section, chart in drawn.items()}

    @cached_property
    def pictures(self) -> dict[str, dict[str, Any]]:
        """The images by the name of the data set.

        An unreadable one that no check has reported is added to the findings as an error.
        """
        shown = {}
        for data in self.sets.values():
            if data.pictured:
                masks = self.cfg.MODEL.MASK_ON
                try:
                    drawn, faults = draw_sample(data.images, data.objects, data.class_names, masks)
                except RuntimeError as error:  # OpenCV is missing
                    drawn, faults = [], {}
                    self.notes.append(f"No pictures are shown: {error}")
                shown[data.name] = {"drawn": drawn, "faults": list(faults.values())}
                told = [sentence for found in self.findings for sentence in found.errors]
                new = [f for path, f in faults.items() if not any(path in e for e in told)]
                if new:
                    self.findings.append(Findings(f"pictures of {data.name}", new))
        return shown


def _quantiles(values: np.ndarray) -> dict[str, float]:
    if not len(values):
        return {}
    return {f"{q:g}": float(v) for q, v in zip(QUANTILES, np.quantile(values, QUANTILES))}
