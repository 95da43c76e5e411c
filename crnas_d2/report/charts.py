"""The charts of a search: scores against choices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..analysis.style import BASELINE, DILATION_COLORS, FOUND, GRAY, INK, styled
from ..architecture import Code, format_code, get_family
from ..search.ranking import ScoredCode
from ..spaces import OperationSpace, StageSpace
from .themes import NARROW, WIDE

# In inches
PANEL, WIDEST_PANEL = 1.4, 2.4
CHOICE = 0.2  # width in a panel
SIDE = 0.8  # for everything next to the panels
SPREAD = 0.9  # width in blocks of a block's survivors, best first
FOUND_LINE: Mapping[str, Any] = MappingProxyType({"color": FOUND, "lw": 2.2})
OTHER_LINE: Mapping[str, Any] = MappingProxyType({"color": GRAY, "lw": 0.8})


def draw_depths(
    space: StageSpace,
    scores: Mapping[Code, float],
    found: Code,
    baseline: Code,
    metric: str,
    narrow: bool = False,
) -> Figure:
    """Draw the score of each stage code against the number of blocks of each stage.

    Args:
        space: space of the codes. Stages with a single choice have no panel.
        scores: scores by stage code.
        found: first code of the ranking, which a short list may not select.
        baseline: stage code of the baseline, which may have no score.
        metric: name of the score, which is in percent.
        narrow: use a layout for phones.
    """
    stages = [i for i, choices in enumerate(space.choices) if len(choices) > 1]
    names = get_family(space.family).stages
    most = max(len(space.choices[stage]) for stage in stages)
    room = (NARROW if narrow else WIDE) - SIDE
    columns = min(len(stages), max(1, int(room / max(PANEL, CHOICE * most))))
    rows = -(-len(stages) // columns)
    with styled():
        panel = min(room / columns, max(WIDEST_PANEL, CHOICE * most))
        size = (panel * columns + SIDE, 2.4 * rows + (1.1 if narrow else 0.7))
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
        for panel, stage in zip(grid.flat, stages):
            depths = sorted({code[stage] for code in scores})
            place = {depth: x for x, depth in enumerate(depths)}
            panel.plot([place[c[stage]] for c in scores], list(scores.values()), ".", color=GRAY)
            for depth, x in place.items():
                same = [score for code, score in scores.items() if code[stage] == depth]
                panel.plot(x, np.mean(same), "_", color=INK, ms=12, mew=2)
            for code, color, marker in ((baseline, BASELINE, "s"), (found, FOUND, "D")):
                if code in scores:
                    x, score = place[code[stage]], scores[code]
                    panel.plot(x, score, marker, color=color, ms=8, mec="white")
            panel.set_title(names[stage])
            panel.set_xlabel("blocks")
            panel.set_xticks(list(place.values()), labels=depths)
            panel.margins(x=0.15)
        for panel in grid.flat[len(stages) :]:
            panel.axis("off")
        for panel in grid[:, 0]:
            panel.set_ylabel(f"{metric}, %")
        key = grid[0, 0]
        key.plot([], [], ".", color=GRAY, label="a stage code")
        key.plot([], [], "_", color=INK, ms=12, mew=2, label="mean")
        if baseline in scores:
            key.plot([], [], "s", color=BASELINE, ms=8, label=f"baseline {format_code(baseline)}")
        key.plot([], [], "D", color=FOUND, ms=8, label=f"first {format_code(found)}")
        figure.legend(loc="outside upper center", ncols=1 if narrow else 4)
    return figure


def draw_dilations(
    space: OperationSpace,
    scores: Mapping[Code, float],
    found: Code,
    metric: str,
    narrow: bool = False,
) -> Figure:
    """Draw the mean score of the operation codes with each dilation in each block.

    Args:
        space: space of the codes.
        scores: scores by whole operation code.
        found: first code of the ranking, which a short list may not select.
        metric: name of the score, which is in percent.
        narrow: use a layout for phones, with the blocks from top to bottom.
    """
    with styled():
        figure, axes = _blocks(space, 3.6, narrow)
        for number, unit in enumerate(space.units, start=1):
            for operation in unit.choices:
                with_it = [s for code, s in scores.items() if code[unit.index] == operation]
                if with_it:
                    chosen = found[unit.index] == operation
                    place = _place(number, float(np.mean(with_it)), narrow)
                    _draw_block(axes, place, operation, chosen)
        _finish_blocks(
            figure, axes, len(space.units), f"mean {metric}, %", "framed: of the first", narrow
        )
    return figure


def draw_greedy_path(
    space: OperationSpace,
    steps: Sequence[Mapping[Code, float]],
    survivors: Sequence[Sequence[ScoredCode]],
    metric: str,
    narrow: bool = False,
) -> Figure:
    """Draw the greedy operation search (Algorithm 1), block by block.

    Args:
        space: space of the codes.
        steps: for each step, the score of each partial code that it evaluated.
        survivors: for each step, the partial codes that it kept, best first.
        metric: name of the score, which is in percent.
        narrow: use a layout for phones, with the blocks from top to bottom.
    """
    best = survivors[-1][0].code
    with styled():
        figure, axes = _blocks(space, 4.2, narrow)
        before: dict[Code, tuple[float, float]] = {}
        for number, (scores, kept) in enumerate(zip(steps, survivors), start=1):
            rest = [score for code, score in scores.items() if code not in dict(kept)]
            axes.plot(*_place([number] * len(rest), rest, narrow), "x", color=GRAY, ms=4)
            places = {
                code: _place(number + SPREAD * ((rank + 0.5) / len(kept) - 0.5), score, narrow)
                for rank, (code, score) in enumerate(kept)
            }
            for code, place in places.items():
                found = best[: len(code)] == code
                _draw_block(axes, place, code[-1], found)
                for parent in (p for p in before if code[: len(p)] == p):
                    (x, y), style = zip(before[parent], place), FOUND_LINE if found else OTHER_LINE
                    axes.plot(x, y, zorder=1, **style)
            before = places
        axes.plot([], [], "x", color=GRAY, ms=4, label="not kept")
        chosen = "framed, bold line: the first"
        _finish_blocks(figure, axes, len(space.units), f"{metric}, %", chosen, narrow)
    return figure


def _blocks(space: OperationSpace, height: float, narrow: bool) -> tuple[Figure, Axes]:
    """Create a figure with room for each block."""
    blocks = len(space.units)
    size = (NARROW, 0.45 * blocks + 2) if narrow else (max(6.0, 0.6 * blocks + 1.5), height)
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots()


def _place(number: Any, score: Any, narrow: bool) -> tuple[Any, Any]:
    """Get the coordinates of a score of a block. Blocks are arranged to the right, or downwards."""
    return (score, number) if narrow else (number, score)


def _draw_block(axes: Axes, place: tuple[float, float], operation: int, chosen: bool) -> None:
    """Draw a dot with the dilation in it."""
    axes.plot(
        *place,
        "o",
        color=DILATION_COLORS[operation + 1],
        ms=13,
        mec=FOUND if chosen else GRAY,
        mew=2.4 if chosen else 0.8,
        zorder=3 if chosen else 2,
    )
    axes.annotate(
        str(operation + 1),
        place,
        ha="center",
        va="center",
        size=8,
        color="white" if operation == 2 else INK,
        zorder=4,
    )


def _finish_blocks(
    figure: Figure, axes: Axes, blocks: int, score: str, chosen: str, narrow: bool
) -> None:
    along, across = (axes.yaxis, axes.xaxis) if narrow else (axes.xaxis, axes.yaxis)
    along.set_label_text("choice block")
    along.set_ticks(range(1, blocks + 1))
    across.set_label_text(score)
    if narrow:
        axes.set_ylim(blocks + 0.6, 0.4)
        axes.margins(x=0.12)
    else:
        axes.set_xlim(0.4, blocks + 0.6)
        axes.margins(y=0.12)
    for dilation in (1, 2, 3):
        color, label = DILATION_COLORS[dilation], f"dilation {dilation}"
        axes.plot([], [], "o", color=color, mec=GRAY, ms=9, label=label)
    axes.plot([], [], "o", color="white", mec=FOUND, mew=2.4, ms=9, label=chosen)
    figure.legend(loc="outside upper center", ncols=1 if narrow else 3)
