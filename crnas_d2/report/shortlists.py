"""A short list: its individually trained candidates next to the ranking that they come from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..analysis.style import BASELINE, FOUND, GRAY, INK, styled
from ..architecture import Code, format_code
from ..evaluation.rank_agreement import RankAgreement, agree_in_rung
from ..procedure.checkpoint_agreement import read_taus
from ..search.ranking import is_complete
from ..search.shortlist_result import RungResult, ShortlistResult
from ..search.shortlisting import Candidate
from .themes import NARROW, WIDE, Chart

PANEL, HEIGHT = 3.6, 3.3  # in inches
ORIGINS = {  # marker, color and size
    "baseline": ("s", BASELINE, 8),
    "ranking": ("o", GRAY, 7),
    "random": ("^", GRAY, 8),
}
CHOICE = ("D", FOUND, 8)


@dataclass(frozen=True)
class Shortlist:
    """A finished short list.

    Attributes:
        result: its candidates, rungs and winner.
        taus: pairs of the supernet's checkpoints with Kendall's tau between their scores of the
            candidates. None if it is undefined.
    """

    result: ShortlistResult
    taus: Sequence[Sequence[Any]] = ()

    @classmethod
    def read(cls, folder: str) -> Shortlist:
        """Read a short list.

        Raises:
            OSError, ValueError: it has not finished, or its result is damaged.
        """
        return cls(ShortlistResult.read(folder), read_taus(folder))


def shortlist_section(shortlist: Shortlist) -> dict[str, Any]:
    """Get the tables of a short list for a template."""
    result = shortlist.result
    seeds = [f"seed {seed}" for seed in result.seeds]
    return {
        "title": f"Short list of {result.of} codes",
        "code": f"{result.of} code",
        "metric": result.metric,
        "rungs": [
            {"title": f"rung {number}, {rung.iterations:,} iterations", "columns": [*seeds, "mean"]}
            for number, rung in enumerate(result.rungs, start=1)
        ],
        "rows": [_row(result, candidate) for candidate in result.candidates],
        "agreements": [
            _agreement_row(number, found)
            for number, rung in enumerate(result.rungs, start=1)
            if (found := agree_in_rung(result, rung))
        ],
        "checkpoints": [[a, b, _format_tau(tau)] for a, b, tau in shortlist.taus],
    }


def _row(result: ShortlistResult, candidate: Candidate) -> dict[str, Any]:
    code, score = candidate.code, candidate.score
    cells = []
    for rung in result.rungs:
        if code in rung.scores:
            values = [*rung.scores[code], rung.means[code]]
            cells += ["failed" if value is None else f"{value:.2f}" for value in values]
        else:
            cells += [""] * (len(result.seeds) + 1)
    return {
        "code": format_code(code),
        "origin": candidate.origin,
        "rank": "" if candidate.rank is None else str(candidate.rank),
        "score": "" if score is None else f"{score:.2f}",
        "cells": cells,
        "until": "wins" if code == result.winner else _last_rung(result, code),
        "won": code == result.winner,
    }


def _last_rung(result: ShortlistResult, code: Code) -> str:
    numbers = [n for n, rung in enumerate(result.rungs, start=1) if code in rung.scores]
    return f"rung {numbers[-1]}" if numbers else ""


def _agreement_row(number: int, found: RankAgreement) -> list[str]:
    taus = map(_format_tau, (found.tau, found.highest_tau))
    codes = (format_code(code) for code in (found.choice, found.best))
    return [f"rung {number}", str(found.codes), *taus, *codes, f"{found.regret:.2f}"]


def _format_tau(tau: float | None) -> str:
    return "-" if tau is None else f"{tau:.2f}"


def chart_shortlist(result: ShortlistResult) -> list[Chart]:
    """Draw :func:`draw_shortlist` with a caption. Empty if nothing was trained."""
    if not result.rungs:
        return []
    caption = (
        f"{result.metric} on archval of the codes trained alone, against the score that "
        f"{result.search} has of them. Small dots are the seeds; a line across is a code without a "
        "score"
    )
    return [Chart.draw(caption, draw_shortlist, result)]


def draw_shortlist(result: ShortlistResult, narrow: bool = False) -> Figure:
    """Draw the AP of single trainings against the supernet's score, with a panel for each rung."""
    count = len(result.rungs)
    with styled():
        if narrow:
            size, shape = (NARROW, HEIGHT * count + 0.9), (count, 1)
        else:
            size, shape = (min(WIDE, max(PANEL * count, 5.5)), HEIGHT), (1, count)
        figure = Figure(figsize=size, layout="constrained")
        panels = figure.subplots(*shape, squeeze=False).flat
        for number, (axes, rung) in enumerate(zip(panels, result.rungs, strict=True), start=1):
            _draw_rung(axes, result, rung)
            axes.set_title(_panel_title(number, rung, agree_in_rung(result, rung)), size=9)
            axes.set_xlabel(f"{result.metric} with the supernet's weights, %", size=9)
            axes.set_ylabel(f"{result.metric} alone, %", size=9)
        figure.legend(
            handles=list(_handles(result)), loc="outside upper center", ncols=2 if narrow else 4
        )
    return figure


def _handles(result: ShortlistResult) -> Iterator[Any]:
    axes = Figure().subplots()
    origins = {c.origin for c in result.candidates if c.code != result.winner}
    for origin, (marker, color, size) in ORIGINS.items():
        if origin in origins:
            yield from axes.plot([], [], marker, color=color, ms=size, label=origin)
    marker, color, size = CHOICE
    yield from axes.plot(
        [], [], marker, color=color, ms=size, label=f"wins: {format_code(result.winner)}"
    )


def _draw_rung(axes: Axes, result: ShortlistResult, rung: RungResult) -> None:
    for candidate in result.candidates:
        code, seeds = candidate.code, rung.scores.get(candidate.code)
        if seeds is None or not is_complete(seeds):
            continue
        mean = fmean(seeds)
        marker, color, size = CHOICE if code == result.winner else ORIGINS[candidate.origin]
        if candidate.score is None:  # it has no x coordinate
            axes.axhline(mean, color=color, ls="--", lw=1.4, zorder=1)
            continue
        xs = [candidate.score] * len(seeds)
        axes.plot(xs, seeds, "-", color=color, lw=0.8, marker=".", ms=5, zorder=1)
        axes.plot(candidate.score, mean, marker, color=color, ms=size, mec="white", zorder=2)
    axes.margins(0.12)
    axes.tick_params(labelsize=8, labelcolor=INK)


def _panel_title(number: int, rung: RungResult, found: RankAgreement | None) -> str:
    title = f"rung {number}, {rung.iterations:,} iterations"
    if found is None:
        return title
    tau = "no tau" if found.tau is None else f"tau {found.tau:.2f}"
    if found.highest_tau is not None:
        tau += f" (highest expected: {found.highest_tau:.2f})"
    return f"{title}\n{tau}, regret {found.regret:.2f} AP"
