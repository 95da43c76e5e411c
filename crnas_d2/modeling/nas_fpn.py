"""NAS-FPN (Ghiasi et al., 2019), a searched feature pyramid of the levels P3 to P7."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from fvcore.nn import weight_init
from torch import nn

from detectron2.config import CfgNode
from detectron2.layers import Conv2d, get_norm
from detectron2.modeling import Backbone

from .norm import Norm, fit_norm


class Merge(NamedTuple):
    """How a cell makes one of its nodes. A node of level l has the stride 2 ** l.

    Attributes:
        level: level of the node.
        op: "sum" or "GP", see :data:`OPS`.
        inputs: indices of the two nodes to merge. For "GP" the finer one comes first.
        added: indices of nodes at the same level that no other node uses, which are added to the
            result.
    """

    level: int
    op: str
    inputs: tuple[int, int]
    added: tuple[int, ...] = ()


LEVELS = (3, 4, 5, 6, 7)  # of a cell's inputs, which are its nodes 0 to 4, and of its outputs
CELL = (
    Merge(4, "GP", (1, 3)),  # node 5
    Merge(4, "sum", (1, 5)),
    Merge(3, "sum", (0, 6)),
    Merge(4, "sum", (6, 7)),
    Merge(5, "GP", (7, 8), added=(2,)),
    Merge(7, "GP", (6, 9), added=(4,)),
    Merge(6, "GP", (9, 10)),  # node 11
)
NODE_LEVELS = (*LEVELS, *(merge.level for merge in CELL))
# The last node of each level is the output of the cell at that level.
OUTPUTS = tuple(
    max(node for node, its_level in enumerate(NODE_LEVELS) if its_level == level)
    for level in LEVELS
)


def global_pooling(fine: torch.Tensor, coarse: torch.Tensor) -> torch.Tensor:
    """Add the fine feature to the coarse one, weighted by channel attention from its maxima."""
    return coarse + fine * coarse.amax((2, 3), keepdim=True).sigmoid()


OPS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "sum": torch.add,
    "GP": global_pooling,
}


def resize(x: torch.Tensor, level: int, new_level: int) -> torch.Tensor:
    """Resize by max pooling to a coarser level, or by the nearest neighbor to a finer one."""
    if level < new_level:
        return F.max_pool2d(x, kernel_size=2 ** (new_level - level))
    if level > new_level:
        return F.interpolate(x, scale_factor=float(2 ** (level - new_level)), mode="nearest")
    return x


class NASFPNCell(nn.ModuleDict):
    """A cell that maps a pyramid to a pyramid as in :data:`CELL`.

    The convolution of node 5 is named ``node5``, and so on.
    """

    def __init__(self, channels: int, norm: Norm = "BN"):
        """
        Args:
            channels: channels of all nodes.
            norm: norm after each convolution, see :func:`detectron2.layers.get_norm`.
        """
        super().__init__()
        for node in range(len(LEVELS), len(NODE_LEVELS)):
            self[f"node{node}"] = _convolution(channels, channels, 3, norm)

    def forward(self, pyramid: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """
        Args:
            pyramid: features of the levels :data:`LEVELS`. The height and width of each are half of
                those of the one before.

        Returns:
            A list of features of the same shapes.
        """
        nodes = list(pyramid)
        for merge, convolution in zip(CELL, self.values()):
            first, second = (resize(nodes[i], NODE_LEVELS[i], merge.level) for i in merge.inputs)
            node = OPS[merge.op](first, second)
            for i in merge.added:
                node = node + nodes[i]
            nodes.append(convolution(F.relu(node)))
        return [nodes[i] for i in OUTPUTS]


class NASFPN(Backbone):
    """A backbone with a stack of NAS-FPN cells, each with its own weights.

    Its features are p3 to p7. The original has seven cells of 384 channels ("7 @ 384").
    """

    def __init__(
        self,
        bottom_up: Backbone,
        in_features: Sequence[str] = ("res3", "res4", "res5"),
        out_channels: int = 384,
        num_cells: int = 7,
        norm: Norm = "BN",
    ):
        """
        Args:
            bottom_up: the backbone below the pyramid.
            in_features: features of ``bottom_up`` that become P3, P4 and P5, through a 1x1
                convolution and a norm if their channels are not ``out_channels``. P6 and P7 are
                max-pooled from P5.
            out_channels: channels of all nodes.
            num_cells: number of stacked cells.
            norm: norm after each convolution, see :func:`detectron2.layers.get_norm`. "GN" fits any
                width.

        Raises:
            ValueError: the backbone lacks a feature, the strides of the features are not 8, 16 and
                32, or a number is not positive.
        """
        super().__init__()
        if out_channels < 1 or num_cells < 1:
            raise ValueError(
                f"out_channels, num_cells are {out_channels}, {num_cells}; expected positive integers"
            )
        shapes = bottom_up.output_shape()
        strides = [shapes[name].stride if name in shapes else None for name in in_features]
        if strides != [8, 16, 32]:
            raise ValueError(
                f"in_features {list(in_features)} have strides {strides}; expected three of "
                f"strides 8, 16 and 32 from {list(shapes)}, the out features of the backbone"
            )
        norm = fit_norm(norm)
        self.bottom_up = bottom_up
        self.in_features = tuple(in_features)
        for level, name in zip(LEVELS, self.in_features):
            channels = shapes[name].channels
            lateral = nn.Identity()
            if channels != out_channels:
                lateral = _convolution(channels, out_channels, 1, norm)
            self.add_module(f"fpn_lateral{level}", lateral)
        self.fpn_cells = nn.Sequential(*(NASFPNCell(out_channels, norm) for _ in range(num_cells)))
        self._out_features = [f"p{level}" for level in LEVELS]
        self._out_feature_strides = {f"p{level}": 2**level for level in LEVELS}
        self._out_feature_channels = dict.fromkeys(self._out_features, out_channels)

    @property
    def size_divisibility(self) -> int:
        return 2 ** max(LEVELS)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """
        Args:
            x: images of shape (N, C, H, W). H and W are multiples of 128, to which Detectron2's
                detectors pad because of :attr:`size_divisibility`.

        Returns:
            A dict of features of shape (N, ``out_channels``, H / 2 ** l, W / 2 ** l) for each level
            l.

        Raises:
            ValueError: H or W is not a multiple of 128.
        """
        height, width = x.shape[-2:]
        if height % self.size_divisibility or width % self.size_divisibility:
            raise ValueError(
                f"images of {height}x{width}: NAS-FPN needs height and width in multiples of "
                f"{self.size_divisibility}; pad them to its size_divisibility"
            )
        features = self.bottom_up(x)
        pyramid = [
            getattr(self, f"fpn_lateral{level}")(features[name])
            for level, name in zip(LEVELS, self.in_features)
        ]
        while len(pyramid) < len(LEVELS):
            pyramid.append(F.max_pool2d(pyramid[-1], kernel_size=2))
        return dict(zip(self._out_features, self.fpn_cells(pyramid)))


def _convolution(in_channels: int, out_channels: int, kernel_size: int, norm: Norm) -> Conv2d:
    norm = get_norm(norm, out_channels)
    convolution = Conv2d(
        in_channels,
        out_channels,
        kernel_size=kernel_size,
        padding=kernel_size // 2,
        bias=norm is None,
        norm=norm,
    )
    weight_init.c2_xavier_fill(convolution)
    return convolution


def build_nasfpn(cfg: CfgNode, bottom_up: Backbone) -> NASFPN:
    """NAS-FPN from ``MODEL.NAS_FPN.*``."""
    nas_fpn = cfg.MODEL.NAS_FPN
    return NASFPN(
        bottom_up,
        out_channels=nas_fpn.OUT_CHANNELS,
        num_cells=nas_fpn.NUM_CELLS,
        norm=nas_fpn.NORM,
    )
