"""Recognizes weights of unsupported networks by the names of their tensors."""

from __future__ import annotations

import re
from collections.abc import Iterable

from .names import NAMINGS
from .weights_file import WeightsFile

EXPECTED = (
    "expected a ResNet, a ResNeXt or a MobileNetV2 of torchvision, timm, MSRA or FAIR, a detector of "
    "Detectron2 with one of them, or weights of this project"
)
# Patterns that no supported network has in its names, the more specific ones first
NETWORKS = {
    r"(^|_)fpn_inner_|^rpn_cls_logits|^rpn_bbox_pred|^conv_rpn_|^retnet_": "a detector of Detectron "
    "(Caffe2), not of Detectron2",
    r"relative_position_bias_table": "a Swin transformer",
    r"\.attn\.(qkv|q_proj)|in_proj_weight|\.self_attention\.": "a vision transformer",
    r"(^|\.)s1\.b1\.|trunk_output\.block1": "a RegNet",
    r"(^|\.)features\.1\.block\.": "a MobileNetV3",
    r"\.se\.(conv_reduce|fc1|reduce)|(^|\.)_blocks\.0\._": "an EfficientNet, a MobileNetV3 or "
    "another network with squeeze-and-excitation",
    r"(^|\.)features\.1\.0\.block\.|stages\.0\.(blocks\.)?0\.(conv_dw|dwconv)|layer_scale": "a ConvNeXt "
    "or an EfficientNet",
    r"(^|\.)conv1\.0\.weight$|layer1\.0\.downsample\.2\.": "a ResNet-C or -D, with a deep stem or pooled "
    "shortcuts",
    r"denseblock1": "a DenseNet",
    r"(^|\.)base_layer\.0\.": "a DLA network",
    r"stage2\.0\.branches": "an HRNet",
    r"transformer\.(encoder|decoder)\.": "a transformer detector",
    r"(^|\.)model\.\d+\.(conv|cv1|m)\.|^\d+\.conv\.weight": "a YOLO detector",
    r"(^|\.)stem_1/|OSA\d": "a VoVNet",
    r"(^|\.)features\.0\.weight$": "a VGG or an AlexNet",
}


def check_is_known(file: WeightsFile) -> None:
    """Check that a file is not of a recognizably unsupported network.

    Raises:
        ValueError: it is, or all names of a supported one have a prefix. The message says which,
            and what is expected.
    """
    for pattern, network in NETWORKS.items():
        found = next((name for name in file.tensors if re.search(pattern, name)), None)
        if found:
            raise ValueError(f"{file.path} is of {network} ({found}); {EXPECTED}")
    prefix = _find_prefix(file.tensors)
    if prefix:
        raise ValueError(
            f"{file.path}: the names of a known network begin with {prefix!r}; MODEL.INIT.PREFIX or "
            f"--prefix {prefix} takes what does so"
        )


def _find_prefix(names: Iterable[str]) -> str:
    """Find the prefix of the names of a supported network. Empty if there is none."""
    names = list(names)
    for naming in NAMINGS:
        if any(name.startswith(naming.mark) for name in names):
            return ""
    for naming in NAMINGS:
        for name in names:
            prefix, found, _ = name.partition("." + naming.mark)
            if found:
                return f"{prefix}."
    return ""
