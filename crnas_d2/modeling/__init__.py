from .builders import BUILDERS
from .classifier import ImageClassifier
from .cr_mobilenetv2 import CRMobileNetV2
from .cr_resnet import CRResNet
from .dilation_supernet import DilationSupernet
from .lazy import lazy_model
from .nas_fpn import NASFPN
from .res5_roi_heads import CRRes5ROIHeads
from .stage_supernet import StageSupernet

globals().update(BUILDERS)  # build_cr_fpn_backbone and all others by name

__all__ = [
    "CRMobileNetV2",
    "CRRes5ROIHeads",
    "CRResNet",
    "DilationSupernet",
    "ImageClassifier",
    "NASFPN",
    "StageSupernet",
    "lazy_model",
    *BUILDERS,
]
