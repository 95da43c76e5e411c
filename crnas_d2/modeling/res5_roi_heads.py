"""The RoI heads of a C4 detector whose res5 is the last stage of a CR-ResNet."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.roi_heads import Res5ROIHeads

from ..config import get_architecture
from .cr_resnet import ResNetStages


@ROI_HEADS_REGISTRY.register()
class CRRes5ROIHeads(Res5ROIHeads):
    """Detectron2's RoI heads of a C4 detector, with res5 built from the codes in ``MODEL.CR``.

    The backbone ends at res4, and res5 runs on each RoI. Its blocks, dilations, widths, groups,
    norm and stride placement equal those of a :class:`CRResNet`. With the codes of a baseline these
    are Detectron2's own heads, including the parameter names.
    """

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> dict:
        """
        Raises:
            ValueError: the keys contradict each other, see :func:`check_keys`, or the feature that
                RoIs are pooled from does not have the channels of res4.
        """
        expected = cls._stages(cfg).out_channels("res4")
        (feature,) = cfg.MODEL.ROI_HEADS.IN_FEATURES
        channels = input_shape[feature].channels
        if channels != expected:
            raise ValueError(
                f"MODEL.ROI_HEADS.IN_FEATURES is {[feature]}, a feature of {channels} channels; "
                f"expected ['res4'] of a CR backbone, with {expected}, which res5 goes on from"
            )
        return super().from_config(cfg, input_shape)

    @classmethod
    def _build_res5_block(cls, cfg: CfgNode) -> tuple[nn.Module, int]:
        stages = cls._stages(cfg)
        dilations = get_architecture(cfg).dilations[-1]
        return stages.make_stage("res5", dilations), stages.out_channels("res5")

    @staticmethod
    def _stages(cfg: CfgNode) -> ResNetStages:
        get_architecture(cfg, family="resnet")
        return ResNetStages(**ResNetStages.arguments(cfg, ShapeSpec(channels=3)))
