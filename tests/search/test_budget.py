"""The detector of one network in place of a supernet's."""

import pytest

from crnas_d2 import get_config
from crnas_d2.search.budget import plain_detector
from detectron2.modeling import BACKBONE_REGISTRY


@pytest.mark.parametrize("space", ["stage", "dilation"])
@pytest.mark.parametrize("neck", ["", "_fpn"])
@pytest.mark.parametrize("family", ["resnet", "mobilenetv2"])
def test_the_plain_detector_keeps_family_and_neck(space, neck, family):
    cfg = get_config("Digits/stage_supernet_R_18_FPN.yaml")
    cfg.MODEL.CR.FAMILY = family
    cfg.MODEL.BACKBONE.NAME = f"build_{space}_supernet{neck}_backbone"
    assert cfg.MODEL.BACKBONE.NAME in BACKBONE_REGISTRY
    cfg.freeze()
    name = plain_detector(cfg).MODEL.BACKBONE.NAME
    assert name == f"build_cr_{family}{neck}_backbone" and name in BACKBONE_REGISTRY
    assert "supernet" in cfg.MODEL.BACKBONE.NAME


def test_a_plain_detector_stays_as_it_is():
    cfg = get_config("COCO-Detection/faster_rcnn_CR_R_50_NASFPN_1x.yaml")
    assert plain_detector(cfg) == cfg
