"""FPN over the backbones, built as Detectron2's users build it."""

import pytest
import torch

from crnas_d2 import ARCHITECTURES, CRMobileNetV2, CRResNet, add_crnas_config

from detectron2.config import LazyCall, get_cfg, instantiate
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, build_backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool

STAGES = ["res2", "res3", "res4", "res5"]


def make_cfg(name="CR-ResNet50", builder=None):
    """A thin network of the architecture, with a thin pyramid."""
    architecture = ARCHITECTURES[name]
    cfg = get_cfg()
    add_crnas_config(cfg)
    cfg.MODEL.CR.FAMILY = architecture.family
    cfg.MODEL.CR.BLOCK = "basic" if name.endswith("ResNet18") else "bottleneck"
    cfg.MODEL.CR.STAGE_CODE = list(architecture.stage_code)
    cfg.MODEL.CR.OPERATION_CODE = list(architecture.operation_code)
    cfg.MODEL.BACKBONE.NAME = builder or "build_cr_fpn_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.RESNETS.NORM = "BN"
    cfg.MODEL.RESNETS.OUT_FEATURES = STAGES
    if architecture.family == "mobilenetv2":
        cfg.MODEL.CR.WIDTH_MULTIPLIER = 0.25
    else:
        cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = 16
        cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 32
        cfg.MODEL.RESNETS.NUM_GROUPS = 4 if "ResNeXt" in name else 1
        cfg.MODEL.RESNETS.WIDTH_PER_GROUP = 4
    cfg.MODEL.FPN.IN_FEATURES = STAGES
    cfg.MODEL.FPN.OUT_CHANNELS = 24
    cfg.MODEL.FPN.NORM = "BN"
    return cfg


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_pyramid_of_every_architecture(name):
    torch.manual_seed(0)
    model = build_backbone(make_cfg(name))
    assert isinstance(model, FPN)
    assert model.bottom_up.architecture == ARCHITECTURES[name]
    features = model(torch.rand(2, 3, 64, 128))
    assert list(features) == list(model.output_shape()) == ["p2", "p3", "p4", "p5", "p6"]
    for level, (name, feature) in enumerate(features.items(), start=2):
        stride = 2**level
        assert model.output_shape()[name] == ShapeSpec(channels=24, stride=stride)
        assert feature.shape == (2, 24, 64 // stride, 128 // stride)
        assert feature.isfinite().all() and feature.std() > 0
    assert model.size_divisibility == 32
    assert torch.equal(features["p6"], features["p5"][:, :, ::2, ::2])


@pytest.mark.parametrize("name", ["CR-ResNet50", "CR-MobileNetV2"])
def test_every_parameter_of_the_backbone_is_used(name):
    torch.manual_seed(0)
    model = build_backbone(make_cfg(name))
    sum(feature.square().mean() for feature in model(torch.rand(2, 3, 64, 64)).values()).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("fuse_type", ["sum", "avg"])
def test_pyramid_is_detectron2s(fuse_type):
    torch.manual_seed(0)
    cfg = make_cfg()
    cfg.MODEL.FPN.FUSE_TYPE = fuse_type
    model = build_backbone(cfg).eval()
    expected = FPN(
        model.bottom_up, STAGES, 24, norm="BN", top_block=LastLevelMaxPool(), fuse_type=fuse_type
    ).eval()
    expected.load_state_dict(model.state_dict())
    images = torch.rand(1, 3, 64, 64)
    for name, feature in model(images).items():
        assert torch.equal(feature, expected(images)[name])


@pytest.mark.parametrize("builder", ["build_cr_fpn_backbone", "build_cr_retinanet_fpn_backbone"])
def test_without_fusing_a_level_depends_on_its_own_stage_and_those_before(builder):
    torch.manual_seed(0)
    cfg = make_cfg("CR-ResNet18", builder)
    fused = build_backbone(cfg).eval()
    cfg.MODEL.FPN.FUSE_TYPE = "none"
    model = build_backbone(cfg).eval()
    model.load_state_dict(fused.state_dict())  # the same parameters by the same names
    images = torch.rand(1, 3, 64, 64)
    levels = model(images)
    assert list(levels) == list(fused(images)) == list(model.output_shape())
    features = model.bottom_up(images)
    for level, stage in enumerate(STAGES, start=2):
        lateral, output = (getattr(model, f"fpn_{part}{level}") for part in ("lateral", "output"))
        assert torch.equal(levels[f"p{level}"], output(lateral(features[stage])))
    assert torch.equal(levels["p5"], fused(images)["p5"])  # has no level above it to be fused with
    assert torch.equal(levels["p6"], fused(images)["p6"])
    assert not torch.allclose(levels["p4"], fused(images)["p4"])


@pytest.mark.parametrize("name", ["CR-ResNet18", "CR-MobileNetV2"])
def test_levels_are_those_of_the_in_features(name):
    cfg = make_cfg(name)
    cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
    features = build_backbone(cfg)(torch.rand(2, 3, 64, 64))
    assert {n: f.shape[-1] for n, f in features.items()} == {"p3": 8, "p4": 4, "p5": 2, "p6": 1}


def test_lazy_config():
    model = instantiate(
        LazyCall(FPN)(
            bottom_up=LazyCall(CRResNet)(
                stage_code=[1, 1, 2, 4],
                block="basic",
                stem_out_channels=8,
                res2_out_channels=8,
                out_features=STAGES,
            ),
            in_features=STAGES,
            out_channels=16,
            top_block=LazyCall(LastLevelMaxPool)(),
        )
    )
    assert model.bottom_up.architecture == ARCHITECTURES["SCR-ResNet18"]
    assert [f.shape[-1] for f in model(torch.rand(2, 3, 64, 64)).values()] == [16, 8, 4, 2, 1]


@pytest.mark.parametrize("family, backbone", [("resnet", CRResNet), ("mobilenetv2", CRMobileNetV2)])
def test_builders_are_registered(family, backbone):
    cfg = make_cfg({"resnet": "ResNet18", "mobilenetv2": "MobileNetV2"}[family])
    build = BACKBONE_REGISTRY.get("build_cr_fpn_backbone")
    assert isinstance(build(cfg, ShapeSpec(channels=3)).bottom_up, backbone)


NECKS = pytest.mark.parametrize("neck", ["", "_fpn"])


@NECKS
def test_config_without_our_keys(neck):
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME = f"build_cr{neck}_backbone"
    with pytest.raises(ValueError, match=r"crnas_d2\.add_crnas_config\(cfg\)"):
        build_backbone(cfg)


@NECKS
@pytest.mark.parametrize("family, name", [("resnet", "MobileNetV2"), ("mobilenetv2", "ResNet18")])
def test_an_old_name_refuses_another_family(family, name, neck):
    builder = f"build_cr_{family}{neck}_backbone"
    with pytest.raises(ValueError) as error:
        build_backbone(make_cfg(name, builder))
    assert f"MODEL.CR.FAMILY is {ARCHITECTURES[name].family!r}" in str(error.value)
    assert f"expected {family!r}" in str(error.value) and repr(builder) in str(error.value)


@pytest.mark.parametrize(
    "options, words",
    [
        (["MODEL.RESNETS.RES5_DILATION", 2], ["RES5_DILATION is 2", "feature pyramid"]),
        (
            ["MODEL.RESNETS.DEFORM_ON_PER_STAGE", [False, True, True, True]],
            ["DEFORM_ON_PER_STAGE is [False, True, True, True]", "deformable"],
        ),
        (["MODEL.CR.BLOCK", "preact"], ["block is 'preact'"]),
        (["MODEL.CR.OPERATION_CODE", [0, 1]], ["MODEL.CR: ", "has 2 entries; expected 16"]),
        (["MODEL.RESNETS.OUT_FEATURES", ["res2", "res7"]], ["['res7']"]),
    ],
)
def test_bad_values(options, words):
    cfg = make_cfg()
    cfg.merge_from_list(options)
    with pytest.raises(ValueError) as error:
        build_backbone(cfg)
    for word in words:
        assert word in str(error.value)
