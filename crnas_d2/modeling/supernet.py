"""What the two supernets have in common: they run one path at a time (section 3.3.1)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec

from ..spaces import PathSpace
from .cr_mobilenetv2 import MobileNetV2Stages, mobilenetv2_stages_arguments
from .cr_resnet import ResNetStages, resnet_stages_arguments
from .stages import StagedBackbone, Stages


class ChoiceBlock(nn.Module):
    """A choice unit: candidates of the same shapes, of which one runs.

    Attributes:
        ops: the candidates, by the entry of the path that chooses them.
        choice: the entry that is chosen.
    """

    def __init__(self, ops: Mapping[int, nn.Module]):
        super().__init__()
        self.ops = nn.ModuleDict({str(entry): op for entry, op in ops.items()})
        self.choice = next(iter(ops))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.ops[str(self.choice)](x)


class Supernet(StagedBackbone):
    """A backbone that holds all networks of a space; :meth:`set_path` chooses the one that runs.

    A path is a code of full length: a stage code in the stage supernet, an operation code in the
    dilation supernet. Parameters off the path take no part in the forward pass, so they get no
    gradient (None, not zero), and the statistics of their norms stay as they are.

    Attributes:
        space: all paths.
        path: the one that runs; None until :meth:`set_path` was called.
    """

    def __init__(
        self,
        space: PathSpace,
        stages: Stages,
        make_stage: Callable[[str], nn.Module],
        out_features: Sequence[str] | None = None,
        freeze_at: int = 0,
    ):
        """
        Args:
            space: all paths.
            stages, make_stage, out_features, freeze_at: see :class:`StagedBackbone`.
        """
        super().__init__(stages, make_stage, out_features, freeze_at)
        self.space = space
        self.path: tuple[int, ...] | None = None

    @abstractmethod
    def choice_blocks(self) -> list[tuple[int, ChoiceBlock]]:
        """The choice blocks, each with the index of its entry in the path, from first to last."""

    def set_path(self, path: Sequence[int]) -> None:
        """Choose the path that the following forward passes run.

        Raises:
            ValueError: it is no path of the space.
        """
        path = tuple(path)
        if path not in self.space:
            raise ValueError(
                f"path {list(path)} is not in the space, whose entries may be "
                f"{[list(choices) for choices in self.space.choices]}"
            )
        for index, block in self.choice_blocks():
            block.choice = path[index]
        self.path = path

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        if self.path is None:
            raise RuntimeError("a supernet runs one path at a time: call set_path(path) first")
        return super().forward(x)


def build_stages(cfg: CfgNode, input_shape: ShapeSpec) -> Stages:
    """The stages of the family ``MODEL.CR.FAMILY``."""
    if cfg.MODEL.CR.FAMILY == "mobilenetv2":
        return MobileNetV2Stages(**mobilenetv2_stages_arguments(cfg, input_shape))
    return ResNetStages(**resnet_stages_arguments(cfg, input_shape))
