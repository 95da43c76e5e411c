"""Multiply-adds of modules that only a user has: counted where they run, refused where they cannot be."""

import pytest
from counted import c4_config, config, conv, executed_flops, mask_rcnn
from torch import nn

import crnas_d2
from crnas_d2.analysis import analyze_detector

from detectron2.layers import ShapeSpec
from detectron2.modeling import (
    BACKBONE_REGISTRY,
    PROPOSAL_GENERATOR_REGISTRY,
    ROI_HEADS_REGISTRY,
    ROI_MASK_HEAD_REGISTRY,
    Backbone,
    StandardROIHeads,
)


@BACKBONE_REGISTRY.register()
class BackboneWithTestNeck(Backbone):
    def __init__(self, cfg, input_shape):
        super().__init__()
        self.bottom_up = crnas_d2.CRResNet((1, 1, 1, 1), block="basic", out_features=["res3"])
        self.reduce = nn.Conv2d(128, 16, 1)
        self.cells = nn.ModuleList(nn.Conv2d(16, 16, 3, padding=1) for _ in range(2))

    def forward(self, x):
        x = self.reduce(self.bottom_up(x)["res3"])
        for cell in self.cells:
            x = cell(x)
        return {"p3": x}

    def output_shape(self):
        return {"p3": ShapeSpec(channels=16, stride=8)}


def config_with_test_neck():
    cfg = config("R_18")
    cfg.MODEL.BACKBONE.NAME = "BackboneWithTestNeck"
    cfg.MODEL.RPN.IN_FEATURES = cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p3"]
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[64]]
    return cfg


def test_unknown_neck_is_one_module():
    cost = analyze_detector(config_with_test_neck(), (64, 96))
    (neck,) = (m for m in cost.modules if m.part == "neck")
    assert neck.macs == conv(8, 12, 128, 16, 1) + 2 * conv(8, 12, 16, 16, 3)
    assert neck.parameters == 128 * 16 + 16 + 2 * (16 * 16 * 9 + 16)


def test_backbone_without_neck():
    cfg = config("R_18")
    cfg.MODEL.BACKBONE.NAME = "build_cr_backbone"
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res4"]
    cfg.MODEL.RPN.IN_FEATURES = cfg.MODEL.ROI_HEADS.IN_FEATURES = ["res4"]
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[32, 64]]
    cost = analyze_detector(cfg)
    assert [m.name for m in cost.modules if m.part == "backbone"] == [
        "stem",
        "res2",
        "res3",
        "res4",
    ]
    assert not any(m.part == "neck" for m in cost.modules)


def test_all_operators_are_counted():
    """The layers' sum is that of all convolutions and products of matrices which torch executes."""
    cfg = config("CR_R_18")
    cost = analyze_detector(cfg)
    expected = sum(m.macs for m in cost.modules if m.part != "RoI heads")
    assert executed_flops(cfg) == 2 * expected


class BilinearOfItself(nn.Bilinear):
    def forward(self, x):
        x = x.permute(0, 2, 3, 1)
        return super().forward(x, x).permute(0, 3, 1, 2)


@BACKBONE_REGISTRY.register()
class BackboneWithTestMixer(BackboneWithTestNeck):
    def __init__(self, cfg, input_shape):
        super().__init__(cfg, input_shape)
        self.cells = nn.ModuleList([BilinearOfItself(16, 16, 16)])


class Unknown(nn.Module):
    """A part of a detector that is not one of Detectron2's."""

    def __init__(self, cfg, input_shape):
        super().__init__()
        self.layer = self.box_head = nn.Linear(8, 8)
        self.rpn_head = nn.Conv2d(8, 8, 1)


@ROI_MASK_HEAD_REGISTRY.register()
class UnknownMaskHead(Unknown):
    pass


@PROPOSAL_GENERATOR_REGISTRY.register()
class UnknownProposals(Unknown):
    pass


@ROI_HEADS_REGISTRY.register()
class UnknownROIHeads(Unknown):
    pass


@ROI_HEADS_REGISTRY.register()
class UnknownQualityROIHeads(StandardROIHeads):
    def __init__(self, cfg, input_shape):
        super().__init__(cfg, input_shape)
        self.quality = nn.Linear(1024, 1)


@pytest.mark.parametrize(
    "cfg, key, value, message",
    [
        (
            crnas_d2.get_config("ImageNet/R_18.yaml"),
            *("META_ARCHITECTURE", "ImageClassifier"),
            "META_ARCHITECTURE is 'ImageClassifier'",
        ),
        (
            config_with_test_neck(),
            *("BACKBONE.NAME", "BackboneWithTestMixer"),
            r"backbone\.cells\.0, a BilinearOfItself, is not counted",
        ),
        *(
            (
                cfg,
                *("ROI_MASK_HEAD.NAME", "UnknownMaskHead"),
                r"roi_heads\.mask_head\.layer, a Linear, is not counted",
            )
            for cfg in (mask_rcnn("R_18"), c4_config(mask=True))
        ),
        (
            config("R_18"),
            *("PROPOSAL_GENERATOR.NAME", "UnknownProposals"),
            r"proposal_generator\.layer, a Linear, is not counted",
        ),
        (
            config("R_18"),
            *("ROI_HEADS.NAME", "UnknownROIHeads"),
            r"roi_heads\.layer, a Linear, is not counted",
        ),
        (
            config("R_18"),
            *("ROI_HEADS.NAME", "UnknownQualityROIHeads"),
            r"roi_heads\.quality, a Linear, is not counted",
        ),
    ],
)
def test_detectors_that_cannot_be_counted(cfg, key, value, message):
    cfg.merge_from_list([f"MODEL.{key}", value])
    with pytest.raises(ValueError, match=message):
        analyze_detector(cfg)


@pytest.mark.parametrize(
    "sizes",
    [
        {"input_size": (0, 1088)},
        {"input_size": (800.0, 1088)},
        {"input_size": (3, 800, 1088)},
        {"proposals": 0},
        {"mask_rois": -1},
    ],
)
def test_bad_sizes(sizes):
    analyze_detector(config("R_18"))  # is kept, and 800 == 800.0
    with pytest.raises(ValueError, match="expected height and width"):
        analyze_detector(config("R_18"), **sizes)
