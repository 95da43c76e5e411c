"""The drawing of sketched networks, as in figure 4."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from .flops import INPUT_SIZE, PROPOSALS
from .sketch import SketchedNetwork
from .style import DILATION_COLORS, GRAY, INK, PALE, styled

# In inches
MARGIN = 0.2
MIN_WIDTH = 5.6
MIN_COLUMN = 0.68
GAP = 0.14
BOXES_WIDTH = 6.2
BOX_WIDTHS = (0.16, 0.3)
BOX_HEIGHT = 0.26
BAR_HEIGHT = 0.09
HEADER = 0.36
ROW = 1.1
TABLE_GAP = 0.16
LEGEND = 0.5


def draw_sketches(networks: Sequence[SketchedNetwork]) -> Figure:
    """Draw one row for each network, from top to bottom.

    A box is a block. Its color and the number in it are the dilation of its 3x3 convolution. Below
    the boxes of a stage are its share of the multiply-adds, as a bar and in percent, and the number
    of its blocks. All bars of a figure have the same scale. Neighbors of one family share their
    columns and headers.

    Raises:
        ValueError: there is no network.
    """
    if not networks:
        raise ValueError("there is no network to sketch; expected one or more")
    tables = [list(rows) for _, rows in groupby(networks, _columns)]
    box = _box_width(tables)
    columns = [_column_widths(table, box) for table in tables]
    bar = min(
        width / share
        for table, widths in zip(tables, columns)
        for network in table
        for width, share in zip(widths, network.shares)
    )
    content = max(sum(widths) + GAP * (len(widths) - 1) for widths in columns)
    width = max(MIN_WIDTH, content + 2 * MARGIN)
    rows = HEADER * len(tables) + TABLE_GAP * (len(tables) - 1) + ROW * len(networks)
    height = 2 * MARGIN + rows + LEGEND
    with styled():
        figure = Figure(figsize=(width, height))
        axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
        axes.set_axis_off()
        top = MARGIN
        for table, widths in zip(tables, columns):
            lefts = [MARGIN + sum(widths[:i]) + GAP * i for i in range(len(widths))]
            _draw_header(axes, table[0], lefts, top)
            top += HEADER
            for network in table:
                _draw_row(axes, network, lefts, top, box, bar)
                top += ROW
            top += TABLE_GAP
        _draw_legend(figure, height, networks)
    return figure


def _columns(network: SketchedNetwork) -> list[tuple[str, int | None]]:
    return [(stage.name, stage.stride) for stage in network.stages]


def _box_width(tables: Sequence[Sequence[SketchedNetwork]]) -> float:
    blocks = max(sum(_most_blocks(table)) for table in tables)
    narrowest, widest = BOX_WIDTHS
    return min(max(BOXES_WIDTH / blocks, narrowest), widest)


def _column_widths(table: Sequence[SketchedNetwork], box: float) -> list[float]:
    return [max(MIN_COLUMN, box * blocks) for blocks in _most_blocks(table)]


def _most_blocks(table: Sequence[SketchedNetwork]) -> list[int]:
    """Get the largest number of blocks of each stage among all networks."""
    stages = zip(*(network.stages for network in table))
    return [max(len(stage.dilations) or 1 for stage in same) for same in stages]


def _draw_header(axes: Axes, network: SketchedNetwork, lefts: Sequence[float], top: float) -> None:
    for stage, left in zip(network.stages, lefts):
        axes.text(left, top, stage.name, size=9, weight="bold", va="top")
        where = "on RoIs" if stage.stride is None else f"stride {stage.stride}"
        axes.text(left, top + 0.16, where, size=8, color=GRAY, va="top")


def _draw_row(
    axes: Axes,
    network: SketchedNetwork,
    lefts: Sequence[float],
    top: float,
    box: float,
    bar: float,
) -> None:
    name = axes.text(lefts[0], top + 0.2, network.label, size=10, weight="bold")
    axes.annotate(
        f"  {sum(len(stage.dilations) for stage in network.stages)} blocks, "
        f"{network.macs / 1e9:.1f} GMACs",
        (1, 0.5),
        xycoords=name,
        size=9,
        color=GRAY,
        va="center",
    )
    top += 0.28
    for stage, share, left in zip(network.stages, network.shares, lefts):
        for i, dilation in enumerate(stage.dilations or [None]):
            x = left + i * box
            color = PALE if dilation is None else DILATION_COLORS[dilation]
            axes.add_patch(Rectangle((x, top), box, BOX_HEIGHT, fc=color, ec=INK, lw=0.6))
            if dilation is not None:
                axes.text(
                    x + box / 2,
                    top + BOX_HEIGHT / 2,
                    str(dilation),
                    size=8,
                    color="white" if dilation >= 3 else INK,
                    ha="center",
                    va="center_baseline",
                )
        below = top + BOX_HEIGHT + 0.07
        axes.add_patch(Rectangle((left, below), bar * share, BAR_HEIGHT, fc=GRAY, lw=0))
        below += BAR_HEIGHT + 0.04
        axes.text(left, below, f"{100 * share:.1f} %", size=8, va="top")
        if stage.dilations:
            blocks = len(stage.dilations)
            text = f"{blocks} block{'s' if blocks > 1 else ''}"
            axes.text(left, below + 0.14, text, size=8, va="top")


def _draw_legend(figure: Figure, height: float, networks: Sequence[SketchedNetwork]) -> None:
    drawn = {d for network in networks for stage in network.stages for d in stage.dilations}
    handles = [
        Patch(fc=DILATION_COLORS[dilation], ec=INK, lw=0.6, label=f"dilation {dilation}")
        for dilation in sorted({1, 2, 3} | drawn)
    ]
    handles.append(Patch(fc=PALE, ec=INK, lw=0.6, label="no choice block"))
    figure.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(MARGIN / figure.get_figwidth(), (MARGIN + 0.18) / height),
        ncols=len(handles),
        fontsize=8,
        borderpad=0,
        borderaxespad=0,
        columnspacing=1.5,
    )
    on_rois = any(stage.stride is None for network in networks for stage in network.stages)
    figure.text(
        MARGIN / figure.get_figwidth(),
        MARGIN / height,
        "Bars and percent: of the backbone's multiply-adds, for an image of "
        f"{INPUT_SIZE[0]}x{INPUT_SIZE[1]}{f' with {PROPOSALS} RoIs' if on_rois else ''}.",
        size=8,
    )
