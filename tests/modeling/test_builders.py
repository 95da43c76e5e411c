"""All bodies under all necks, by the names that configs use; and RetinaNet's pyramid."""

import pickle

import pytest
import torch
from test_fpn import make_cfg
from torch import nn

import crnas_d2.modeling
from crnas_d2 import ARCHITECTURES, CRMobileNetV2, CRResNet, DilationSupernet, StageSupernet
from crnas_d2.modeling import NASFPN
from crnas_d2.modeling.builder_names import (
    neck_of,
    supernet_kind,
    without_family,
    without_supernet,
)

from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, build_backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7

# With a network of each family, and what is made of it
BODIES = {
    "cr": {"CR-ResNet18": CRResNet, "CR-MobileNetV2": CRMobileNetV2},
    "stage_supernet": dict.fromkeys(["ResNet18", "MobileNetV2"], StageSupernet),
    "dilation_supernet": dict.fromkeys(["SCR-ResNet18", "SCR-MobileNetV2"], DilationSupernet),
}
OLD_NAMES = {"cr_resnet": "CR-ResNet18", "cr_mobilenetv2": "CR-MobileNetV2"}
NECKS = {"": None, "_fpn": FPN, "_retinanet_fpn": FPN, "_nasfpn": NASFPN}
ALL = pytest.mark.parametrize(
    "body, name", [(body, name) for body, kinds in BODIES.items() for name in kinds]
)


def make_retinanet_cfg(name, builder):
    cfg = make_cfg(name, builder)
    cfg.MODEL.SUPERNET.STAGE_CHOICES = [[1, 2]] * 4
    if "MobileNetV2" in name:
        cfg.MODEL.SUPERNET.STAGE_CHOICES = [[1], [1], *[[1, 2]] * 5, [1], [1], [1]]
    cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
    return cfg


def build(body, name):
    """Of a supernet, with the path that has the last choices."""
    torch.manual_seed(0)
    model = build_backbone(make_retinanet_cfg(name, f"build_{body}_retinanet_fpn_backbone"))
    if "supernet" in body:
        model.bottom_up.set_path([choices[-1] for choices in model.bottom_up.space.choices])
    return model


@pytest.mark.parametrize("neck", NECKS)
@ALL
def test_builder(body, name, neck):
    builder = f"build_{body}{neck}_backbone"
    function = getattr(crnas_d2.modeling, builder)
    assert BACKBONE_REGISTRY.get(builder) is function is pickle.loads(pickle.dumps(function))
    kind = BODIES[body][name]
    assert body == "cr" or kind.__name__ in function.__doc__
    with torch.device("meta"):
        backbone = function(make_retinanet_cfg(name, builder), ShapeSpec(channels=3))
    assert type(getattr(backbone, "bottom_up", backbone)) is kind
    if neck:
        assert type(backbone) is NECKS[neck]
    assert neck_of(builder) == neck.removeprefix("_")
    assert supernet_kind(builder) == {"cr": None}.get(body, body.split("_")[0])
    assert without_family(without_supernet(builder)) == f"build_cr{neck}_backbone"


@pytest.mark.parametrize("neck", NECKS)
@pytest.mark.parametrize("old, name", OLD_NAMES.items())
def test_old_names_make_the_same(old, name, neck):
    builders = f"build_{old}{neck}_backbone", f"build_cr{neck}_backbone"
    assert (without_family(builders[0]), supernet_kind(builders[0])) == (builders[1], None)
    with torch.device("meta"):
        one, other = (build_backbone(make_retinanet_cfg(name, builder)) for builder in builders)
    assert str(one) == str(other) and one.output_shape() == other.output_shape()


@ALL
def test_retinanet_pyramid_is_detectron2s(body, name):
    model = build(body, name).eval()
    channels = model.bottom_up.output_shape()["res5"].channels
    expected = FPN(
        model.bottom_up,
        ["res3", "res4", "res5"],
        24,
        norm="BN",
        top_block=LastLevelP6P7(channels, 24),
    ).eval()
    expected.load_state_dict(model.state_dict())
    images = torch.rand(1, 3, 64, 160)
    features, expected_features = model(images), expected(images)
    assert list(features) == list(expected_features) == ["p3", "p4", "p5", "p6", "p7"]
    for level, (feature_name, feature) in enumerate(features.items(), start=3):
        assert torch.equal(feature, expected_features[feature_name])
        assert feature.std() > 0
        shape = model.output_shape()[feature_name]
        assert shape == ShapeSpec(channels=24, stride=2**level)
        assert feature.shape == (1, 24, -(-64 // 2**level), -(-160 // 2**level))
    assert model.size_divisibility == 32


@ALL
def test_gradient_reaches_every_parameter_on_the_path(body, name):
    model = build(body, name)
    features = model(torch.rand(2, 3, 128, 128))
    sum((feature * torch.rand_like(feature)).sum() for feature in features.values()).backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert all(".ops." in n for n in without)
    assert bool(without) == ("supernet" in body)


def test_parameters_are_those_of_detectron2s_builder():
    ours = make_cfg("ResNet50", "build_cr_retinanet_fpn_backbone")
    theirs = get_cfg()
    for key in ("RESNETS", "FPN"):
        theirs.MODEL[key] = ours.MODEL[key]
    theirs.MODEL.BACKBONE.NAME = "build_retinanet_resnet_fpn_backbone"
    with torch.device("meta"):
        models = [build_backbone(cfg) for cfg in (ours, theirs)]
    shapes = [{n: t.shape for n, t in model.state_dict().items()} for model in models]
    assert shapes[0] == shapes[1]


def test_top_blocks():
    kinds = {}
    for neck in ("_fpn", "_retinanet_fpn"):
        cfg = make_cfg("ResNet18", f"build_cr{neck}_backbone")
        with torch.device("meta"):
            kinds[neck] = type(build_backbone(cfg).top_block)
    assert kinds == {"_fpn": LastLevelMaxPool, "_retinanet_fpn": LastLevelP6P7}


def test_retinanet_pyramid_needs_res5():
    cfg = make_retinanet_cfg("ResNet18", "build_cr_retinanet_fpn_backbone")
    cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4"]
    message = r"OUT_FEATURES is \['res3', 'res4'\]; expected 'res5' .*'build_cr_retinanet_fpn"
    with pytest.raises(ValueError, match=message):
        build_backbone(cfg)


def test_names_of_all_architectures_can_be_built():
    for name, architecture in ARCHITECTURES.items():
        cfg = make_retinanet_cfg(name, "build_cr_retinanet_fpn_backbone")
        with torch.device("meta"):
            assert build_backbone(cfg).bottom_up.architecture == architecture


def test_norm_of_the_pyramid():
    cfg = make_retinanet_cfg("ResNet18", "build_cr_retinanet_fpn_backbone")
    cfg.MODEL.FPN.NORM = ""
    model = build_backbone(cfg)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.output_convs)
