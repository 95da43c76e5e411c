"""CR-NAS, computation reallocation for object detection, as a Detectron2 extension.

Importing this package registers its backbones, heads and datasets with Detectron2.
"""

from .library_warnings import ignore_library_warnings

ignore_library_warnings()  # before anything below imports Detectron2

from . import checkpoint, data, spaces
from .architecture import ARCHITECTURES, Architecture
from .config import add_crnas_config, get_config
from .config_files import configs_dir
from .modeling import CRMobileNetV2, CRResNet, DilationSupernet, StageSupernet, lazy_model

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "CRMobileNetV2",
    "CRResNet",
    "DilationSupernet",
    "StageSupernet",
    "add_crnas_config",
    "checkpoint",
    "configs_dir",
    "data",
    "get_config",
    "lazy_model",
    "spaces",
]
__version__ = "0.1.0"
