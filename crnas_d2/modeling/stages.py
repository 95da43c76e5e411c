"""Backbones as a sequence of stages, each of which is built by the rules of its family."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from detectron2.config import CfgNode
from detectron2.layers import CNNBlockBase, ShapeSpec
from detectron2.modeling import Backbone

from ..config import get_architecture
from .activation_checkpoint import CheckpointedStage


class Stages(ABC):
    """Builds the stages of one family of networks, with any number of blocks and any dilations.

    Attributes:
        names: names of all stages that a detector runs, in order.
        features: the name of the feature that a stage gives, by the name of the stage.
        choice_layer: name of the layer in a block whose dilation is searched.
        res5_stages: those of ``names`` at the stride of res5, except 1x1 convolutions.
        in_channels: channels of the image.
        res5_dilation: 1 or 2. With 2, ``res5_stages`` keep the stride 16, and their dilations are
            doubled (DC5).
        activation_checkpoint: see :class:`CheckpointedStage`.
    """

    names: Sequence[str]
    features: Mapping[str, str]
    choice_layer: str
    res5_stages: Sequence[str]
    in_channels: int
    res5_dilation: int
    activation_checkpoint: bool

    @classmethod
    @abstractmethod
    def arguments(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """Get the arguments of the constructor from ``MODEL.CR.*`` and ``MODEL.RESNETS.*``.

        Raises:
            ValueError: see :func:`check_keys`.
        """

    @abstractmethod
    def out_channels(self, name: str) -> int:
        """Get the number of output channels of a stage."""

    @abstractmethod
    def stride(self, name: str) -> int:
        """Get the stride of a stage, which is that of its first block."""

    @abstractmethod
    def make_stage(self, name: str, dilations: Sequence[int] = (1,)) -> nn.Module:
        """Build a stage with one block per dilation, as a ``nn.Sequential`` unless it is a stem.

        It maps (N, channels, H, W) to (N, out_channels(name), H / stride(name), W / stride(name)).

        Args:
            name: name of the stage.
            dilations: dilations by an operation code, see :meth:`real_dilations`.
        """

    def real_dilations(self, name: str, dilations: Sequence[int]) -> tuple[int, ...]:
        """Convert the dilations by an operation code to those with which the blocks are built."""
        factor = self.res5_dilation if name in self.res5_stages else 1
        return tuple(factor * dilation for dilation in dilations)

    def chain(self, blocks: Iterable[nn.Module]) -> nn.Sequential:
        """Chain blocks into one module."""
        return (CheckpointedStage if self.activation_checkpoint else nn.Sequential)(*blocks)

    def select_features(self, names: Sequence[str] | None) -> list[str]:
        """Get the named features, by default the last one.

        Raises:
            ValueError: a feature is unknown.
        """
        available = list(self.features.values())
        if unknown := set(names or ()) - set(available):
            raise ValueError(f"out_features has {sorted(unknown)}; expected any of {available}")
        return list(names or available[-1:])

    def stage_in_channels(self, name: str) -> int:
        """Get the number of input channels of a stage."""
        index = self.names.index(name)
        return self.out_channels(self.names[index - 1]) if index else self.in_channels


def check_res5_dilation(res5_dilation: int) -> None:
    """Check an argument ``res5_dilation``.

    Raises:
        ValueError: it is not 1 or 2.
    """
    if res5_dilation not in (1, 2):
        raise ValueError(f"res5_dilation is {res5_dilation}; expected 1 or 2")


def network_arguments(
    cfg: CfgNode, input_shape: ShapeSpec, family: str, stages: type[Stages]
) -> dict[str, Any]:
    """Get the arguments of a network with the architecture in ``MODEL.CR`` from a config.

    Args:
        cfg: the config.
        input_shape: shape of the images.
        family: the family of the network.
        stages: its stages, whose arguments are among those of the network.

    Raises:
        ValueError: see :func:`get_architecture` and :meth:`Stages.arguments`.
    """
    architecture = get_architecture(cfg, family)
    return {
        "stage_code": architecture.stage_code,
        "operation_code": architecture.operation_code,
        **stages.arguments(cfg, input_shape),
        "out_features": cfg.MODEL.RESNETS.OUT_FEATURES,
        "freeze_at": cfg.MODEL.BACKBONE.FREEZE_AT,
    }


class StagedBackbone(Backbone):
    """A backbone that runs its stages one after the other and returns the requested features.

    It maps images of shape (N, in_channels, H, W), where H and W are multiples of 32, to features
    of shape (N, channels, H / stride, W / stride).
    """

    def __init__(
        self,
        stages: Stages,
        make_stage: Callable[[str], nn.Module],
        out_features: Sequence[str] | None = None,
        freeze_at: int = 0,
    ):
        """
        Args:
            stages: the rules of the family.
            make_stage: builds a stage by its name, with the shapes given by ``stages``.
            out_features: any of the family's features. By default the last one. Stages that are
                not needed for these are not built.
            freeze_at: number of resolutions to freeze, counted as in
                :meth:`detectron2.modeling.ResNet.freeze`: 1 is the stem, 2 is everything up to
                "res2", and so on.

        Raises:
            ValueError: a feature is unknown.
        """
        super().__init__()
        self._out_features = stages.select_features(out_features)
        self.stages = stages
        self.stage_names = []
        self._shapes: dict[str, ShapeSpec] = {}
        stride = 1
        for name in stages.names:
            if all(feature in self._shapes for feature in self._out_features):
                break
            self.add_module(name, make_stage(name))
            self.stage_names.append(name)
            stride *= stages.stride(name)
            if name in stages.features:
                self._shapes[stages.features[name]] = ShapeSpec(
                    channels=stages.out_channels(name), stride=stride
                )
        self.freeze(freeze_at)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        outputs = {}
        for name in self.stage_names:
            x = self.run_stage(name, x)
            feature = self.stages.features.get(name)
            if feature in self._out_features:
                outputs[feature] = x
        return outputs

    def run_stage(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """Run one stage on the output of the stage before."""
        return getattr(self, name)(x)

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {feature: self._shapes[feature] for feature in self._out_features}

    def freeze(self, freeze_at: int = 0) -> StagedBackbone:
        """Freeze the first ``freeze_at`` resolutions: no gradients, and FrozenBN in place of BN."""
        frozen = 0
        for name in self.stage_names:
            if frozen >= freeze_at:
                break
            for module in getattr(self, name).modules():
                if isinstance(module, CNNBlockBase):
                    module.freeze()
            frozen += name in self.stages.features
        return self
