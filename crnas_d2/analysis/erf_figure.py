"""The figure of effective receptive fields, as in figure 1."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import PercentFormatter

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec

from .erf import ERF, SHARE_THRESHOLD
from .style import INK, styled

# In inches
PANEL, NARROW_PANEL = 2.1, 1.6
TITLE = 0.3
ROW_LABEL = 0.8
COLOR_BAR = 1.0
TICKS = 0.5
NOTES = 0.6
CHARACTER = 0.075  # width of a character in the notes
LABEL_CHARACTERS = 22  # per line


def anchor_sizes(cfg: CfgNode, shapes: Mapping[str, ShapeSpec]) -> dict[int, tuple[float, ...]]:
    """Get the anchor sizes of a config in pixels, by the stride of their feature.

    Args:
        cfg: config of a detector.
        shapes: shapes of the features of its backbone, from ``output_shape()``.

    Returns:
        The sizes by stride. Empty if the model has no anchors.
    """
    features = {
        "GeneralizedRCNN": cfg.MODEL.RPN.IN_FEATURES,
        "ProposalNetwork": cfg.MODEL.RPN.IN_FEATURES,
        "RetinaNet": cfg.MODEL.RETINANET.IN_FEATURES,
    }.get(cfg.MODEL.META_ARCHITECTURE, [])
    sizes = cfg.MODEL.ANCHOR_GENERATOR.SIZES
    if len(sizes) == 1:  # one list for all features
        sizes = sizes * len(features)
    return {shapes[name].stride: tuple(level) for name, level in zip(features, sizes)}


def draw_erfs(
    networks: Mapping[str, Mapping[str, ERF]],
    anchors: Mapping[str, Mapping[int, Sequence[float]]] | None = None,
    narrow: bool = False,
) -> Figure:
    """Draw effective receptive fields, with a row for each network and a column for each feature.

    A map is drawn in logarithmic color, and in white where it is at most 1 % of its maximum.

    Args:
        networks: results of :func:`effective_receptive_fields` by the label of the row.
        anchors: sizes in pixels by stride, from :func:`anchor_sizes`, by the same labels. They are
            drawn as squares around the centers of the maps of features with that stride.
        narrow: use a layout for phones, with a row for each feature and a column for each network.

    Raises:
        ValueError: there is no network, or a network has other features than the first one.
    """
    columns = list(next(iter(networks.values()), []))
    for label, erfs in networks.items():
        if list(erfs) != columns:
            raise ValueError(f"network {label!r} has the features {list(erfs)}; expected {columns}")
    if not columns:
        raise ValueError(
            "there is no effective receptive field; expected one network and feature or more"
        )

    colors = colormaps["magma_r"].with_extremes(under="white", bad="white")  # 0 has no logarithm
    norm = LogNorm(SHARE_THRESHOLD, 1)
    shape = (len(networks), len(columns))
    across, down = shape if narrow else shape[::-1]
    if narrow:
        panel = NARROW_PANEL if across > 1 else 1.5 * NARROW_PANEL
        width = across * panel + TICKS
        height = down * (panel + TITLE) + COLOR_BAR + NOTES
    else:
        width = ROW_LABEL + across * PANEL + COLOR_BAR
        height = down * (PANEL + TITLE) + NOTES
    notes = (
        f"Axes in pixels. White: {SHARE_THRESHOLD:.0%} of the maximum or less. "
        "Percentage: share of the image that is not white."
    )
    if anchors and any(anchors.values()):
        notes += " Dashed: square anchor boxes."
    with styled():
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots(down, across, squeeze=False, sharex="col", sharey="row")
        for row, (label, erfs) in zip(axes.T if narrow else axes, networks.items()):
            for axis, erf in zip(row, erfs.values()):
                image = axis.imshow(erf.map, cmap=colors, norm=norm, interpolation="antialiased")
                for size in (anchors or {}).get(label, {}).get(erf.stride, ()):
                    _draw_box(axis, erf.center, size)
                head = f"{label}, {erf.feature}\n" if narrow else f"{erf.feature}: "
                axis.set_title(f"{head}σ {erf.sigma:.1f} px, {erf.share:.1%}", size=9)
                axis.set(xticks=_ticks(erf.map.shape[1]), yticks=_ticks(erf.map.shape[0]))
                axis.tick_params(labelsize=8, length=2)
                axis.grid(False)
                for spine in axis.spines.values():
                    spine.set_visible(True)
            if not narrow:
                row[0].set_ylabel(_wrapped(label), size=9, weight="bold")
        bar = figure.colorbar(
            image,
            ax=axes,
            location="bottom" if narrow else "right",
            format=PercentFormatter(1, decimals=0),
            shrink=0.9,
            pad=0.02,
        )
        bar.set_label("gradient, share of its maximum", size=9)
        bar.ax.tick_params(labelsize=8)
        bar.ax.minorticks_off()
        figure.supxlabel(textwrap.fill(notes, int(width / CHARACTER)), size=9)
    return figure


def _wrapped(label: str) -> str:
    """Wrap a label to the height of a panel, at spaces and underscores where possible."""
    return textwrap.fill(label.replace("_", "_ "), LABEL_CHARACTERS).replace("_ ", "_")


def _ticks(side: int) -> list[int]:
    return [0, side // 2, side]


def _draw_box(axis: Axes, center: tuple[int, int], size: float) -> None:
    corner = (center[1] - size / 2, center[0] - size / 2)
    options: dict[str, Any] = {"fill": False, "linewidth": 1.6}
    axis.add_patch(Rectangle(corner, size, size, edgecolor="white", **options))
    axis.add_patch(Rectangle(corner, size, size, edgecolor=INK, linestyle=(0, (4, 3)), **options))
