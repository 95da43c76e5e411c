"""FLOPs and accuracy against AP (figures 5 and 6), measured and as printed in the paper."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..analysis.flops import INPUT_SIZE, PROPOSALS
from ..analysis.style import GRAY, INK, styled
from .labels import place_labels, settle_layout
from .points import KINDS, Point


def draw_flops(points: Sequence[Point], dataset: str) -> Figure:
    """Draw multiply-adds against AP, as in figure 5.

    Args:
        points: points of :func:`flops_points` and :func:`paper_flops_points`.
        dataset: dataset of the APs.
    """
    height, width = INPUT_SIZE
    x_label = f"GMACs of our config at {height}x{width}, {PROPOSALS} proposals (measured)"
    return _draw_points(points, x_label, f"box AP on {dataset} (%)")


def draw_accuracy(points: Sequence[Point], classification: str, dataset: str) -> Figure:
    """Draw top-1 accuracy against AP, as in figure 6.

    Args:
        points: points of :func:`accuracy_points` and :func:`paper_accuracy_points`.
        classification, dataset: datasets of the accuracies and of the APs.
    """
    return _draw_points(
        points, f"top-1 accuracy on {classification} (%)", f"box AP on {dataset} (%)"
    )


def _draw_points(points: Sequence[Point], x_label: str, y_label: str) -> Figure:
    with styled():
        figure = Figure(figsize=(7, 5), layout="constrained")
        axes = figure.add_subplot(xlabel=x_label, ylabel=y_label)
        axes.margins(0.12)
        for line in dict.fromkeys((p.series, p.kind) for p in points if p.series):
            ends = sorted((p.x, p.y) for p in points if (p.series, p.kind) == line)
            kind = KINDS[line[1]]
            axes.plot(*zip(*ends), kind.line, color=kind.color, lw=1.2, zorder=1)
        for point in points:
            kind = KINDS[point.kind]
            draw_marker(axes, point, kind.marker, kind.color)
        figure.legend(handles=_handles(points), loc="outside lower center", ncols=2, fontsize=9)
        measured = [point for point in points if not point.in_paper]
        title = seeds_text(measured) if measured else "All APs are the paper's."
        axes.set_title(title, loc="left", size=9)
        # A line is labeled once with the name of its network, at the baseline.
        labels = [(p.label, p.x, p.y) for p in points if not (p.series and p.kind)]
        settle_layout(figure)
        place_labels(axes, labels)
    return figure


def draw_marker(axes: Axes, point: Point, marker: str, color: str, size: float = 7) -> None:
    """Draw the mean of a point's seeds with bars for their range, hollow for the paper's."""
    x_range, y_range = (
        [[mean(values) - min(values)], [max(values) - mean(values)]] if len(values) > 1 else None
        for values in (point.xs, point.ys)
    )
    axes.errorbar(
        point.x,
        point.y,
        xerr=x_range,
        yerr=y_range,
        fmt=marker,
        ms=size,
        mfc="white" if point.in_paper else color,
        mec=color if point.in_paper else INK,
        mew=1.5 if point.in_paper else 0.6,
        ecolor=GRAY,
        capsize=3,
        zorder=2 if point.in_paper else 3,
    )


def _handles(points: Sequence[Point]) -> list[Line2D]:
    has_lines = any(point.series for point in points)
    is_measured = any(not point.in_paper for point in points)
    handles = [
        Line2D(
            [],
            [],
            ls=kind.line if has_lines else "",
            marker=kind.marker,
            color=kind.color,
            mfc=kind.color if is_measured else "white",
            label=kind.label,
        )
        for key, kind in KINDS.items()
        if any(point.kind == key for point in points)
    ]
    marker: dict[str, Any] = {"ls": "", "marker": "p", "mec": GRAY}
    if is_measured:
        handles.append(Line2D([], [], mfc=GRAY, label="filled: measured", **marker))
    if any(point.in_paper for point in points):
        label = "hollow: paper, COCO minival (not measured here)"
        handles.append(Line2D([], [], mfc="white", label=label, **marker))
    return handles


def seeds_text(points: Sequence[Point]) -> str:
    """Describe the numbers of networks and seeds behind the points."""
    counts = sorted({len(point.ys) for point in points})
    seeds = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    text = f"{len(points)} network{'s' if len(points) > 1 else ''}, each of {seeds} seed"
    text += "" if counts == [1] else "s"
    return text + ("; mean and range" if counts[-1] > 1 else "")
