"""CRResNet against Detectron2's ResNet and against a forward pass written from the paper."""

import copy
import random

import pytest
import torch
import torch.nn.functional as F
from thin_supernets import randomize
from torch import nn

from crnas_d2 import ARCHITECTURES, CRResNet, add_crnas_config
from crnas_d2.modeling import build_cr_backbone

from detectron2.config import LazyCall, LazyConfig, get_cfg, instantiate
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, build_backbone, build_resnet_backbone

STAGES = ["res2", "res3", "res4", "res5"]
FEATURES = ["stem", *STAGES]
THIN = {"stem_out_channels": 8, "res2_out_channels": 16, "width_per_group": 4}
THIN_BASIC = {"block": "basic", "stem_out_channels": 8, "res2_out_channels": 8}

# Detectron2's keys of each baseline.
BASELINES = {
    "ResNet18": {"DEPTH": 18, "RES2_OUT_CHANNELS": 64},
    "ResNet50": {"DEPTH": 50},
    "ResNet101": {"DEPTH": 101},
    "ResNeXt50": {"DEPTH": 50, "NUM_GROUPS": 32, "WIDTH_PER_GROUP": 4},
}
BASELINES_THIN = {
    "ResNet18": {"DEPTH": 18, "RES2_OUT_CHANNELS": 64, "STEM_OUT_CHANNELS": 24},
    "ResNet50": {
        "DEPTH": 50,
        "STEM_OUT_CHANNELS": 32,
        "RES2_OUT_CHANNELS": 32,
        "WIDTH_PER_GROUP": 8,
    },
}


def make_cfg(name, resnets, norm="BN", freeze_at=0):
    cfg = get_cfg()
    add_crnas_config(cfg)
    architecture = ARCHITECTURES[name]
    cfg.MODEL.CR.BLOCK = "basic" if name.endswith("ResNet18") else "bottleneck"
    cfg.MODEL.CR.STAGE_CODE = list(architecture.stage_code)
    cfg.MODEL.CR.OPERATION_CODE = list(architecture.operation_code)
    cfg.MODEL.RESNETS.NORM = norm
    cfg.MODEL.RESNETS.OUT_FEATURES = FEATURES
    cfg.MODEL.BACKBONE.FREEZE_AT = freeze_at
    for key, value in resnets.items():
        cfg.MODEL.RESNETS[key] = value
    return cfg


def make_pair(cfg):
    """Ours and Detectron2's, with the same random weights and statistics."""
    theirs = build_resnet_backbone(cfg, ShapeSpec(channels=3))
    randomize(theirs)
    ours = build_cr_backbone(cfg, ShapeSpec(channels=3))
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert torch.equal(ours[name], value), name
        assert value.isfinite().all(), name


def shapes(state_dict):
    return {name: value.shape for name, value in state_dict.items()}


@pytest.mark.parametrize(
    "name, stride_in_1x1",
    [*((name, False) for name in BASELINES), ("ResNet50", True), ("ResNeXt50", True)],
)
def test_baseline_is_detectron2s_network(name, stride_in_1x1):
    torch.manual_seed(0)
    ours, theirs = make_pair(make_cfg(name, {**BASELINES[name], "STRIDE_IN_1X1": stride_in_1x1}))
    assert shapes(ours.state_dict()) == shapes(theirs.state_dict())
    assert ours.output_shape() == theirs.output_shape()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert_same(ours.eval()(images), theirs.eval()(images))
        assert_same(ours.train()(images), theirs.train()(images))
    assert_same(ours.state_dict(), theirs.state_dict())  # running statistics, after the step


@pytest.mark.parametrize(
    "name, norm",
    [("ResNet18", "BN"), ("ResNet50", "BN"), ("ResNet50", "FrozenBN"), ("ResNet50", "GN")],
)
def test_thin_baseline_is_detectron2s_network(name, norm):
    torch.manual_seed(0)
    resnets = dict(BASELINES_THIN[name])
    if norm == "GN":  # Detectron2's needs multiples of 32
        resnets |= {"STEM_OUT_CHANNELS": 32, "WIDTH_PER_GROUP": 32, "RES2_OUT_CHANNELS": 64}
    ours, theirs = make_pair(make_cfg(name, resnets, norm=norm))
    images = torch.rand(2, 3, 64, 64)
    for module in (ours, theirs):
        sum(feature.square().mean() for feature in module(images).values()).backward()
    assert_same(
        {name: p.grad for name, p in ours.named_parameters()},
        {name: p.grad for name, p in theirs.named_parameters()},
    )
    assert_same(ours(images), theirs(images))


@pytest.mark.parametrize("freeze_at", range(6))
@pytest.mark.parametrize("name", BASELINES_THIN)
def test_freeze_at_is_detectron2s(name, freeze_at):
    with torch.device("meta"):
        ours, theirs = make_pair(make_cfg(name, BASELINES_THIN[name], freeze_at=freeze_at))

    def trainable(model):
        return {name for name, p in model.named_parameters() if p.requires_grad}

    def frozen_norms(model):
        return {name for name, m in model.named_modules() if isinstance(m, FrozenBatchNorm2d)}

    assert trainable(ours) == trainable(theirs)
    assert frozen_norms(ours) == frozen_norms(theirs)
    assert bool(frozen_norms(ours)) == (freeze_at > 0)
    assert bool(trainable(ours)) == (freeze_at < 5)


@pytest.mark.parametrize("features", [["res3"], ["stem", "res2"], ["res5", "res3"], ["stem"]])
def test_stages_beyond_the_out_features_are_not_built(features):
    cfg = make_cfg("ResNet18", {**BASELINES_THIN["ResNet18"], "OUT_FEATURES": features})
    ours, theirs = make_pair(cfg)
    assert shapes(ours.state_dict()) == shapes(theirs.state_dict())
    assert ours.output_shape() == theirs.output_shape()
    assert list(ours.output_shape()) == features
    images = torch.rand(1, 3, 64, 64)
    assert_same(ours.eval()(images), theirs.eval()(images))


def dense(weight, dilation):
    """The kernel of a dilated convolution with its holes filled by zeros."""
    size = (weight.shape[-1] - 1) * dilation + 1
    kernel = weight.new_zeros(*weight.shape[:2], size, size)
    kernel[..., ::dilation, ::dilation] = weight
    return kernel


def reference(
    weights, images, architecture, *, block, num_groups=1, stride_in_1x1=False, res5_dilation=1
):
    """Features of a CR-ResNet, by functional calls alone; every convolution is an undilated one."""

    def conv(x, name, stride=1, dilation=1, groups=1):
        kernel = dense(weights[f"{name}.weight"], dilation)
        x = F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2, groups=groups)
        keys = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(weights[f"{name}.norm.{key}"] for key in keys))

    x = F.max_pool2d(F.relu(conv(images, "stem.conv1", stride=2)), 3, stride=2, padding=1)
    features = {"stem": x}
    code = iter(architecture.operation_code)
    for stage, blocks in zip(STAGES, architecture.stage_code, strict=True):
        for index in range(blocks):
            name = f"{stage}.{index}"
            factor = res5_dilation if stage == "res5" else 1
            stride = 2 if index == 0 and stage != "res2" and factor == 1 else 1
            dilation = factor * (next(code) + 1)
            if block == "basic":
                out = F.relu(conv(x, f"{name}.conv1", stride, factor))
                out = conv(out, f"{name}.conv2", dilation=dilation)
            else:
                first, second = (stride, 1) if stride_in_1x1 else (1, stride)
                out = F.relu(conv(x, f"{name}.conv1", first))
                out = F.relu(conv(out, f"{name}.conv2", second, dilation, num_groups))
                out = conv(out, f"{name}.conv3")
            if f"{name}.shortcut.weight" in weights:
                x = conv(x, f"{name}.shortcut", stride)
            x = F.relu(out + x)
        features[stage] = x
    return features


@pytest.mark.parametrize(
    "name, options",
    [
        ("CR-ResNet18", {"block": "basic"}),
        ("CR-ResNet50", {"block": "bottleneck"}),
        ("CR-ResNet50", {"block": "bottleneck", "stride_in_1x1": True}),
        ("CR-ResNet50", {"block": "bottleneck", "num_groups": 4}),
        ("CR-ResNet101", {"block": "bottleneck"}),
        ("CR-ResNet101", {"block": "bottleneck", "stride_in_1x1": True}),
        ("CR-ResNet18", {"block": "basic", "res5_dilation": 2}),
        ("CR-ResNet101", {"block": "bottleneck", "res5_dilation": 2}),
    ],
)
def test_dilated_network_is_the_papers(name, options):
    torch.manual_seed(0)
    architecture = ARCHITECTURES[name]
    model = CRResNet(
        architecture.stage_code,
        architecture.operation_code,
        out_features=FEATURES,
        **{**(THIN_BASIC if options["block"] == "basic" else THIN), **options},
    )
    randomize(model)
    model.double().eval()
    images = torch.rand(1, 3, 128, 160, dtype=torch.double)
    with torch.no_grad():
        features = model(images)
        expected = reference(model.state_dict(), images, architecture, **options)
    assert features.keys() == expected.keys()
    for feature in FEATURES:
        torch.testing.assert_close(features[feature], expected[feature], rtol=1e-10, atol=1e-10)


def test_basic_block_dilates_its_second_convolution_alone():
    model = CRResNet((1, 1, 2, 4), (0, 0, 1, 0, 1, 0, 2, 1), **THIN_BASIC)
    blocks = [block for stage in model.stages for block in stage]
    assert [block.conv1.dilation[0] for block in blocks] == [1] * 8
    assert [block.conv2.dilation[0] for block in blocks] == [1, 1, 2, 1, 2, 1, 3, 2]


def test_strided_first_block_of_res5_is_dilated():
    architecture = ARCHITECTURES["CR-ResNet101"]
    model = CRResNet(architecture.stage_code, architecture.operation_code, **THIN)
    assert model.res5[0].conv2.stride == model.res5[0].conv2.dilation == (2, 2)
    blocks = [block for stage in model.stages for block in stage]
    assert [b.conv2.dilation[0] - 1 for b in blocks] == list(architecture.operation_code)
    assert {b.conv1.dilation for b in blocks} == {b.conv3.dilation for b in blocks} == {(1, 1)}


@pytest.mark.parametrize("options", [THIN, THIN_BASIC], ids=["bottleneck", "basic"])
@pytest.mark.parametrize("size", [(64, 64), (75, 101)])
def test_operation_code_changes_values_but_no_shape(options, size):
    torch.manual_seed(0)
    stage_code = (2, 1, 2, 2)
    baseline = CRResNet(stage_code, out_features=STAGES, **options).eval()
    images = torch.rand(1, 3, *size)
    expected = baseline(images)
    for seed in range(5):
        operation_code = random.Random(seed).choices(range(1, 3), k=7)
        model = CRResNet(stage_code, operation_code, out_features=STAGES, **options).eval()
        model.load_state_dict(baseline.state_dict())  # no dilation has a parameter
        features = model(images)
        assert shapes(features) == shapes(expected)
        for stage in STAGES:
            assert not torch.allclose(features[stage], expected[stage])


@pytest.mark.parametrize("options", [THIN, THIN_BASIC], ids=["bottleneck", "basic"])
@pytest.mark.parametrize(
    "norm, kind",
    [
        ("FrozenBN", FrozenBatchNorm2d),
        ("BN", nn.BatchNorm2d),
        ("SyncBN", nn.SyncBatchNorm),
        ("GN", nn.GroupNorm),
        (lambda channels: nn.InstanceNorm2d(channels, affine=True), nn.InstanceNorm2d),
    ],
    ids=["FrozenBN", "BN", "SyncBN", "GN", "callable"],
)
def test_norms_at_thin_widths(norm, kind, options):
    torch.manual_seed(0)
    model = CRResNet((1, 2, 1, 1), (0, 1, 0, 0, 2), norm=norm, **options).eval()
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert {type(m.norm) for m in convolutions} == {kind}
    feature = model(torch.rand(2, 3, 64, 64))["res5"]
    assert feature.shape == (2, options["res2_out_channels"] * 8, 2, 2)
    assert feature.isfinite().all() and feature.std() > 0


def test_group_norm_keeps_detectron2s_groups_where_they_fit():
    model = CRResNet(
        (1, 1, 1, 1), norm="GN", stem_out_channels=24, res2_out_channels=48, width_per_group=20
    )
    groups = {
        m.norm.num_channels: m.norm.num_groups for m in model.modules() if isinstance(m, nn.Conv2d)
    }
    assert groups == {24: 8, 48: 16, 20: 4, 96: 32, 40: 8, 192: 32, 80: 16, 384: 32, 160: 32}


def test_default_widths_are_those_of_the_block():
    with torch.device("meta"):
        basic = CRResNet((1, 1, 2, 4), block="basic", out_features=STAGES).output_shape()
        bottleneck = CRResNet((1, 3, 5, 7), out_features=STAGES).output_shape()
    for i, (stage, stride) in enumerate(zip(STAGES, (4, 8, 16, 32))):
        assert basic[stage] == ShapeSpec(channels=64 * 2**i, stride=stride)
        assert bottleneck[stage] == ShapeSpec(channels=256 * 2**i, stride=stride)


def test_image_channels():
    cfg = make_cfg("CR-ResNet18", BASELINES_THIN["ResNet18"])
    cfg.MODEL.BACKBONE.NAME = "build_cr_backbone"
    cfg.MODEL.RESNETS.DEPTH = 50
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = [0.5], [0.2]
    model = build_backbone(cfg)
    assert isinstance(model, CRResNet) and model.architecture == ARCHITECTURES["CR-ResNet18"]
    assert model(torch.rand(1, 1, 64, 64))["res5"].shape == (1, 512, 2, 2)
    assert BACKBONE_REGISTRY.get("build_cr_backbone") is build_cr_backbone


def test_config_and_arguments_make_the_same_network():
    resnets = {
        "NUM_GROUPS": 2,
        "WIDTH_PER_GROUP": 8,
        "STEM_OUT_CHANNELS": 16,
        "RES2_OUT_CHANNELS": 24,
        "STRIDE_IN_1X1": True,
    }
    cfg = make_cfg("CR-ResNet50", resnets, norm="GN", freeze_at=2)
    architecture = ARCHITECTURES["CR-ResNet50"]
    model = CRResNet(
        architecture.stage_code,
        architecture.operation_code,
        num_groups=2,
        width_per_group=8,
        stem_out_channels=16,
        res2_out_channels=24,
        stride_in_1x1=True,
        norm="GN",
        freeze_at=2,
        out_features=FEATURES,
    )
    built = CRResNet(cfg, ShapeSpec(channels=3))
    assert str(built) == str(model)
    assert [p.requires_grad for p in built.parameters()] == [
        p.requires_grad for p in model.parameters()
    ]


def test_lazy_config(tmp_path):
    architecture = ARCHITECTURES["CR-ResNet18"]
    config = LazyCall(CRResNet)(
        stage_code=architecture.stage_code,
        operation_code=list(architecture.operation_code),
        out_features=STAGES,
        norm="GN",
        **THIN_BASIC,
    )
    path = str(tmp_path / "model.yaml")
    LazyConfig.save(config, path)
    for lazy in (config, LazyConfig.load(path)):
        model = instantiate(lazy)
        assert model.architecture == architecture
        assert list(model(torch.rand(1, 3, 64, 64))) == STAGES


def test_deepcopy_shares_nothing():
    torch.manual_seed(0)
    model = CRResNet((1, 1, 1, 1), (0, 1, 2, 0), **THIN).eval()
    twin = copy.deepcopy(model)
    images = torch.rand(1, 3, 64, 64)
    expected = model(images)["res5"]
    nn.init.zeros_(model.res5[0].conv2.weight)
    assert torch.equal(twin(images)["res5"], expected)
    assert not torch.equal(model(images)["res5"], expected)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"stage_code": [3, 4, 6]}, ["[3, 4, 6] has 3 entries", "expected 4"]),
        ({"stage_code": [1, 1, 2, 3, 4, 3, 3, 1, 1, 1]}, ["has 10 entries", "expected 4 "]),
        ({"stage_code": [1, 0, 1, 1]}, ["res3 has 0 blocks"]),
        ({"operation_code": [0, 1, 2]}, ["has 3 entries; expected 4, the sum"]),
        ({"operation_code": [0, 1, 2, 3]}, ["entry 3 in stage res5; expected 0..2"]),
        ({"block": "Bottleneck"}, ["block is 'Bottleneck'", "['basic', 'bottleneck']"]),
        ({"block": "basic", "num_groups": 32}, ["num_groups is 32", "expected 1"]),
        ({"res5_dilation": 4}, ["res5_dilation is 4", "expected 1 or 2"]),
        ({"out_features": ["res2", "res6"]}, ["['res6']", "'stem', 'res2'", "'res5']"]),
        ({"out_features": ["linear"]}, ["['linear']"]),
    ],
)
def test_bad_arguments(options, words):
    with pytest.raises(ValueError) as error:
        CRResNet(**{"stage_code": [1, 1, 1, 1], **options})
    for word in words:
        assert word in str(error.value)
