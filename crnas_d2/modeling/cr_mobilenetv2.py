"""MobileNetV2 built from a stage code and an operation code."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from fvcore.nn import weight_init
from torch import nn

from detectron2.config import CfgNode, configurable
from detectron2.layers import CNNBlockBase, Conv2d, ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY, Backbone

from ..architecture import Architecture, get_family
from ..config import get_architecture
from .activation_checkpoint import CheckpointedStage
from .norm import Norm, fit_norm

# Sandler et al. (2018), table 2: (expansion t, output channels c, stride s) of each inverted residual stage
INVERTED_RESIDUALS = {
    "c16": (1, 16, 1),
    "c24": (6, 24, 2),
    "c32": (6, 32, 2),
    "c64": (6, 64, 2),
    "c96": (6, 96, 1),
    "c160": (6, 160, 2),
    "c320": (6, 320, 1),
}
# The last stage of each resolution gives the feature of FPN's name.
FEATURES = {"stem": "stem", "c24": "res2", "c32": "res3", "c96": "res4", "c1280": "res5"}


def round_channels(channels: float, divisor: int = 8) -> int:
    """The nearest multiple of ``divisor`` that takes away no more than a tenth of the channels."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded if rounded >= 0.9 * channels else rounded + divisor


class ConvBlock(CNNBlockBase):
    """Convolution, norm, ReLU6: the stem and the last layer of MobileNetV2."""

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
    """1x1 expansion, depthwise 3x3 (dilated), linear 1x1 projection, shortcut where shapes allow."""

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
            expansion: t, the hidden channels over the input channels; 1 leaves the expansion out.
            stride: of the depthwise convolution.
            dilation: of the depthwise convolution.
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


class CRMobileNetV2(Backbone):
    """A MobileNetV2 of any stage code and operation code, as a Detectron2 backbone.

    Maps images of shape (N, in_channels, H, W), H and W multiples of 32, to features of shape
    (N, channels, H / stride, W / stride): "stem" (stride 2), "res2" (after c24, 4), "res3" (c32, 8),
    "res4" (c96, 16), "res5" (the last 1x1 convolution with 1280 channels, 32).
    With the code of the baseline it is the network of Sandler et al. (2018), as in torchvision.
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
        num_classes: int | None = None,
        out_features: Sequence[str] | None = None,
        freeze_at: int = 0,
        activation_checkpoint: bool = False,
    ):
        """
        Args:
            stage_code: the 10 entries of appendix A.2, [1, 1, m1, m2, m3, m4, m5, 1, 1, 1].
            operation_code: the dilation less 1 of each block's depthwise 3x3; zero for the stem
                and the two entries of the tail. Empty means all zeros.
            in_channels: channels of the image.
            width_multiplier: factor on all channels (never below 1280 in the last layer),
                rounded to multiples of 8.
            norm: see :func:`detectron2.layers.get_norm`; "GN" fits any width.
            num_classes: if given, a classifier on top of res5 that has the output "linear".
            out_features: any of "stem", "res2" to "res5", "linear"; by default the last one.
                Stages that none of them needs are not built, unless there is a classifier.
            freeze_at: stages to freeze, counted as :meth:`detectron2.modeling.ResNet.freeze` does:
                1 is the stem, 2 is all up to "res2", and so on.
            activation_checkpoint: see :class:`CheckpointedStage`.

        Raises:
            ValueError: the codes make no architecture of this family, or a feature is unknown.
        """
        super().__init__()
        self.architecture = Architecture.of_family("mobilenetv2", stage_code, operation_code)
        if width_multiplier <= 0:
            raise ValueError(f"width_multiplier {width_multiplier}: expected a positive number")
        available = [*FEATURES.values()] + ([] if num_classes is None else ["linear"])
        self._out_features = list(out_features or available[-1:])
        unknown = set(self._out_features) - set(available)
        if unknown:
            raise ValueError(f"out_features {sorted(unknown)}: expected any of {available}")

        norm = fit_norm(norm)
        make_stage = CheckpointedStage if activation_checkpoint else nn.Sequential
        self.stage_names = []
        self._out_feature_channels, self._out_feature_strides = {}, {}
        stages = get_family("mobilenetv2").stages
        channels, stride = in_channels, 1
        for name, dilations in zip(stages, self.architecture.dilations):
            if name == "pool" or (num_classes is None and self._complete()):
                break
            blocks = _make_blocks(name, dilations, channels, width_multiplier, norm)
            self.add_module(name, make_stage(*blocks))
            self.stage_names.append(name)
            channels = blocks[-1].out_channels
            stride *= blocks[0].stride
            if name in FEATURES:
                self._out_feature_channels[FEATURES[name]] = channels
                self._out_feature_strides[FEATURES[name]] = stride

        self.linear = None
        if num_classes is not None:
            self.linear = nn.Linear(channels, num_classes)
            nn.init.normal_(self.linear.weight, std=0.01)
            nn.init.zeros_(self.linear.bias)
        self.freeze(freeze_at)

    def _complete(self) -> bool:
        """Whether all wanted features are there, so that deeper stages would never be used."""
        return all(f in self._out_feature_channels for f in self._out_features)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """See the class for the shapes; "linear" has shape (N, num_classes)."""
        outputs = {}
        for name in self.stage_names:
            x = getattr(self, name)(x)
            if FEATURES.get(name) in self._out_features:
                outputs[FEATURES[name]] = x
        if "linear" in self._out_features:
            x = F.dropout(x.mean((2, 3)), 0.2, self.training)
            outputs["linear"] = self.linear(x)
        return outputs

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {
            name: ShapeSpec(
                channels=self._out_feature_channels[name], stride=self._out_feature_strides[name]
            )
            for name in self._out_features
        }

    def freeze(self, freeze_at: int = 0) -> CRMobileNetV2:
        """Freeze the first ``freeze_at`` resolutions: no gradients, FrozenBN in place of BN."""
        frozen = 0
        for name in self.stage_names:
            if frozen >= freeze_at:
                break
            for block in getattr(self, name):
                block.freeze()
            frozen += name in FEATURES
        return self

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        architecture = get_architecture(cfg, family="mobilenetv2")
        return {
            "stage_code": architecture.stage_code,
            "operation_code": architecture.operation_code,
            "in_channels": input_shape.channels,
            "width_multiplier": cfg.MODEL.CR.WIDTH_MULTIPLIER,
            "norm": cfg.MODEL.RESNETS.NORM,
            "out_features": cfg.MODEL.RESNETS.OUT_FEATURES,
            "freeze_at": cfg.MODEL.BACKBONE.FREEZE_AT,
            "activation_checkpoint": cfg.MODEL.CR.ACTIVATION_CHECKPOINT,
        }


def _make_blocks(
    stage: str, dilations: Sequence[int], in_channels: int, width_multiplier: float, norm: Norm
) -> list[CNNBlockBase]:
    if stage == "stem":
        out_channels = round_channels(32 * width_multiplier)
        return [ConvBlock(in_channels, out_channels, kernel_size=3, stride=2, norm=norm)]
    if stage == "c1280":
        out_channels = round_channels(1280 * max(1.0, width_multiplier))
        return [ConvBlock(in_channels, out_channels, kernel_size=1, stride=1, norm=norm)]
    expansion, channels, stride = INVERTED_RESIDUALS[stage]
    blocks = []
    for dilation in dilations:
        blocks.append(
            InvertedResidual(
                in_channels,
                round_channels(channels * width_multiplier),
                expansion=expansion,
                stride=1 if blocks else stride,
                dilation=dilation,
                norm=norm,
            )
        )
        in_channels = blocks[-1].out_channels
    return blocks


@BACKBONE_REGISTRY.register()
def build_cr_mobilenetv2_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> CRMobileNetV2:
    """A :class:`CRMobileNetV2` from ``MODEL.CR.*`` and, for norm and out features, ``MODEL.RESNETS.*``."""
    return CRMobileNetV2(cfg, input_shape)
