"""The charts of datasets: their classes, and the sizes and shapes of their objects."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import cycle

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from ..analysis.anchor_fit import HALF, Anchors, Levels
from ..analysis.style import BASELINE, FOUND, GRAY, INK, styled
from ..data.objects import AREAS, LARGE, SMALL
from .fonts import find_families
from .themes import NARROW, WIDE

MOST_NAMED = 40  # maximum number of classes with a line each
LOOKS = ((FOUND, "-", "D"), (BASELINE, "--", "s"), (GRAY, "-.", "o"), (INK, ":", "^"))
HEIGHT = 3.2  # of a panel, in inches

Numbers = Mapping[str, np.ndarray]  # by the names of datasets


def draw_classes(counts: Numbers, class_names: Sequence[str], narrow: bool = False) -> Figure:
    """Draw the number of objects of each class, sorted by that of the first dataset.

    Args:
        counts: counts of shape (classes,) by dataset.
        class_names: names of the classes.
        narrow: use a layout for phones.
    """
    order = np.argsort(-next(iter(counts.values())), kind="stable")
    named = len(class_names) <= MOST_NAMED
    with styled():
        height = 0.26 * len(class_names) + 1.5 if named else HEIGHT + 0.8
        figure, [axes] = _panels(1, narrow, height)
        places = np.arange(len(order))
        for (name, numbers), (color, line, marker) in zip(counts.items(), cycle(LOOKS)):
            if named:
                values = numbers[order], places
                axes.plot(*values, marker, color=color, ms=7, alpha=0.9, label=name)
            else:
                axes.plot(places + 1, numbers[order], line, color=color, lw=1.8, label=name)
        along = axes.xaxis if named else axes.yaxis
        (axes.set_xscale if named else axes.set_yscale)("symlog", linthresh=1)
        along.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        along.set_minor_locator(NullLocator())
        along.set_label_text("objects")
        if named:
            axes.set_xlim(left=-0.2)
            axes.set_ylim(len(order) - 0.4, -0.6)
            shown = [_shorten(class_names[i]) for i in order]
            axes.set_yticks(places, labels=shown)
            families = find_families(tuple(shown))
            for label in axes.get_yticklabels():
                label.set_fontfamily(families)
                label.set_parse_math(False)
        else:
            axes.set_ylim(bottom=-0.2)
            axes.set_xlabel("classes, the most frequent one first")
        _legend(figure, axes, narrow)
    return figure


def draw_sizes(
    original: Numbers, resized: Numbers, levels: Levels | None, narrow: bool = False
) -> Figure:
    """Draw the sizes of objects in the files and in the detector's input.

    Args:
        original, resized: square root of each object's area in pixels, with shape (objects,), by
            dataset.
        levels: levels from which the detector pools its objects.
        narrow: use a layout for phones.
    """
    with styled():
        figure, panels = _panels(2, narrow)
        everything = np.concatenate([*original.values(), *resized.values(), [8.0, 128.0]])
        edges = 2 ** np.arange(
            np.floor(2 * np.log2(everything.min())) / 2,
            np.ceil(2 * np.log2(everything.max())) / 2 + 0.6,
            0.5,
        )
        for panel, numbers in zip(panels, (original, resized)):
            _histograms(panel, numbers, edges, lambda value, _: f"{value:g}")
            panel.set_xlabel("square root of the area, pixels")
        panels[0].set_title("in the files, with COCO's classes")
        _divide(panels[0], [SMALL**0.5, LARGE**0.5], AREAS)
        panels[1].set_title("in the detector's input")
        if levels and levels.limits():
            panels[1].set_title("in the detector's input, with its levels")
            _divide(panels[1], levels.limits(), levels.names)
        _legend(figure, panels[0], narrow)
    return figure


def draw_ratios(ratios: Numbers, anchors: Anchors | None, narrow: bool = False) -> Figure:
    """Draw the ratios of height to width of objects.

    Args:
        ratios: ratios of shape (objects,) by dataset.
        anchors: anchors, whose ratios are drawn too.
        narrow: use a layout for phones.
    """
    with styled():
        figure, [axes] = _panels(1, narrow)
        everything = np.concatenate([*ratios.values(), [0.45, 2.2]]).clip(1 / 64, 64)
        edges = 2 ** np.arange(
            np.floor(4 * np.log2(everything.min())) / 4,
            np.ceil(4 * np.log2(everything.max())) / 4 + 0.3,
            0.25,
        )
        clipped = {n: values.clip(edges[0], edges[-1]) for n, values in ratios.items()}
        _histograms(axes, clipped, edges, _as_ratio)
        for ratio in sorted({r for level in anchors.ratios for r in level}) if anchors else ():
            axes.axvline(ratio, color=INK, lw=1, ls=":")
        if anchors:
            axes.plot([], [], color=INK, lw=1, ls=":", label="anchors")
        axes.set_xlabel("height : width")
        _legend(figure, axes, narrow)
    return figure


def draw_overlaps(overlaps: Numbers, threshold: float, narrow: bool = False) -> Figure:
    """Draw the share of objects whose best anchor has an IoU above x.

    Args:
        overlaps: IoU with the best anchor, with shape (objects,), by dataset.
        threshold: threshold of the detector.
        narrow: use a layout for phones.
    """
    with styled():
        figure, [axes] = _panels(1, narrow)
        for (name, values), (color, line, _) in zip(overlaps.items(), cycle(LOOKS)):
            places = np.linspace(0, 1, 201)
            above = 1 - np.searchsorted(np.sort(values), places) / max(len(values), 1)
            axes.plot(places, 100 * above, line, color=color, lw=1.8, label=name)
        for place in sorted({HALF, threshold}):
            axes.axvline(place, color=INK, lw=1, ls=":")
        axes.set_xlabel("IoU with the best anchor")
        axes.set_ylabel("% of the objects")
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 104)
        _legend(figure, axes, narrow)
    return figure


def _panels(count: int, narrow: bool, height: float = HEIGHT) -> tuple[Figure, list[Axes]]:
    """Create panels side by side, or one below the other for phones."""
    rows, columns = (count, 1) if narrow else (1, count)
    size = (NARROW if narrow else WIDE, height * rows + 0.5 * (count > 1))
    figure = Figure(figsize=size, layout="constrained")
    return figure, [*figure.subplots(rows, columns, squeeze=False).flat]


def _histograms(
    axes: Axes, numbers: Numbers, edges: np.ndarray, write: Callable[[float, int], str]
) -> None:
    """Draw shares in percent over a logarithmic axis."""
    for (name, values), (color, line, _) in zip(numbers.items(), cycle(LOOKS)):
        counts, _ = np.histogram(values, edges)
        shares = 100 * counts / max(len(values), 1)
        axes.stairs(shares, edges, color=color, ls=line, lw=1.8, label=name)
    axes.set_xscale("log", base=2)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(0, axes.get_ylim()[1] * 1.12)
    axes.xaxis.set_major_formatter(FuncFormatter(write))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylabel("% of the objects")


def _divide(axes: Axes, limits: Sequence[float], names: Sequence[str]) -> None:
    """Name the parts of a logarithmic axis between some limits, where there is room."""
    low, high = axes.get_xlim()
    ends = [low, *np.clip(limits, low, high), high]
    for limit in limits:
        if low < limit < high:
            axes.axvline(limit, color=INK, lw=1, ls=":")
    for name, start, end in zip(names, ends, ends[1:]):
        if end / start > 1.5:
            axes.annotate(
                name,
                (np.sqrt(start * end), 0.99),
                xycoords=("data", "axes fraction"),
                ha="center",
                va="top",
                size=9,
            )


def _as_ratio(value: float, _: int) -> str:
    return f"{value:g} : 1" if value >= 1 else f"1 : {1 / value:g}"


def _shorten(name: str, most: int = 24) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _legend(figure: Figure, axes: Axes, narrow: bool) -> None:
    handles, labels = axes.get_legend_handles_labels()
    columns = 1 if narrow else min(len(labels), 6)
    legend = figure.legend(handles, labels, loc="outside upper center", ncols=columns)
    families = find_families(tuple(labels))
    for text in legend.get_texts():
        text.set_fontfamily(families)
        text.set_parse_math(False)
