"""Detectron2's feature pyramids: P2 to P6 for two-stage detectors, P3 to P7 for RetinaNet."""

from __future__ import annotations

import torch

from detectron2.config import CfgNode
from detectron2.modeling import FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7


class BottomUpPyramid(FPN):
    """Detectron2's FPN without its top-down pathway: the "bottom-up pyramid" of table 1 (d) of FPN's paper.

    A level depends on its own stage and on those before it alone. Parameters have the names of FPN's.
    """

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Gives the levels by name, the one with the smallest stride first."""
        features = self.bottom_up(x)
        levels = [
            output(lateral(features[name]))
            for name, lateral, output in zip(
                self.in_features, self.lateral_convs[::-1], self.output_convs[::-1]
            )
        ]
        if self.top_block is not None:
            name = self.top_block.in_feature
            top = features[name] if name in features else levels[self._out_features.index(name)]
            levels.extend(self.top_block(top))
        return dict(zip(self._out_features, levels))


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
    fuse_type = cfg.MODEL.FPN.FUSE_TYPE
    pyramid = BottomUpPyramid if fuse_type == "none" else FPN
    return pyramid(
        bottom_up=bottom_up,
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=top_block,
        fuse_type="sum" if fuse_type == "none" else fuse_type,
    )
