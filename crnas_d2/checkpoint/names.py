"""The names of the tensors of supported networks in torchvision, timm and Caffe2."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch

from detectron2.checkpoint.c2_model_loading import convert_basic_c2_names

from ..architecture import ARCHITECTURES, get_family

# Prefixes of a backbone's tensors in a model with a neck, without one, and by itself
BACKBONE_PREFIXES = ("backbone.bottom_up.", "backbone.", "")
RES5_IN_HEADS = "roi_heads.res5."  # in a C4 detector
COUNTER = "num_batches_tracked"  # of a norm; not all kinds have one

StateDict = dict[str, torch.Tensor]
Value = TypeVar("Value")


@dataclass(frozen=True)
class Naming:
    """A way to name the tensors of a family of networks.

    Attributes:
        family: family of the networks, as in ``MODEL.CR.FAMILY``.
        sources: projects that use these names. The first one is assumed if nothing else is known.
        mark: prefix of a key that every such network has and no other naming uses.
        unused: pattern of the keys that do not contribute to the features, such as the
            classifier's.
        rename: maps a key to that of the backbone, and keeps unknown parts of a key.
        affine_norms: whether norms may lack statistics of their own.
    """

    family: str
    sources: tuple[str, ...]
    mark: str
    unused: str
    rename: Callable[[str], str]
    affine_norms: bool = False

    def is_unused(self, key: str) -> bool:
        return re.fullmatch(self.unused, key) is not None


def without_counters(tensors: Mapping[str, Value]) -> dict[str, Value]:
    """Filter out the counters of norms."""
    return {name: value for name, value in tensors.items() if not name.endswith(COUNTER)}


def find_naming(keys: Iterable[str]) -> Naming:
    """Find the naming that a state dict follows.

    Raises:
        ValueError: there is none, or the network has group norms, which make a different network.
    """
    keys = list(keys)
    for naming in NAMINGS:
        if any(key.startswith(naming.mark) for key in keys):
            break
    else:
        known = ", ".join(f"{n.mark}* ({n.family} of {' or '.join(n.sources)})" for n in NAMINGS)
        raise ValueError(
            f"no known network has such names ({len(keys)} keys: {', '.join(keys[:5])}, ...); "
            f"expected one of {known}"
        )
    grouped = [key for key in keys if re.search(r"_gn_[sb]$", key)]
    if grouped:
        raise ValueError(
            f"the norms are group norms ({len(grouped)} keys: {', '.join(grouped[:3])}, ...); "
            "expected batch norms"
        )
    return naming


def _from_torch_resnet(key: str) -> str:
    key = re.sub(r"^(conv1|bn1)\.", r"stem.\1.", key)
    key = re.sub(r"^layer([1-4])\.", lambda match: f"res{int(match[1]) + 1}.", key)
    key = re.sub(r"\.bn([1-3])\.", r".conv\1.norm.", key)
    return key.replace(".downsample.0.", ".shortcut.").replace(".downsample.1.", ".shortcut.norm.")


def _from_caffe2(key: str) -> str:
    return convert_basic_c2_names([key])[0]


def _from_torchvision_mobilenetv2(key: str) -> str:
    """Convert a name of torchvision.

    As its blocks are numbered across stages, only a known stage code determines the stage.
    """
    match = re.match(r"features\.(\d+)\.(.+)$", key)
    layers = _baseline_layers()
    if match is None or int(match[1]) >= len(layers):
        return key
    layer, rest = layers[int(match[1])], match[2]
    if layer.split(".")[0] in get_family("mobilenetv2").single:
        parts = {"0": "conv", "1": "conv.norm"}
    elif layer.startswith("c16."):
        parts = {"0.0": "depthwise", "0.1": "depthwise.norm", "1": "project", "2": "project.norm"}
    else:
        parts = {
            "0.0": "expand",
            "0.1": "expand.norm",
            "1.0": "depthwise",
            "1.1": "depthwise.norm",
            "2": "project",
            "3": "project.norm",
        }
    part, _, tensor = rest.removeprefix("conv.").rpartition(".")
    return f"{layer}.{parts[part]}.{tensor}" if part in parts else key


def _baseline_layers() -> list[str]:
    code = ARCHITECTURES["MobileNetV2"].stage_code
    stages = get_family("mobilenetv2").stages
    return [f"{stage}.{i}" for stage, n in zip(stages, code) for i in range(n) if stage != "pool"]


def _from_timm_mobilenetv2(key: str) -> str:
    whole = {
        "conv_stem": "stem.0.conv",
        "bn1": "stem.0.conv.norm",
        "conv_head": "c1280.0.conv",
        "bn2": "c1280.0.conv.norm",
    }
    layer, _, tensor = key.rpartition(".")
    if layer in whole:
        return f"{whole[layer]}.{tensor}"
    match = re.match(r"blocks\.([0-6])\.(\d+)\.(\w+)$", layer)
    if match is None:
        return key
    family = get_family("mobilenetv2")
    stage = [stage for stage in family.stages if stage not in family.single][int(match[1])]
    parts = {
        "conv_pw": "expand",
        "bn1": "expand.norm",
        "conv_dw": "depthwise",
        "bn2": "depthwise.norm",
        "conv_pwl": "project",
        "bn3": "project.norm",
    }
    if stage == "c16":  # without the expansion timm numbers them differently
        parts = {
            "conv_dw": "depthwise",
            "bn1": "depthwise.norm",
            "conv_pw": "project",
            "bn2": "project.norm",
        }
    return f"{stage}.{match[2]}.{parts[match[3]]}.{tensor}" if match[3] in parts else key


NAMINGS = (
    Naming("resnet", ("torchvision", "timm"), "layer1.0.conv", r"fc\..+", _from_torch_resnet),
    # Detectron2's own names, which torchvision's weights in its model zoo have
    Naming(
        "resnet",
        ("torchvision", "timm", "msra", "fair"),
        "res2.0.conv",
        r"(stem\.fc|linear)\..+",
        str,
    ),
    # Like Detectron2, leave out the biases of convolutions, as each is followed by a norm.
    Naming(
        "resnet",
        ("msra", "fair"),
        "res2_0_branch",
        r"(fc1000|pred)_[wb]|(conv1|res\d_\d+_branch(1|2[abc]))_b|.+_momentum",
        _from_caffe2,
        affine_norms=True,
    ),
    Naming(
        "mobilenetv2",
        ("torchvision",),
        "features.0.0.",
        r"classifier\..+",
        _from_torchvision_mobilenetv2,
    ),
    Naming("mobilenetv2", ("timm",), "conv_stem.", r"classifier\..+", _from_timm_mobilenetv2),
)
