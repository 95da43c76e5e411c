"""Checks that the model of a config can be built, without allocating its weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from detectron2.config import CfgNode
from detectron2.modeling import (
    ANCHOR_GENERATOR_REGISTRY,
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    PROPOSAL_GENERATOR_REGISTRY,
    ROI_BOX_HEAD_REGISTRY,
    ROI_HEADS_REGISTRY,
    ROI_MASK_HEAD_REGISTRY,
    RPN_HEAD_REGISTRY,
    StandardROIHeads,
    build_model,
)

from ..checkpoint.start import build_on_meta
from ..config import get_architecture
from ..modeling import BUILDERS
from ..modeling.builder_names import neck_of, supernet_kind
from ..modeling.meta import on_meta
from ..modeling.supernet import Supernet
from ..spaces import get_operation_space, get_stage_space
from .faults import is_own

# Keys that name a part of the model, and the registry of the part. An empty name means no part
PARTS = {
    "META_ARCHITECTURE": META_ARCH_REGISTRY,
    "BACKBONE.NAME": BACKBONE_REGISTRY,
    "PROPOSAL_GENERATOR.NAME": PROPOSAL_GENERATOR_REGISTRY,
    "ANCHOR_GENERATOR.NAME": ANCHOR_GENERATOR_REGISTRY,
    "RPN.HEAD_NAME": RPN_HEAD_REGISTRY,
    "ROI_HEADS.NAME": ROI_HEADS_REGISTRY,
    "ROI_BOX_HEAD.NAME": ROI_BOX_HEAD_REGISTRY,
    "ROI_MASK_HEAD.NAME": ROI_MASK_HEAD_REGISTRY,
}
UNREGISTERED = ("PrecomputedProposals",)  # Detectron2's name for no proposal generator
NEEDED = ("META_ARCHITECTURE", "BACKBONE.NAME")
# Keys of the features that the model reads, by the meta-architecture
READERS = {
    "GeneralizedRCNN": ("RPN.IN_FEATURES", "ROI_HEADS.IN_FEATURES"),
    "ProposalNetwork": ("RPN.IN_FEATURES",),
    "RetinaNet": ("RETINANET.IN_FEATURES",),
    "PanopticFPN": ("RPN.IN_FEATURES", "ROI_HEADS.IN_FEATURES", "SEM_SEG_HEAD.IN_FEATURES"),
    "SemanticSegmentor": ("SEM_SEG_HEAD.IN_FEATURES",),
}


def check_parts(cfg: CfgNode) -> None:
    """Check that all parts of a model are registered, and that its RoI heads are complete.

    Raises:
        ValueError: names the key, its value, and what was expected.
    """
    for key, registry in PARTS.items():
        name = _value(cfg, key)
        if name not in registry and name not in UNREGISTERED and (name or key in NEEDED):
            raise ValueError(f"MODEL.{key} is {name!r}; expected one of {_listed(dict(registry))}")
    _check_heads(cfg)
    if cfg.MODEL.BACKBONE.NAME in BUILDERS:
        _check_backbone(cfg)


def _check_heads(cfg: CfgNode) -> None:
    heads, box = cfg.MODEL.ROI_HEADS.NAME, cfg.MODEL.ROI_BOX_HEAD
    if cfg.MODEL.META_ARCHITECTURE != "GeneralizedRCNN" or not heads:
        return
    if issubclass(ROI_HEADS_REGISTRY.get(heads), StandardROIHeads) and not box.NAME:
        raise ValueError(
            "MODEL.ROI_BOX_HEAD.NAME is ''; expected one of "
            f"{_listed(dict(ROI_BOX_HEAD_REGISTRY))} for MODEL.ROI_HEADS.NAME {heads!r}"
        )
    if box.NAME == "FastRCNNConvFCHead" and not box.NUM_CONV + box.NUM_FC:
        raise ValueError(
            "MODEL.ROI_BOX_HEAD.NUM_FC is 0 and MODEL.ROI_BOX_HEAD.NUM_CONV 0; expected one layer at "
            "least"
        )
    if heads == "CascadeROIHeads" and not box.CLS_AGNOSTIC_BBOX_REG:
        raise ValueError(
            "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG is False; expected True for "
            "MODEL.ROI_HEADS.NAME 'CascadeROIHeads'"
        )


def _check_backbone(cfg: CfgNode) -> None:
    """Check keys of a CR backbone that its builder does not check, or not by name."""
    supernet, name, features = (
        cfg.MODEL.SUPERNET,
        cfg.MODEL.BACKBONE.NAME,
        cfg.MODEL.FPN.IN_FEATURES,
    )
    if neck_of(name) in ("fpn", "retinanet_fpn"):
        if not features or not set(cfg.MODEL.RESNETS.OUT_FEATURES).issuperset(features):
            raise ValueError(
                f"MODEL.FPN.IN_FEATURES is {features!r}; expected some of MODEL.RESNETS.OUT_FEATURES, "
                f"which is {cfg.MODEL.RESNETS.OUT_FEATURES!r}"
            )
    kind = supernet_kind(name)
    if not kind:
        return
    if cfg.TEST.PRECISE_BN.ENABLED:
        raise ValueError(
            "TEST.PRECISE_BN.ENABLED is True; expected False for a supernet, where it would overwrite "
            "the statistics of all paths but the one that runs"
        )
    architecture = get_architecture(cfg)
    try:
        if kind == "stage":
            get_stage_space(architecture.family, supernet.STAGE_CHOICES, supernet.STAGE_WEIGHTS)
        else:
            get_operation_space(architecture, supernet.OPERATIONS)
    except ValueError as error:
        raise ValueError(f"MODEL.SUPERNET: {error}") from None


def check_model(cfg: CfgNode) -> None:
    """Build the model of a config on the meta device, where no memory is allocated.

    Args:
        cfg: config whose parts are registered, see :func:`check_parts`, with the number of classes.

    Raises:
        ValueError: the model cannot be built. The message says why.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "meta"
    try:
        with on_meta():
            model = build_model(cfg)
    except Exception as error:  # a part of Detectron2 or of another project may raise anything
        if is_own(error):
            raise
        _check_features(cfg)
        raise ValueError(
            f"the model of MODEL.META_ARCHITECTURE {cfg.MODEL.META_ARCHITECTURE!r} and "
            f"MODEL.BACKBONE.NAME {cfg.MODEL.BACKBONE.NAME!r} cannot be built: {type(error).__name__}: "
            + " ".join(str(error).split())
        ) from error
    _check_test_paths(cfg, model)


def _check_features(cfg: CfgNode) -> None:
    """Check the features of the backbone, and the anchors on them."""
    if cfg.MODEL.META_ARCHITECTURE not in READERS:
        return
    try:
        given = build_on_meta(cfg).output_shape()
    except Exception:  # this is also why the model failed
        return
    keys = READERS[cfg.MODEL.META_ARCHITECTURE]
    for key in keys:
        features = _value(cfg, key)
        if not features or not set(given).issuperset(features):
            raise ValueError(
                f"MODEL.{key} is {features!r}; expected some of {_listed(given)}, which "
                f"MODEL.BACKBONE.NAME {cfg.MODEL.BACKBONE.NAME!r} gives"
            )
    levels = len(_value(cfg, keys[0]))
    for key in ("SIZES", "ASPECT_RATIOS"):
        value = cfg.MODEL.ANCHOR_GENERATOR[key]
        if isinstance(value[0], (list, tuple)) and len(value) not in (1, levels):
            raise ValueError(
                f"MODEL.ANCHOR_GENERATOR.{key} is {value!r}; expected one list, or one for each of "
                f"MODEL.{keys[0]}, which is {_value(cfg, keys[0])!r}"
            )


def _check_test_paths(cfg: CfgNode, model: nn.Module) -> None:
    for supernet in (module for module in model.modules() if isinstance(module, Supernet)):
        for path in cfg.MODEL.SUPERNET.TEST_PATHS:
            try:
                supernet.set_path(path)
            except (TypeError, ValueError) as error:
                raise ValueError(f"MODEL.SUPERNET.TEST_PATHS has {path!r}: {error}") from None


def _value(cfg: CfgNode, key: str) -> Any:
    parent, _, name = key.rpartition(".")
    return (cfg.MODEL[parent] if parent else cfg.MODEL)[name]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, sorted(names)))
