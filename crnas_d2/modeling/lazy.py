"""Detectors with the named architectures as Detectron2's lazy configs, without YAML."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from omegaconf import DictConfig

from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.layers import ShapeSpec
from detectron2.modeling import FCOS, FPN, GeneralizedRCNN, RetinaNet
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.meta_arch.fcos import FCOSHead
from detectron2.modeling.meta_arch.retinanet import RetinaNetHead
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.proposal_generator import RPN, StandardRPNHead
from detectron2.modeling.roi_heads import (
    FastRCNNConvFCHead,
    FastRCNNOutputLayers,
    MaskRCNNConvUpsampleHead,
    StandardROIHeads,
)

from ..architecture import ARCHITECTURES, Architecture
from .cr_mobilenetv2 import CRMobileNetV2
from .cr_resnet import CRResNet
from .meta import on_meta

# Arguments of named networks that their codes do not imply. The other networks need none.
BODIES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "ResNet18": {"block": "basic"},
        "ResNeXt50": {"num_groups": 32, "width_per_group": 4},
        "ResNeXt101": {"num_groups": 32, "width_per_group": 4},
    }
)
INPUT: Mapping[str, Any] = MappingProxyType(
    {  # in RGB, as in torchvision's ImageNet training
        "pixel_mean": [123.675, 116.28, 103.53],
        "pixel_std": [58.395, 57.12, 57.375],
    }
)
PLAIN = [architecture for name, architecture in ARCHITECTURES.items() if "-" not in name]
ROI_FEATURES = ["p2", "p3", "p4", "p5"]
DENSE_FEATURES = ["p3", "p4", "p5", "p6", "p7"]


def lazy_model(
    architecture: str | Architecture,
    detector: str = "faster_rcnn",
    *,
    num_classes: int = 80,
    norm: str = "SyncBN",
    freeze_at: int | None = None,
    **body: Any,
) -> DictConfig:
    """Get a detector with a CR backbone as a lazy config, to be built by ``instantiate``.

    It equals the detector of the YAML configs. Anything that is not an argument here can be changed
    in the result, as in ``model.backbone.out_channels = 64``. Images are RGB, with values from 0 to
    255.

    Args:
        architecture: an architecture, or the name of one in :data:`ARCHITECTURES`, such as
            "CR-ResNet50".
        detector: "faster_rcnn", "mask_rcnn", "retinanet" or "fcos", each with Detectron2's FPN.
        num_classes: number of classes of the dataset.
        norm: norm of the backbone, see :func:`detectron2.layers.get_norm`. "SyncBN" is for GPUs.
            The FPN has no norm, as in the YAML configs.
        freeze_at: number of stages to freeze, see :meth:`detectron2.modeling.ResNet.freeze`. By
            default 2 for a published baseline and 1 for all other networks, as in the YAML configs.
        body: further arguments of :class:`CRResNet` or :class:`CRMobileNetV2`. By default, codes of
            the ResNet family make bottlenecks with the widths of ResNet50.

    Raises:
        ValueError: there is no such architecture or detector.
    """
    if detector not in DETECTORS:
        raise ValueError(f"detector is {detector!r}; expected one of {', '.join(DETECTORS)}")
    if not isinstance(architecture, Architecture):
        if architecture not in list(ARCHITECTURES):
            raise ValueError(
                f"architecture is {architecture!r}; expected an Architecture, or one of "
                f"{', '.join(ARCHITECTURES)}"
            )
        body = {**BODIES.get(architecture.rpartition("-")[2], {}), **body}
        architecture = ARCHITECTURES[architecture]
    if freeze_at is None:
        freeze_at = 2 if architecture in PLAIN else 1
    network = CRMobileNetV2 if architecture.family == "mobilenetv2" else CRResNet
    bottom_up = L(network)(
        stage_code=list(architecture.stage_code),
        operation_code=list(architecture.operation_code),
        norm=norm,
        freeze_at=freeze_at,
        **body,
    )
    return DETECTORS[detector](bottom_up, num_classes)


def _faster_rcnn(bottom_up: DictConfig, num_classes: int) -> DictConfig:
    bottom_up.out_features = ["res2", "res3", "res4", "res5"]
    return L(GeneralizedRCNN)(
        backbone=_fpn(bottom_up, L(LastLevelMaxPool)()),
        proposal_generator=L(RPN)(
            in_features=["p2", "p3", "p4", "p5", "p6"],
            head=L(StandardRPNHead)(in_channels="${...backbone.out_channels}", num_anchors=3),
            anchor_generator=L(DefaultAnchorGenerator)(
                sizes=[[32], [64], [128], [256], [512]],
                aspect_ratios=[0.5, 1.0, 2.0],
                strides=[4, 8, 16, 32, 64],
                offset=0.0,
            ),
            anchor_matcher=L(Matcher)(
                thresholds=[0.3, 0.7], labels=[0, -1, 1], allow_low_quality_matches=True
            ),
            box2box_transform=L(Box2BoxTransform)(weights=[1.0, 1.0, 1.0, 1.0]),
            batch_size_per_image=256,
            positive_fraction=0.5,
            pre_nms_topk=(2000, 1000),  # in training and in tests, per FPN level
            post_nms_topk=(1000, 1000),
            nms_thresh=0.7,
        ),
        roi_heads=L(StandardROIHeads)(
            num_classes=num_classes,
            batch_size_per_image=512,
            positive_fraction=0.25,
            proposal_matcher=L(Matcher)(
                thresholds=[0.5], labels=[0, 1], allow_low_quality_matches=False
            ),
            box_in_features=ROI_FEATURES,
            box_pooler=_pooler(7),
            box_head=L(FastRCNNConvFCHead)(
                input_shape=_pooled_shape(7), conv_dims=[], fc_dims=[1024, 1024]
            ),
            box_predictor=L(FastRCNNOutputLayers)(
                input_shape=L(ShapeSpec)(channels="${...box_head.fc_dims[1]}"),
                box2box_transform=L(Box2BoxTransform)(weights=[10.0, 10.0, 5.0, 5.0]),
                num_classes="${..num_classes}",
                test_score_thresh=0.05,
            ),
        ),
        input_format="RGB",
        **INPUT,
    )


def _mask_rcnn(bottom_up: DictConfig, num_classes: int) -> DictConfig:
    model = _faster_rcnn(bottom_up, num_classes)
    model.roi_heads.update(
        mask_in_features=ROI_FEATURES,
        mask_pooler=_pooler(14),
        mask_head=L(MaskRCNNConvUpsampleHead)(
            input_shape=_pooled_shape(14),
            # the last one belongs to the transposed convolution
            conv_dims=[256, 256, 256, 256, 256],
            num_classes="${..num_classes}",
        ),
    )
    return model


def _retinanet(bottom_up: DictConfig, num_classes: int) -> DictConfig:
    bottom_up.out_features = ["res3", "res4", "res5"]
    with on_meta():
        res5 = instantiate(bottom_up).output_shape()["res5"]
    top_block = L(LastLevelP6P7)(in_channels=res5.channels, out_channels="${..out_channels}")
    return L(RetinaNet)(
        backbone=_fpn(bottom_up, top_block),
        head=L(RetinaNetHead)(num_anchors=9, **_dense_head()),
        head_in_features=DENSE_FEATURES,
        anchor_generator=L(DefaultAnchorGenerator)(
            sizes=[[x, x * 2 ** (1 / 3), x * 2 ** (2 / 3)] for x in (32, 64, 128, 256, 512)],
            aspect_ratios=[0.5, 1.0, 2.0],
            strides=[8, 16, 32, 64, 128],
            offset=0.0,
        ),
        box2box_transform=L(Box2BoxTransform)(weights=[1.0, 1.0, 1.0, 1.0]),
        anchor_matcher=L(Matcher)(
            thresholds=[0.4, 0.5], labels=[0, -1, 1], allow_low_quality_matches=True
        ),
        num_classes=num_classes,
        focal_loss_alpha=0.25,
        focal_loss_gamma=2.0,
        test_score_thresh=0.05,
        input_format="RGB",
        **INPUT,
    )


def _fcos(bottom_up: DictConfig, num_classes: int) -> DictConfig:
    bottom_up.out_features = ["res3", "res4", "res5"]
    top_block = L(LastLevelP6P7)(
        in_channels="${..out_channels}", out_channels="${..out_channels}", in_feature="p5"
    )
    return L(FCOS)(
        backbone=_fpn(bottom_up, top_block),
        head=L(FCOSHead)(norm="GN", **_dense_head()),
        head_in_features=DENSE_FEATURES,
        num_classes=num_classes,
        focal_loss_alpha=0.25,
        focal_loss_gamma=2.0,
        test_score_thresh=0.2,
        test_nms_thresh=0.6,
        **INPUT,
    )


DETECTORS: Mapping[str, Callable[[DictConfig, int], DictConfig]] = MappingProxyType(
    {
        "faster_rcnn": _faster_rcnn,
        "mask_rcnn": _mask_rcnn,
        "retinanet": _retinanet,
        "fcos": _fcos,
    }
)


def _fpn(bottom_up: DictConfig, top_block: DictConfig) -> DictConfig:
    return L(FPN)(
        bottom_up=bottom_up,
        in_features="${.bottom_up.out_features}",
        out_channels=256,
        norm="",
        top_block=top_block,
    )


def _pooler(output_size: int) -> DictConfig:
    return L(ROIPooler)(
        output_size=output_size,
        scales=(1 / 4, 1 / 8, 1 / 16, 1 / 32),
        sampling_ratio=0,
        pooler_type="ROIAlignV2",
    )


def _pooled_shape(side: int) -> DictConfig:
    """The input shape of a head inside the RoI heads."""
    return L(ShapeSpec)(channels="${....backbone.out_channels}", height=side, width=side)


def _dense_head() -> dict[str, Any]:
    shape = L(ShapeSpec)(channels="${....backbone.out_channels}")
    return {
        "input_shape": [shape] * len(DENSE_FEATURES),
        "num_classes": "${..num_classes}",
        "conv_dims": ["${...backbone.out_channels}"] * 4,
        "prior_prob": 0.01,
    }
