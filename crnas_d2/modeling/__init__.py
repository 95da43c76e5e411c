from .classifier import ImageClassifier
from .cr_mobilenetv2 import CRMobileNetV2, build_cr_mobilenetv2_backbone
from .cr_resnet import CRResNet, build_cr_resnet_backbone
from .dilation_supernet import DilationSupernet, build_dilation_supernet_backbone
from .fpn import (
    build_cr_mobilenetv2_fpn_backbone,
    build_cr_resnet_fpn_backbone,
    build_dilation_supernet_fpn_backbone,
    build_stage_supernet_fpn_backbone,
)
from .nas_fpn import (
    NASFPN,
    build_cr_mobilenetv2_nasfpn_backbone,
    build_cr_resnet_nasfpn_backbone,
    build_dilation_supernet_nasfpn_backbone,
    build_stage_supernet_nasfpn_backbone,
)
from .stage_supernet import StageSupernet, build_stage_supernet_backbone

__all__ = [
    "CRMobileNetV2",
    "CRResNet",
    "DilationSupernet",
    "ImageClassifier",
    "NASFPN",
    "StageSupernet",
    "build_cr_mobilenetv2_backbone",
    "build_cr_mobilenetv2_fpn_backbone",
    "build_cr_mobilenetv2_nasfpn_backbone",
    "build_cr_resnet_backbone",
    "build_cr_resnet_fpn_backbone",
    "build_cr_resnet_nasfpn_backbone",
    "build_dilation_supernet_backbone",
    "build_dilation_supernet_fpn_backbone",
    "build_dilation_supernet_nasfpn_backbone",
    "build_stage_supernet_backbone",
    "build_stage_supernet_fpn_backbone",
    "build_stage_supernet_nasfpn_backbone",
]
