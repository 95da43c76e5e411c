"""CR backbones and supernets under Detectron2's feature pyramid, P2 to P6."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool

from .cr_mobilenetv2 import CRMobileNetV2
from .cr_resnet import CRResNet
from .dilation_supernet import DilationSupernet
from .stage_supernet import StageSupernet


def build_fpn(cfg: CfgNode, bottom_up: Backbone) -> FPN:
    """Detectron2's FPN from ``MODEL.FPN.*``, with P6 by max-pooling P5."""
    return FPN(
        bottom_up=bottom_up,
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=LastLevelMaxPool(),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )


@BACKBONE_REGISTRY.register()
def build_cr_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """FPN over a :class:`CRResNet`."""
    return build_fpn(cfg, CRResNet(cfg, input_shape))


@BACKBONE_REGISTRY.register()
def build_cr_mobilenetv2_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """FPN over a :class:`CRMobileNetV2`."""
    return build_fpn(cfg, CRMobileNetV2(cfg, input_shape))


@BACKBONE_REGISTRY.register()
def build_stage_supernet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """FPN over a :class:`StageSupernet`."""
    return build_fpn(cfg, StageSupernet(cfg, input_shape))


@BACKBONE_REGISTRY.register()
def build_dilation_supernet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """FPN over a :class:`DilationSupernet`."""
    return build_fpn(cfg, DilationSupernet(cfg, input_shape))
