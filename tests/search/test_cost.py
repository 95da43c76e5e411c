"""What a stage code costs, against the direct count of each network."""

import pytest
import torch
import torchvision

from crnas_d2 import get_config
from crnas_d2.analysis import analyze_detector
from crnas_d2.architecture import Architecture
from crnas_d2.config import set_architecture
from crnas_d2.config_ranges import RANGES
from crnas_d2.modeling import CRResNet
from crnas_d2.search.cost import COSTS, get_cost, plain_detector
from crnas_d2.spaces import get_stage_space

from detectron2.modeling import BACKBONE_REGISTRY

DIRECT = {
    "gmacs": lambda cost: cost.backbone_macs / 1e9,
    "detector_gmacs": lambda cost: cost.macs / 1e9,
    "parameters": lambda cost: cost.parameters / 1e6,
}
UNITS = {
    "blocks": "blocks",
    "weighted": "weighted blocks",
    "gmacs": "backbone GMACs at 800 x 1088",
    "detector_gmacs": "detector GMACs at 800 x 1088",
    "parameters": "M parameters",
}


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


def test_names_and_units():
    cfg = get_config("COCO-Detection/faster_rcnn_R_18_FPN_1x.yaml")
    space = get_stage_space("resnet")
    counted = [name for name in COSTS if name != "latency"]  # which is measured
    assert {name: get_cost(name, cfg, space, cfg).unit for name in counted} == UNITS
    assert all(RANGES["SEARCH.COST"].holds(name) for name in COSTS)
    with pytest.raises(ValueError, match="SEARCH.COST is 'flops'; expected one of 'blocks', "):
        get_cost("flops", cfg, space, cfg)


def test_a_detector_that_cannot_be_counted():
    cfg = get_config("ImageNet/R_18.yaml")
    space = get_stage_space("resnet")
    assert get_cost("weighted", cfg, space, cfg)((1, 1, 2, 4)) == 8
    for name in DIRECT:
        with pytest.raises(ValueError, match=f"SEARCH.COST is '{name}': .* 'ImageClassifier'"):
            get_cost(name, cfg, space, cfg)


def direct(cfg, code):
    cfg = cfg.clone()
    set_architecture(cfg, Architecture(code))
    return analyze_detector(cfg, tuple(cfg.SEARCH.COST_SIZE))


RESNETS = ("resnet", [[1, 2, 4], [1, 3], [2, 3], [2, 4]])
MOBILENETS = ("mobilenetv2", [[1], [1], [1, 3], [2, 3], [3, 4], [2], [2, 6], [1], [1], [1]])


@pytest.mark.parametrize(
    "detector, space",
    [
        ("COCO-Detection/faster_rcnn_CR_R_18_FPN_1x.yaml", RESNETS),
        ("COCO-Detection/faster_rcnn_CR_R_50_C4_1x.yaml", RESNETS),
        ("COCO-Detection/faster_rcnn_CR_R_50_DC5_1x.yaml", RESNETS),
        ("COCO-Detection/faster_rcnn_CR_R_50_NASFPN_1x.yaml", RESNETS),
        ("COCO-Detection/retinanet_CR_R_50_FPN_1x.yaml", RESNETS),
        ("COCO-InstanceSegmentation/mask_rcnn_CR_R_50_FPN_1x.yaml", RESNETS),
        ("COCO-Detection/faster_rcnn_CR_MNV2_FPN_1x.yaml", MOBILENETS),
    ],
)
def test_all_codes_of_a_small_space_as_counted_directly(detector, space):
    """To the last digit, as a budget may be an equality. Of most detectors, a third of the codes."""
    cfg = get_config(detector)
    cfg.SEARCH.COST_SIZE = (224, 320)
    space = get_stage_space(*space)
    costs = {name: get_cost(name, cfg, space, cfg) for name in DIRECT}
    for code in list(space)[:: 1 if "R_18" in detector else 3]:
        counted = direct(cfg, code)
        for name, number in DIRECT.items():
            assert costs[name](code) == number(counted)


@pytest.mark.parametrize("of_first_stage", [[3, 5], [3]])
def test_codes_that_are_not_in_the_space(of_first_stage):
    """The baseline's may not be."""
    cfg = get_config("COCO-Detection/faster_rcnn_CR_R_50_FPN_1x.yaml")
    space = get_stage_space("resnet", [of_first_stage, [3, 4], [3, 4], [3, 4]])
    for name, number in DIRECT.items():
        assert get_cost(name, cfg, space, cfg)((1, 3, 17, 1)) == number(direct(cfg, (1, 3, 17, 1)))


@BACKBONE_REGISTRY.register()
def build_backbone_that_grows_with_its_depth(cfg, input_shape):
    code = cfg.MODEL.CR.STAGE_CODE
    return CRResNet(code, block="basic", stem_out_channels=8 * sum(code), out_features=["res4"])


def test_a_backbone_of_another_builder_is_counted_directly():
    cfg = get_config("COCO-Detection/faster_rcnn_CR_R_18_FPN_1x.yaml")
    cfg.MODEL.BACKBONE.NAME = "build_backbone_that_grows_with_its_depth"
    cfg.MODEL.RPN.IN_FEATURES = cfg.MODEL.ROI_HEADS.IN_FEATURES = ["res4"]
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[64]]
    cfg.SEARCH.COST_SIZE = (64, 64)
    space = get_stage_space("resnet", [[1, 2], [1, 2], [2], [2, 3]])
    for name, number in DIRECT.items():
        cost = get_cost(name, cfg, space, cfg)
        assert [cost(code) for code in space] == [number(direct(cfg, code)) for code in space]


@pytest.mark.parametrize("name", ["gmacs", "detector_gmacs", "parameters"])
def test_size_of_the_image(name):
    """Multiply-adds of a backbone grow with the pixels; the proposals and parameters do not."""
    cfg = get_config("COCO-Detection/faster_rcnn_CR_R_50_FPN_1x.yaml")
    space, code = get_stage_space("resnet"), (3, 4, 6, 3)
    by_size = {}
    for size in ((320, 320), (640, 640), (640, 1280)):
        cfg.SEARCH.COST_SIZE = size
        by_size[size] = get_cost(name, cfg, space, cfg)(code)
    small, middle, large = by_size.values()
    heads = {
        "gmacs": 0,
        # 3x3 convolution and predictors of the RPN do not halve exactly on p6
        "detector_gmacs": 1000 * (7 * 7 * 256 * 1024 + 1024 * 1024 + 1024 * (81 + 80 * 4)) / 1e9,
        "parameters": small,
    }[name]
    assert middle - heads == pytest.approx(4 * (small - heads), rel=1e-9)
    assert large - heads == pytest.approx(2 * (middle - heads), rel=1e-9)


@pytest.mark.parametrize(
    "network, code, reference",
    [
        ("R_18", (2, 2, 2, 2), torchvision.models.resnet18),
        ("R_50", (3, 4, 6, 3), torchvision.models.resnet50),
        ("R_101", (3, 4, 23, 3), torchvision.models.resnet101),
    ],
)
def test_parameters_are_those_of_torchvision(network, code, reference):
    """Of the same detector over a backbone of one block in each stage, and of the blocks that it lacks."""
    cfg = get_config(f"COCO-Detection/faster_rcnn_{network}_FPN_1x.yaml")
    cost = get_cost("parameters", cfg, get_stage_space("resnet"), cfg)
    with torch.device("meta"):
        peer = reference()
    stages = (peer.layer1, peer.layer2, peer.layer3, peer.layer4)
    lacking = sum(p.numel() for stage in stages for b in stage[1:] for p in b.parameters())
    assert cost(code) - cost((1, 1, 1, 1)) == pytest.approx(lacking / 1e6, rel=1e-12)


def test_a_supernet_without_a_final_detector():
    """Counted as the network of the code alone, in its own widths."""
    cfg = get_config("Supernet/stage_supernet_R_18_FPN.yaml")
    plain = plain_detector(cfg)
    space = get_stage_space("resnet")
    for name, number in DIRECT.items():
        assert get_cost(name, cfg, space, cfg)((2, 2, 2, 2)) == number(direct(plain, (2, 2, 2, 2)))


@pytest.mark.parametrize("detector", ["C4", "DC5", "FPN"])
def test_gmacs_are_those_of_all_stages_wherever_they_run(detector):
    cfg = get_config(f"COCO-Detection/faster_rcnn_CR_R_50_{detector}_1x.yaml")
    cost = get_cost("gmacs", cfg, get_stage_space("resnet"), cfg)
    neutral = cost([3, 4, 6, 3]) == pytest.approx(cost([1, 3, 5, 7]))
    assert neutral == (detector == "FPN")
    if detector == "C4":  # 1000 RoIs of 7x7 in place of a feature of 25x34
        assert cost([1, 1, 2, 3]) - cost([1, 1, 2, 2]) == pytest.approx(
            3.7880 * 1000 * 49 / 850, abs=0.01
        )


def test_a_depth_of_detectron2_does_not_stand_in_the_way():
    cfg = get_config("COCO-Detection/faster_rcnn_R_101_FPN_1x.yaml")
    space = get_stage_space("resnet")
    expected = get_cost("gmacs", cfg, space, cfg)([2, 3, 17, 11])
    cfg.MODEL.RESNETS.DEPTH = 101
    assert get_cost("gmacs", cfg, space, cfg)([2, 3, 17, 11]) == expected
