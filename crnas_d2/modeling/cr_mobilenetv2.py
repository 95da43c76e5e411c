"""MobileNetV2 built from a stage code and an operation code."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from fvcore.nn import weight_init
from torch import nn

from detectron2.config import CfgNode, configurable
from detectron2.layers import CNNBlockBase, Conv2d, ShapeSpec, get_norm

from ..architecture import Architecture, get_family
from .keys import check_keys
from .norm import Norm, fit_norm
from .stages import StagedBackbone, Stages, check_res5_dilation, network_arguments

# Sandler et al. (2018), table 2: expansion t, output channels c and stride s of each stage
INVERTED_RESIDUALS = {
    "c16": (1, 16, 1),
    "c24": (6, 24, 2),
    "c32": (6, 32, 2),
    "c64": (6, 64, 2),
    "c96": (6, 96, 1),
    "c160": (6, 160, 2),
    "c320": (6, 320, 1),
}
# The last stage of each resolution gives the feature that FPN knows by this name.
FEATURES = {"stem": "stem", "c24": "res2", "c32": "res3", "c96": "res4", "c1280": "res5"}


def round_channels(channels: float, divisor: int = 8) -> int:
    """Round to the nearest multiple of ``divisor`` that keeps at least 90 % of the channels."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded if rounded >= 0.9 * channels else rounded + divisor


class ConvBlock(CNNBlockBase):
    """Convolution, norm and ReLU6, as in the stem and the last layer of MobileNetV2."""

    def __init__(
        self, in_channels: int, out_channels: int, *, kernel_size: int, stride: int, norm: Norm
    ):
        super().__init__(in_channels, out_channels, stride)
        self.conv = Conv2d(
            in_channels,
            out_channels,
            kernel_size=kernel_size,
            stride=stride,
            padding=kernel_size // 2,
            bias=False,
            norm=get_norm(norm, out_channels),
            activation=partial(F.relu6, inplace=True),
        )
        weight_init.c2_msra_fill(self.conv)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


class InvertedResidual(CNNBlockBase):
    """The inverted residual block of MobileNetV2.

    It consists of a 1x1 expansion, a depthwise 3x3 convolution, which may be dilated, and a linear
    1x1 projection, with a shortcut where the shapes allow it.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        expansion: int,
        stride: int = 1,
        dilation: int = 1,
        norm: Norm = "BN",
    ):
        """
        Args:
            expansion: t, the ratio of hidden to input channels. With 1 there is no expansion layer.
            stride: stride of the depthwise convolution.
            dilation: dilation of the depthwise convolution.
            norm: see :func:`detectron2.layers.get_norm`.
        """
        super().__init__(in_channels, out_channels, stride)
        hidden = in_channels * expansion
        relu6 = partial(F.relu6, inplace=True)
        self.expand = None
        if expansion != 1:
            self.expand = Conv2d(
                in_channels,
                hidden,
                kernel_size=1,
                bias=False,
                norm=get_norm(norm, hidden),
                activation=relu6,
            )
        self.depthwise = Conv2d(
            hidden,
            hidden,
            kernel_size=3,
            stride=stride,
            padding=dilation,
            dilation=dilation,
            groups=hidden,
            bias=False,
            norm=get_norm(norm, hidden),
            activation=relu6,
        )
        self.project = Conv2d(
            hidden, out_channels, kernel_size=1, bias=False, norm=get_norm(norm, out_channels)
        )
        for layer in filter(None, (self.expand, self.depthwise, self.project)):
            weight_init.c2_msra_fill(layer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = x if self.expand is None else self.expand(x)
        out = self.project(self.depthwise(out))
        return x + out if self.stride == 1 and self.in_channels == self.out_channels else out


class MobileNetV2Stages(Stages):
    """The stages of MobileNetV2: the stem, c16 to c320, and the last 1x1 convolution c1280."""

    names = ("stem", *INVERTED_RESIDUALS, "c1280")
    features = FEATURES
    choice_layer = "depthwise"
    res5_stages = ("c160", "c320")

    def __init__(
        self,
        in_channels: int = 3,
        width_multiplier: float = 1.0,
        norm: Norm = "BN",
        activation_checkpoint: bool = False,
        res5_dilation: int = 1,
    ):
        """
        Args:
            in_channels: channels of the image.
            width_multiplier: factor on the channels of all layers, which are rounded to multiples
                of 8. The last layer never has fewer than 1280.
            norm: see :func:`detectron2.layers.get_norm`. "GN" fits any width.
            activation_checkpoint: see :class:`CheckpointedStage`.
            res5_dilation: 1 or 2. With 2, c160 and c320 keep the stride of c96, and the dilations
                of their depthwise convolutions are doubled (DC5).

        Raises:
            ValueError: the multiplier is not positive, or ``res5_dilation`` is not 1 or 2.
        """
        if width_multiplier <= 0:
            raise ValueError(f"width_multiplier is {width_multiplier}; expected a positive number")
        check_res5_dilation(res5_dilation)
        self.in_channels = in_channels
        self.width_multiplier = width_multiplier
        self.norm = fit_norm(norm)
        self.activation_checkpoint = activation_checkpoint
        self.res5_dilation = res5_dilation

    @classmethod
    def arguments(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        check_keys(cfg)
        return {
            "in_channels": input_shape.channels,
            "width_multiplier": cfg.MODEL.CR.WIDTH_MULTIPLIER,
            "norm": cfg.MODEL.RESNETS.NORM,
            "activation_checkpoint": cfg.MODEL.CR.ACTIVATION_CHECKPOINT,
            "res5_dilation": cfg.MODEL.RESNETS.RES5_DILATION,
        }

    def out_channels(self, name: str) -> int:
        if name == "c1280":
            return round_channels(1280 * max(1.0, self.width_multiplier))
        channels = 32 if name == "stem" else INVERTED_RESIDUALS[name][1]
        return round_channels(channels * self.width_multiplier)

    def stride(self, name: str) -> int:
        if name == "c160":
            return 2 // self.res5_dilation
        return {"stem": 2, "c1280": 1}.get(name) or INVERTED_RESIDUALS[name][2]

    def make_stage(self, name: str, dilations: Sequence[int] = (1,)) -> nn.Sequential:
        in_channels, out_channels = self.stage_in_channels(name), self.out_channels(name)
        stride = self.stride(name)
        if name not in INVERTED_RESIDUALS:
            kernel_size = 3 if name == "stem" else 1
            block = ConvBlock(
                in_channels, out_channels, kernel_size=kernel_size, stride=stride, norm=self.norm
            )
            return self.chain([block])
        return self.chain(
            InvertedResidual(
                out_channels if i else in_channels,
                out_channels,
                expansion=INVERTED_RESIDUALS[name][0],
                stride=1 if i else stride,
                dilation=dilation,
                norm=self.norm,
            )
            for i, dilation in enumerate(self.real_dilations(name, dilations))
        )


class CRMobileNetV2(StagedBackbone):
    """A MobileNetV2 with any stage code and operation code, as a Detectron2 backbone.

    Its features are "stem" (stride 2), "res2" (after c24, stride 4), "res3" (c32, stride 8), "res4"
    (c96, stride 16) and "res5" (the last 1x1 convolution with 1280 channels, stride 32, or 16 if
    ``res5_dilation`` is 2). With the code of the baseline it is the network of Sandler et al.
    (2018), as in torchvision.
    """

    @configurable
    def __init__(
        self,
        stage_code: Sequence[int],
        operation_code: Sequence[int] = (),
        *,
        in_channels: int = 3,
        width_multiplier: float = 1.0,
        norm: Norm = "BN",
        out_features: Sequence[str] | None = None,
        freeze_at: int = 0,
        activation_checkpoint: bool = False,
        res5_dilation: int = 1,
    ):
        """
        Args:
            stage_code: the 10 entries of appendix A.2, [1, 1, m1, m2, m3, m4, m5, 1, 1, 1].
            operation_code: for each block, the dilation of its depthwise 3x3 convolution minus 1.
                It is 0 for the stem and the last two entries. An empty code means all zeros.
            in_channels, width_multiplier, norm, activation_checkpoint, res5_dilation: see
                :class:`MobileNetV2Stages`.
            out_features: any of "stem" and "res2" to "res5". By default the last one. Stages that
                are not needed for these are not built.
            freeze_at: see :class:`StagedBackbone`.

        Raises:
            ValueError: the codes do not make an architecture of this family, or a feature is
                unknown.
        """
        architecture = Architecture.of_family("mobilenetv2", stage_code, operation_code)
        stages = MobileNetV2Stages(
            in_channels, width_multiplier, norm, activation_checkpoint, res5_dilation
        )
        dilations = dict(zip(get_family("mobilenetv2").stages, architecture.dilations))
        super().__init__(
            stages,
            lambda name: stages.make_stage(name, dilations[name]),
            out_features,
            freeze_at,
        )
        self.architecture = architecture

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        return network_arguments(cfg, input_shape, "mobilenetv2", MobileNetV2Stages)
