"""Detectron2's feature pyramids: P2 to P6 for two-stage detectors, P3 to P7 for RetinaNet."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.modeling import FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7


def build_fpn(cfg: CfgNode, bottom_up: Backbone) -> FPN:
    """Detectron2's FPN from ``MODEL.FPN.*``, whose P6 is a max-pooled P5."""
    return _build(cfg, bottom_up, LastLevelMaxPool())


def build_retinanet_fpn(cfg: CfgNode, bottom_up: Backbone) -> FPN:
    """Detectron2's FPN from ``MODEL.FPN.*``, whose P6 and P7 are strided convolutions of res5.

    Raises:
        ValueError: the backbone has no feature "res5".
    """
    shapes = bottom_up.output_shape()
    if "res5" not in shapes:
        raise ValueError(
            f"MODEL.RESNETS.OUT_FEATURES is {list(shapes)}; expected 'res5' among them, from which "
            f"{cfg.MODEL.BACKBONE.NAME!r} makes P6 and P7"
        )
    return _build(
        cfg, bottom_up, LastLevelP6P7(shapes["res5"].channels, cfg.MODEL.FPN.OUT_CHANNELS)
    )


def _build(cfg: CfgNode, bottom_up: Backbone, top_block: LastLevelMaxPool | LastLevelP6P7) -> FPN:
    return FPN(
        bottom_up=bottom_up,
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=top_block,
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )
