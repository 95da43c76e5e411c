"""ResNet and ResNeXt built from a stage code and an operation code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fvcore.nn import weight_init
from torch import nn

from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, BottleneckBlock, ResNet

from ..architecture import Architecture, get_family
from .keys import check_keys
from .norm import Norm, fit_norm
from .stages import Stages, check_res5_dilation, network_arguments

BLOCKS = ("basic", "bottleneck")


class DilatedBasicBlock(BasicBlock):
    """Detectron2's basic block with a dilated second 3x3 convolution (section 3.2.2).

    The first convolution is dilated too in a stage that keeps its stride instead of halving the
    resolution (DC5).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int = 1,
        norm: Norm = "BN",
        dilation: int = 1,
        first_dilation: int = 1,
    ):
        super().__init__(in_channels, out_channels, stride=stride, norm=norm)
        self.conv1.dilation = self.conv1.padding = (first_dilation, first_dilation)
        self.conv2 = Conv2d(
            out_channels,
            out_channels,
            kernel_size=3,
            padding=dilation,
            dilation=dilation,
            bias=False,
            norm=get_norm(norm, out_channels),
        )
        weight_init.c2_msra_fill(self.conv2)


class ResNetStages(Stages):
    """The stages of a ResNet or ResNeXt: the stem and res2 to res5."""

    names = ("stem", *get_family("resnet").stages)
    features = {name: name for name in names}
    choice_layer = "conv2"
    res5_stages = ("res5",)

    def __init__(
        self,
        block: str = "bottleneck",
        in_channels: int = 3,
        stem_out_channels: int = 64,
        res2_out_channels: int | None = None,
        num_groups: int = 1,
        width_per_group: int = 64,
        stride_in_1x1: bool = False,
        norm: Norm = "BN",
        activation_checkpoint: bool = False,
        res5_dilation: int = 1,
    ):
        """
        Args:
            block: "basic" or "bottleneck".
            in_channels: channels of the image.
            stem_out_channels: output channels of the stem.
            res2_out_channels: output channels of res2. Each later stage has twice as many. By
                default 64 for basic blocks and 256 for bottlenecks.
            num_groups: groups of the 3x3 convolution of a bottleneck in every stage.
            width_per_group: channels of each group in res2. Each later stage has twice as many.
            stride_in_1x1: put the stride of a bottleneck into its first 1x1 convolution instead of
                its 3x3.
            norm: see :func:`detectron2.layers.get_norm`. "GN" fits any width.
            activation_checkpoint: see :class:`CheckpointedStage`.
            res5_dilation: 1 or 2. With 2, res5 keeps the stride of res4, and the dilations of its
                3x3 convolutions, of both in a basic block, are doubled (DC5).

        Raises:
            ValueError: the block is unknown or cannot have groups, or ``res5_dilation`` is not 1 or
                2.
        """
        if block not in BLOCKS:
            raise ValueError(f"block is {block!r}; expected one of {list(BLOCKS)}")
        if block == "basic" and num_groups != 1:
            raise ValueError(
                f"num_groups is {num_groups}; expected 1, as a basic block has no groups"
            )
        check_res5_dilation(res5_dilation)
        self.block = block
        self.in_channels = in_channels
        self.stem_out_channels = stem_out_channels
        self.res2_out_channels = res2_out_channels or (64 if block == "basic" else 256)
        self.num_groups = num_groups
        self.width_per_group = width_per_group
        self.stride_in_1x1 = stride_in_1x1
        self.norm = fit_norm(norm)
        self.activation_checkpoint = activation_checkpoint
        self.res5_dilation = res5_dilation

    @classmethod
    def arguments(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        check_keys(cfg)
        resnets = cfg.MODEL.RESNETS
        return {
            "block": cfg.MODEL.CR.BLOCK,
            "in_channels": input_shape.channels,
            "stem_out_channels": resnets.STEM_OUT_CHANNELS,
            "res2_out_channels": resnets.RES2_OUT_CHANNELS,
            "num_groups": resnets.NUM_GROUPS,
            "width_per_group": resnets.WIDTH_PER_GROUP,
            "stride_in_1x1": resnets.STRIDE_IN_1X1,
            "norm": resnets.NORM,
            "activation_checkpoint": cfg.MODEL.CR.ACTIVATION_CHECKPOINT,
            "res5_dilation": resnets.RES5_DILATION,
        }

    def out_channels(self, name: str) -> int:
        if name == "stem":
            return self.stem_out_channels
        return self.res2_out_channels * self._widening(name)

    def stride(self, name: str) -> int:
        return {"stem": 4, "res2": 1, "res5": 2 // self.res5_dilation}.get(name, 2)

    def make_stage(self, name: str, dilations: Sequence[int] = (1,)) -> nn.Module:
        if name == "stem":
            return BasicStem(self.in_channels, self.stem_out_channels, norm=self.norm)
        options = {}
        if self.block == "bottleneck":
            channels = self.num_groups * self.width_per_group * self._widening(name)
            options["bottleneck_channels"] = channels
            options["num_groups"] = self.num_groups
            options["stride_in_1x1"] = self.stride_in_1x1
        else:
            (options["first_dilation"],) = self.real_dilations(name, (1,))
        blocks = ResNet.make_stage(
            BottleneckBlock if self.block == "bottleneck" else DilatedBasicBlock,
            len(dilations),
            in_channels=self.stage_in_channels(name),
            out_channels=self.out_channels(name),
            stride_per_block=[self.stride(name)] + [1] * (len(dilations) - 1),
            dilation_per_block=self.real_dilations(name, dilations),
            norm=self.norm,
            **options,
        )
        return self.chain(blocks)

    def _widening(self, name: str) -> int:
        return 2 ** get_family("resnet").stages.index(name)


class CRResNet(ResNet):
    """A ResNet or ResNeXt with any stage code and operation code, as a Detectron2 backbone.

    It maps images of shape (N, in_channels, H, W), where H and W are multiples of 32, to features
    of shape (N, channels, H / stride, W / stride). The strides of "res2" to "res5" are 4, 8, 16 and
    32; that of "res5" is 16 if ``res5_dilation`` is 2. With the codes of a baseline it is
    Detectron2's own network, including the parameter names.
    """

    stages: list[nn.Sequential]

    @configurable
    def __init__(
        self,
        stage_code: Sequence[int],
        operation_code: Sequence[int] = (),
        *,
        block: str = "bottleneck",
        in_channels: int = 3,
        stem_out_channels: int = 64,
        res2_out_channels: int | None = None,
        num_groups: int = 1,
        width_per_group: int = 64,
        stride_in_1x1: bool = False,
        norm: Norm = "BN",
        out_features: Sequence[str] | None = None,
        freeze_at: int = 0,
        activation_checkpoint: bool = False,
        res5_dilation: int = 1,
    ):
        """
        Args:
            stage_code: tau, the number of blocks in each of the 4 stages.
            operation_code: o, for each block the dilation of its 3x3 convolution (the second one in
                a basic block) minus 1. An empty code means all zeros.
            block, in_channels, stem_out_channels, res2_out_channels, num_groups, width_per_group,
                stride_in_1x1, norm, activation_checkpoint, res5_dilation: see
                :class:`ResNetStages`.
            out_features: any of "stem" and "res2" to "res5". By default the last one. Stages that
                are not needed for these are not built.
            freeze_at: number of stages to freeze, see :meth:`ResNet.freeze`.

        Raises:
            ValueError: the codes do not make an architecture of this family, the block is unknown
                or cannot have groups, or a feature is unknown.
        """
        architecture = Architecture.of_family("resnet", stage_code, operation_code)
        stages = ResNetStages(
            block,
            in_channels,
            stem_out_channels,
            res2_out_channels,
            num_groups,
            width_per_group,
            stride_in_1x1,
            norm,
            activation_checkpoint,
            res5_dilation,
        )
        super().__init__(
            stages.make_stage("stem"),
            [
                list(stages.make_stage(name, dilations).children())
                for name, dilations in zip(get_family("resnet").stages, architecture.dilations)
            ],
            out_features=stages.select_features(out_features),
            freeze_at=freeze_at,
        )
        self.architecture = architecture
        if activation_checkpoint:
            self.stages = [stages.chain(stage) for stage in self.stages]
            for name, stage in zip(self.stage_names, self.stages):
                setattr(self, name, stage)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        return network_arguments(cfg, input_shape, "resnet", ResNetStages)
