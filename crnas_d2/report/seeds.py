"""The pairs of trainings behind a verdict, as a table and as a figure."""

from __future__ import annotations

from collections.abc import Iterator

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..analysis.style import BASELINE, FOUND, GRAY, INK, styled
from ..evaluation.paired_comparison import PairedComparison
from ..procedure.outcome import Outcome
from .tables import format_change
from .themes import NARROW, Chart

Interval = tuple[float, float]

WIDTH, HEIGHT = 8.6, 2.9  # in inches


def seeds_table(outcome: Outcome) -> list[dict[str, str]]:
    """Get rows with the metric of both networks for each seed, and their means.

    If the baseline itself was found, only its column is of use. The table is empty without a comparison.
    """
    comparison = outcome.comparison
    if not comparison:
        return []
    differences = [format_change(value, 2) for value in comparison.differences]
    rows = [
        {"name": f"seed {seed}", "baseline": f"{before:.2f}", "found": f"{after:.2f}"}
        for seed, before, after in zip(
            outcome.baseline.seeds, comparison.baseline, comparison.found, strict=True
        )
    ]
    for row, difference in zip(rows, differences, strict=True):
        row["difference"] = difference
    if len(rows) == 1:
        return rows
    rows.append(
        {
            "name": "mean",
            "baseline": f"{comparison.baseline_mean:.2f}",
            "found": f"{comparison.found_mean:.2f}",
            "difference": format_change(comparison.mean, 2),
        }
    )
    deviations = {"baseline": comparison.baseline_sd, "found": comparison.found_sd}
    texts = {name: f"{value:.2f}" for name, value in deviations.items()}
    return [*rows, {"name": "standard deviation", **texts, "difference": ""}]


def describe_difference(comparison: PairedComparison) -> Iterator[tuple[str, str]]:
    """Iterate over names and formatted numbers that describe found minus baseline."""
    yield "mean", f"{format_change(comparison.mean, 2)} AP"
    for name, interval in comparison.intervals.items():
        yield f"95 % interval, had other {name} been drawn", format_interval(interval)
    seeds = len(comparison.differences)
    ties = f", {comparison.ties} with no difference" if comparison.ties else ""
    yield "seeds with which found won", f"{comparison.wins} of {seeds}{ties}"
    yield "sign-flip p that found is no better", f"{comparison.p_better:.3f}"
    yield "sign-flip p that found is no worse", f"{comparison.p_worse:.3f}"
    if comparison.smallest_gain is not None:
        yield "smallest gain that 4 of 5 such runs would show", f"{comparison.smallest_gain:.2f} AP"


def format_interval(interval: Interval) -> str:
    return " to ".join(format_change(end, 2) for end in interval)


def chart_seeds(comparison: PairedComparison, metric: str) -> list[Chart]:
    """Draw :func:`draw_seeds` with a caption."""
    seeds = len(comparison.differences)
    known = " and ".join(f"other {name}" for name in list(comparison.intervals)[-2:])
    parts = f", with its 95 % interval for {known}" if known else ""
    lines = "of one seed" if seeds == 1 else f"a line for each of {seeds} seeds"
    caption = f"Left: {metric} of both networks, {lines}. Right: the difference{parts}"
    return [Chart.draw(caption, draw_seeds, comparison, metric)]


def draw_seeds(comparison: PairedComparison, metric: str, narrow: bool = False) -> Figure:
    """Draw both networks with each seed, and their difference with its intervals.

    Args:
        comparison: comparison of the networks.
        metric: metric in percent, such as "bbox/AP".
        narrow: use a layout for phones, with the two panels one below the other.
    """
    with styled():
        size = (NARROW, 1.8 * HEIGHT) if narrow else (WIDTH, HEIGHT)
        figure = Figure(figsize=size, layout="constrained")
        pairs, differences = (
            figure.subplots(2) if narrow else figure.subplots(1, 2, width_ratios=(2, 3))
        )
        _draw_pairs(pairs, comparison)
        pairs.set_ylabel(f"{metric}, %")
        _draw_differences(differences, comparison)
        differences.set_xlabel(f"found minus baseline, {metric}")
    return figure


def _draw_pairs(axes: Axes, comparison: PairedComparison) -> None:
    columns = {
        "baseline": (comparison.baseline, comparison.baseline_mean, BASELINE),
        "found": (comparison.found, comparison.found_mean, FOUND),
    }
    for pair in zip(comparison.baseline, comparison.found, strict=True):
        axes.plot((0, 1), pair, color=GRAY, lw=0.9, zorder=1)
    for x, (values, mean, color) in enumerate(columns.values()):
        axes.plot([x] * len(values), values, "o", color=color, ms=7, mec="white", zorder=2)
        if len(values) > 1:
            place, label = (-0.18, "mean") if x == 0 else (1.18, "")
            axes.plot(place, mean, "_", color=INK, ms=16, mew=2.2, zorder=2, label=label)
    axes.set_xticks((0, 1), labels=columns)
    axes.set_xlim(-0.45, 1.45)
    axes.margins(y=0.12)
    axes.grid(axis="x", visible=False)
    if len(comparison.differences) > 1:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.14), borderpad=0, fontsize=9)


def _draw_differences(axes: Axes, comparison: PairedComparison) -> None:
    intervals = comparison.intervals
    rows = ["each seed", *intervals]
    axes.axvline(0, color=GRAY, lw=1, ls="--", zorder=1)
    dots = comparison.differences
    axes.plot(dots, [0] * len(dots), "o", color=FOUND, ms=7, mec="white", zorder=2)
    for row, (low, high) in enumerate(intervals.values(), start=1):
        width = 3 if row == 1 else 1.6
        axes.plot((low, high), (row, row), "-|", color=INK, lw=width, ms=9, mew=width, zorder=2)
        axes.plot(comparison.mean, row, "o", color=INK, ms=6, mec="white", zorder=3)
    labels = [f"other {name}" if name in intervals else name for name in rows]
    axes.set_yticks(range(len(rows)), labels=[label.replace(" and", "\nand") for label in labels])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.margins(x=0.1)
    axes.locator_params(axis="x", nbins=6)
    axes.grid(axis="y", visible=False)
