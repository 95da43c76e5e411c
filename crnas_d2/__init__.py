"""CR-NAS, computation reallocation for object detection, as a Detectron2 extension."""

from .architecture import ARCHITECTURES, Architecture
from .config import add_crnas_config, get_config
from .modeling import CRMobileNetV2, CRResNet

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "CRMobileNetV2",
    "CRResNet",
    "add_crnas_config",
    "get_config",
]
__version__ = "0.1.0"
