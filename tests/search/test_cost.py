"""The detector of one network in place of a supernet's."""

import pytest

from crnas_d2 import get_config
from crnas_d2.analysis import analyze_detector
from crnas_d2.search.cost import get_cost, plain_detector
from crnas_d2.spaces import get_stage_space
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
    assert name == f"build_cr{neck}_backbone" and name in BACKBONE_REGISTRY
    assert "supernet" in cfg.MODEL.BACKBONE.NAME


def test_a_plain_detector_stays_as_it_is():
    cfg = get_config("COCO-Detection/faster_rcnn_CR_R_50_NASFPN_1x.yaml")
    assert plain_detector(cfg) == cfg


@pytest.mark.parametrize("detector", ["C4", "DC5", "FPN"])
def test_gmacs_are_those_of_all_stages_wherever_they_run(detector):
    cfg = get_config(f"COCO-Detection/faster_rcnn_CR_R_50_{detector}_1x.yaml")
    cost = get_cost("gmacs", get_stage_space("resnet"), cfg)
    for code in ([1, 1, 2, 2], [3, 4, 6, 3], [1, 3, 5, 7]):
        cfg.MODEL.CR.STAGE_CODE, cfg.MODEL.CR.OPERATION_CODE = code, []
        assert cost(code) == pytest.approx(analyze_detector(cfg).backbone_macs / 1e9)
    neutral = cost([3, 4, 6, 3]) == pytest.approx(cost([1, 3, 5, 7]))
    assert neutral == (detector == "FPN")
    if detector == "C4":  # 1000 RoIs of 7x7 in place of a feature of 25x34
        assert cost([1, 1, 2, 3]) - cost([1, 1, 2, 2]) == pytest.approx(
            3.7880 * 1000 * 49 / 850, abs=0.01
        )


def test_a_depth_of_detectron2_does_not_stand_in_the_way():
    cfg = get_config("COCO-Detection/faster_rcnn_R_101_FPN_1x.yaml")
    expected = get_cost("gmacs", get_stage_space("resnet"), cfg)([2, 3, 17, 11])
    cfg.MODEL.RESNETS.DEPTH = 101
    assert get_cost("gmacs", get_stage_space("resnet"), cfg)([2, 3, 17, 11]) == expected
