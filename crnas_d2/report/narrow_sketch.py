"""Architecture sketches for phones, with one line for each stage."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from ..analysis.sketch import SketchedNetwork
from ..analysis.style import DILATION_COLORS, GRAY, INK, PALE, styled
from .themes import NARROW

# In inches
LEFT, BOXES = 0.08, 0.95  # where names and boxes begin
BOXES_WIDTH = 2.1
WIDEST_BOX = 0.26
BOX_HEIGHT = 0.22
LINE = 0.32
TITLE = 0.42
LEGEND = 0.62
SMALLEST_NUMBERED = 0.11  # smallest box with a number


def draw_narrow_sketches(networks: Sequence[SketchedNetwork]) -> Figure:
    """Same as :func:`~crnas_d2.analysis.sketch_figure.draw_sketches`, with the stages from top to bottom."""
    most = max(len(stage.dilations) for network in networks for stage in network.stages)
    box = min(WIDEST_BOX, BOXES_WIDTH / most)
    height = sum(TITLE + LINE * len(network.stages) for network in networks) + LEGEND
    right = NARROW - LEFT
    with styled():
        figure = Figure(figsize=(NARROW, height))
        axes = figure.add_axes((0, 0, 1, 1), xlim=(0, NARROW), ylim=(height, 0))
        axes.set_axis_off()
        top = 0.0
        for network in networks:
            blocks = sum(len(stage.dilations) for stage in network.stages)
            axes.text(LEFT, top + 0.27, network.label, size=10, weight="bold", va="center")
            text = f"{blocks} blocks, {network.macs / 1e9:.1f} GMACs"
            axes.text(right, top + 0.27, text, size=9, color=GRAY, ha="right", va="center")
            top += TITLE
            for stage, share in zip(network.stages, network.shares):
                middle = top + LINE / 2
                axes.text(LEFT, middle, stage.name, size=9, weight="bold", va="center")
                _draw_boxes(axes, stage.dilations, middle, box)
                text = f"{100 * share:.1f} %"
                axes.text(right, middle, text, size=8, ha="right", va="center")
                top += LINE
        figure.legend(
            handles=_handles(networks),
            loc="lower left",
            ncols=2,
            fontsize=8,
            handlelength=1.5,
        )
    return figure


def _draw_boxes(axes: Axes, dilations: Sequence[int], middle: float, box: float) -> None:
    for i, dilation in enumerate(dilations or [None]):
        corner = (BOXES + i * box, middle - BOX_HEIGHT / 2)
        color = PALE if dilation is None else DILATION_COLORS[dilation]
        axes.add_patch(Rectangle(corner, box, BOX_HEIGHT, fc=color, ec=INK, lw=0.6))
        if dilation is not None and box >= SMALLEST_NUMBERED:
            axes.text(
                corner[0] + box / 2,
                middle,
                str(dilation),
                size=8,
                color="white" if dilation >= 3 else INK,
                ha="center",
                va="center_baseline",
            )


def _handles(networks: Sequence[SketchedNetwork]) -> list[Patch]:
    drawn = {d for network in networks for stage in network.stages for d in stage.dilations}
    handles = [
        Patch(fc=DILATION_COLORS[dilation], ec=INK, lw=0.6, label=f"dilation {dilation}")
        for dilation in sorted({1, 2, 3} | drawn)
    ]
    return [*handles, Patch(fc=PALE, ec=INK, lw=0.6, label="no choice block")]
