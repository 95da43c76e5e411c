"""Infers the network of a state dict from the shapes of its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..architecture import get_family
from ..modeling.cr_mobilenetv2 import INVERTED_RESIDUALS, round_channels

Shapes = Mapping[str, tuple[int, ...]]


def infer_arguments(family: str, shapes: Shapes) -> dict[str, Any]:
    """Infer the arguments of the backbone's constructor that fit a state dict.

    Only the tensors that determine the arguments are examined: there may be no network with all the
    keys and shapes of the state dict.

    Args:
        family: "resnet" or "mobilenetv2".
        shapes: shapes of the tensors, by the names of :class:`CRResNet` or :class:`CRMobileNetV2`.

    Raises:
        ValueError: no arguments fit, or a tensor that determines them is missing.
    """
    infer = {"resnet": _infer_resnet, "mobilenetv2": _infer_mobilenetv2}[family]
    return infer(shapes)


def _infer_resnet(shapes: Shapes) -> dict[str, Any]:
    is_bottleneck = any(".conv3." in name for name in shapes)
    channels = _size(shapes, "res2.0.conv2.weight", 0)
    num_groups = channels // _size(shapes, "res2.0.conv2.weight", 1)
    arguments = {
        "block": "bottleneck" if is_bottleneck else "basic",
        "stage_code": [_count_blocks(shapes, stage) for stage in get_family("resnet").stages],
        "stem_out_channels": _size(shapes, "stem.conv1.norm.weight", 0),
        "res2_out_channels": channels,
        "num_groups": num_groups,
    }
    if is_bottleneck:
        arguments["res2_out_channels"] = _size(shapes, "res2.0.conv3.weight", 0)
        arguments["width_per_group"] = channels // max(num_groups, 1)
    return arguments


def _infer_mobilenetv2(shapes: Shapes) -> dict[str, Any]:
    family = get_family("mobilenetv2")
    channels = {
        "stem": _size(shapes, "stem.0.conv.norm.weight", 0),
        **{s: _size(shapes, f"{s}.0.project.norm.weight", 0) for s in INVERTED_RESIDUALS},
        "c1280": _size(shapes, "c1280.0.conv.norm.weight", 0),
    }
    return {
        "stage_code": [
            1 if stage in family.single else _count_blocks(shapes, stage) for stage in family.stages
        ],
        "width_multiplier": _infer_width_multiplier(channels),
    }


def _infer_width_multiplier(channels: Mapping[str, int]) -> float:
    """Find the simplest of the multipliers that round to the same channels."""
    widest = channels["c320"] / 320
    fitting = [
        thousandths / 1000
        for thousandths in range(1, int(1200 * widest) + 1)
        if _mobilenetv2_channels(thousandths / 1000) == channels
    ]
    if not fitting:
        raise ValueError(f"no width multiplier gives the channels {dict(channels)}")
    return min(fitting, key=lambda width: (len(str(width)), abs(width - widest)))


def _mobilenetv2_channels(width_multiplier: float) -> dict[str, int]:
    return {
        "stem": round_channels(32 * width_multiplier),
        **{s: round_channels(c * width_multiplier) for s, (_, c, _) in INVERTED_RESIDUALS.items()},
        "c1280": round_channels(1280 * max(1.0, width_multiplier)),
    }


def _count_blocks(shapes: Shapes, stage: str) -> int:
    return len({name.split(".")[1] for name in shapes if name.startswith(f"{stage}.")})


def _size(shapes: Shapes, name: str, axis: int) -> int:
    shape = shapes.get(name)
    if shape is None:
        raise ValueError(f"tensor {name} is missing")
    if len(shape) <= axis or shape[axis] < 1:
        raise ValueError(f"tensor {name} has shape {shape}")
    return shape[axis]
