"""CR-NAS, computation reallocation for object detection, as a Detectron2 extension.

Importing it registers the backbones and the data sets.
"""

from . import data, spaces
from .architecture import ARCHITECTURES, Architecture
from .config import add_crnas_config, get_config
from .modeling import CRMobileNetV2, CRResNet

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "CRMobileNetV2",
    "CRResNet",
    "add_crnas_config",
    "data",
    "get_config",
    "spaces",
]
__version__ = "0.1.0"
