"""Checks of config keys that a CR backbone cannot honor, which are refused instead of ignored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY, ROI_HEADS_REGISTRY, GeneralizedRCNN
from detectron2.modeling.roi_heads import Res5ROIHeads

from .builder_names import neck_of, supernet_kind

DILATIONS = "as dilations are told by MODEL.CR.OPERATION_CODE"
DEFORMABLE = "as a CR backbone has no deformable convolutions"
# Keys of MODEL.RESNETS, the only value (or entry of a list) that all backbones support, and why.
# The last three belong to Detectron2's DeepLab.
FIXED: Mapping[str, tuple[Any, str]] = MappingProxyType(
    {
        "DEFORM_ON_PER_STAGE": (False, DEFORMABLE),
        "DEFORM_MODULATED": (False, DEFORMABLE),
        "DEFORM_NUM_GROUPS": (1, DEFORMABLE),
        "RES4_DILATION": (1, DILATIONS),
        "RES5_MULTI_GRID": (1, DILATIONS),
        "STEM_TYPE": ("basic", "as a CR backbone has no other stem"),
    }
)
# Detectron2's defaults of the widths that MobileNetV2 does not follow
WIDTHS: Mapping[str, int] = MappingProxyType(
    {"NUM_GROUPS": 1, "WIDTH_PER_GROUP": 64, "STEM_OUT_CHANNELS": 64, "RES2_OUT_CHANNELS": 256}
)
# What Detectron2's depths mean. Depth 50 is left out, as it may just be the default.
DEFAULT_DEPTH = 50
DEPTHS: Mapping[int, tuple[str, list[int]]] = MappingProxyType(
    {
        18: ("basic", [2, 2, 2, 2]),
        34: ("basic", [3, 4, 6, 3]),
        101: ("bottleneck", [3, 4, 23, 3]),
        152: ("bottleneck", [3, 8, 36, 3]),
    }
)


def check_keys(cfg: CfgNode) -> None:
    """Check that the keys which describe a backbone agree with each other.

    Every key of ``MODEL.RESNETS`` or ``MODEL.CR`` is either followed or has to be at its default.

    Raises:
        ValueError: names the key, its value, and what was expected.
    """
    for key, value, expected, reason in _fixed_keys(cfg):
        if isinstance(value, (list, tuple)):
            value, expected = list(value), [expected] * len(value)
        if value != expected:
            raise ValueError(f"{key} is {value!r}; expected {expected!r}, {reason}")
    _check_depth(cfg)
    _check_res5_dilation(cfg)
    if _stops_below_res5(cfg):
        check_res5_heads(cfg)
    if supernet_kind(cfg.MODEL.BACKBONE.NAME) and "res5" not in cfg.MODEL.RESNETS.OUT_FEATURES:
        raise ValueError(
            f"MODEL.RESNETS.OUT_FEATURES is {cfg.MODEL.RESNETS.OUT_FEATURES}; expected 'res5' among "
            "them, as the paths of a supernet have entries for all stages"
        )


def check_res5_heads(cfg: CfgNode) -> None:
    """Check that RoI heads which contain res5 (C4) build it from the codes.

    Raises:
        ValueError: they do not, or they cannot because the backbone is a supernet, a MobileNetV2,
            or has a dilated res5.
    """
    model, heads = cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.ROI_HEADS.NAME
    if model not in META_ARCH_REGISTRY or heads not in ROI_HEADS_REGISTRY:
        return
    kind = ROI_HEADS_REGISTRY.get(heads)
    if not (
        issubclass(META_ARCH_REGISTRY.get(model), GeneralizedRCNN)
        and issubclass(kind, Res5ROIHeads)
    ):
        return
    if supernet_kind(cfg.MODEL.BACKBONE.NAME):
        raise ValueError(
            f"MODEL.ROI_HEADS.NAME is {heads!r}, which has res5 in the RoI heads; expected "
            "'StandardROIHeads' or others without it, as a supernet chooses paths through all stages"
        )
    if cfg.MODEL.CR.FAMILY != "resnet":
        raise ValueError(
            f"MODEL.ROI_HEADS.NAME is {heads!r}, which has res5 of a ResNet in the RoI heads; "
            "expected 'StandardROIHeads' or others without it, as MODEL.CR.FAMILY is "
            f"{cfg.MODEL.CR.FAMILY!r}"
        )
    if cfg.MODEL.RESNETS.RES5_DILATION != 1:
        raise ValueError(
            f"MODEL.RESNETS.RES5_DILATION is {cfg.MODEL.RESNETS.RES5_DILATION}; expected 1 with "
            f"MODEL.ROI_HEADS.NAME {heads!r}, where res5 runs on RoIs"
        )
    own = getattr(kind._build_res5_block, "__func__", None)
    if own is Res5ROIHeads._build_res5_block.__func__:
        raise ValueError(
            f"MODEL.ROI_HEADS.NAME is {heads!r}, whose res5 has 3 bottleneck blocks of dilation 1 "
            "whatever MODEL.CR says; expected 'CRRes5ROIHeads', whose res5 has the codes"
        )


def _fixed_keys(cfg: CfgNode) -> Iterator[tuple[str, Any, Any, str]]:
    """Iterate over the keys with a single valid value, as (key, value, expected value, reason)."""
    cr, resnets = cfg.MODEL.CR, cfg.MODEL.RESNETS
    for key, (expected, reason) in FIXED.items():
        if key in resnets:
            yield f"MODEL.RESNETS.{key}", resnets[key], expected, reason
    if cr.FAMILY == "mobilenetv2":
        for key, default in WIDTHS.items():
            reason = "the default, as the channels of MobileNetV2 follow MODEL.CR.WIDTH_MULTIPLIER"
            yield f"MODEL.RESNETS.{key}", resnets[key], default, reason
        reason = "the default, as MODEL.CR.FAMILY is 'mobilenetv2', which has blocks of its own"
        yield "MODEL.CR.BLOCK", cr.BLOCK, "bottleneck", reason
    else:
        reason = f"as MODEL.CR.FAMILY is {cr.FAMILY!r}, whose channels follow MODEL.RESNETS"
        yield "MODEL.CR.WIDTH_MULTIPLIER", cr.WIDTH_MULTIPLIER, 1, reason


def _check_depth(cfg: CfgNode) -> None:
    cr, depth = cfg.MODEL.CR, cfg.MODEL.RESNETS.DEPTH
    if depth == DEFAULT_DEPTH:
        return
    own = (cr.BLOCK, list(cr.STAGE_CODE))
    if DEPTHS.get(depth) != own:
        raise ValueError(
            f"MODEL.RESNETS.DEPTH is {depth}; expected {_depths_of(own)}, as MODEL.CR has "
            f"{own[0]} blocks and the stage code {own[1]}"
        )


def _check_res5_dilation(cfg: CfgNode) -> None:
    dilation = cfg.MODEL.RESNETS.RES5_DILATION
    if dilation not in (1, 2):
        raise ValueError(f"MODEL.RESNETS.RES5_DILATION is {dilation!r}; expected 1 or 2")
    if dilation == 2 and _has_pyramid(cfg):
        raise ValueError(
            "MODEL.RESNETS.RES5_DILATION is 2; expected 1 under the feature pyramid of "
            f"{cfg.MODEL.BACKBONE.NAME!r}, where each level has twice the stride of the one before"
        )


def _stops_below_res5(cfg: CfgNode) -> bool:
    """Whether the RoI heads read features of a backbone that ends before res5."""
    features = set(cfg.MODEL.RESNETS.OUT_FEATURES)
    is_direct = not _has_pyramid(cfg) and features.issuperset(cfg.MODEL.ROI_HEADS.IN_FEATURES)
    return is_direct and "res5" not in features


def _has_pyramid(cfg: CfgNode) -> bool:
    return bool(neck_of(cfg.MODEL.BACKBONE.NAME))


def _depths_of(own: tuple[str, list[int]]) -> str:
    fitting = [depth for depth, codes in DEPTHS.items() if codes == own]
    return " or ".join(map(str, [DEFAULT_DEPTH, *fitting]))
