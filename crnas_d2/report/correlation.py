"""The rank correlation between a search and individual trainings of its stage codes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import Any

import scipy
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..analysis.style import FOUND, INK, VERMILION, styled
from ..architecture import Code, format_code
from .labels import place_labels, settle_layout
from .plots import draw_marker, seeds_text
from .points import Point, network_point
from .runs import Run, StageRanking, group_seeds


@dataclass(frozen=True)
class RankCorrelation:
    """The correlation of a search's ranking with individually trained detectors.

    Attributes:
        ranking: ranking of the search.
        points: AP in the search and of individual trainings, of the codes that have both, in the
            order of the search's ranking.
        tau: Kendall's tau-b between these APs.
        p: two-sided p-value for no correlation.
        unmatched: runs whose code the search did not rank.
    """

    ranking: StageRanking
    points: tuple[Point, ...]
    tau: float
    p: float
    unmatched: tuple[Run, ...]

    @property
    def choice(self) -> Code:
        """The best code of the search."""
        return next(iter(self.ranking.scores))


def correlate(ranking: StageRanking, runs: Sequence[Run]) -> RankCorrelation:
    """Match detectors with the scores of a search by their stage codes, averaging over seeds.

    Raises:
        ValueError: fewer than two codes have both, two detectors with the same code differ in more
            than the seed, one has dilations, or one lacks the metric of the search.
    """
    by_code: dict[Code, list[Run]] = {}
    for group in group_seeds(runs):
        architecture = group[0].architecture
        if any(architecture.operation_code):
            raise ValueError(f"{group[0].folder} has dilations, which no stage search ranks")
        other = by_code.setdefault(architecture.stage_code, group)
        if other is not group:
            raise ValueError(
                f"{other[0].folder} and {group[0].folder} have stage code {format_code(architecture.stage_code)} and "
                "differ in more than the seed; expected one of them"
            )
    points = tuple(
        network_point(
            by_code[code][0], [score], [run.metric(ranking.metric) for run in by_code[code]]
        )
        for code, score in ranking.scores.items()
        if code in by_code
    )
    if len(points) < 2:
        raise ValueError(
            f"{ranking.folder} ranks {len(points)} of the {len(by_code)} stage codes of the "
            "detectors; expected two or more"
        )
    tau, p = scipy.stats.kendalltau([point.x for point in points], [point.y for point in points])
    unmatched = [run for c, group in by_code.items() if c not in ranking.scores for run in group]
    return RankCorrelation(ranking, points, float(tau), float(p), tuple(unmatched))


def draw_correlations(correlations: Sequence[RankCorrelation], dataset: str) -> Figure:
    """Draw a panel for each search: AP of the stage codes in it against that of single trainings.

    Args:
        correlations: one for each search.
        dataset: dataset that the detectors were tested on.
    """
    with styled():
        columns = min(2, len(correlations))
        rows = -(-len(correlations) // columns)
        figure = Figure(figsize=(5 * columns, 4.8 * rows), layout="constrained")
        panels = [figure.add_subplot(rows, columns, i + 1) for i in range(len(correlations))]
        for axes, found in zip(panels, correlations):
            _draw_correlation(axes, found, dataset)
        marker: dict[str, Any] = {"mec": INK, "mew": 0.6}
        handles = [
            Line2D([], [], ls="", marker="o", color=FOUND, label="stage code", **marker),
            Line2D(
                [],
                [],
                ls=":",
                marker="*",
                ms=13,
                color=VERMILION,
                label="choice of the search",
                **marker,
            ),
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=9)
        settle_layout(figure)
        for axes, found in zip(panels, correlations):
            place_labels(axes, [(p.label, p.x, p.y) for p in found.points])
    return figure


def _draw_correlation(axes: Axes, found: RankCorrelation, dataset: str) -> None:
    ranking = found.ranking
    axes.margins(0.12)
    choice = format_code(found.choice)
    for point in found.points:
        chosen = point.label == choice
        style = ("*", VERMILION, 13) if chosen else ("o", FOUND)
        draw_marker(axes, point, *style)
    axes.axvline(ranking.scores[found.choice], color=VERMILION, ls=":", lw=1.2, zorder=1)
    axes.set_xlabel(f"{ranking.metric} in the search, {ranking.dataset} (%)")
    axes.set_ylabel(f"{ranking.metric} trained alone, {dataset} (%)")
    axes.set_title(
        f"{fill(ranking.folder, 50)}\nKendall's tau {found.tau:.2f} (p {found.p:.2f}); "
        f"{seeds_text(found.points)}",
        loc="left",
        size=9,
    )
