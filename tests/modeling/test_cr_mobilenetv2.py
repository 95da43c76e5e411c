"""CRMobileNetV2 against torchvision's MobileNetV2 and against a forward pass written from the paper."""

import copy
import random

import pytest
import torch
import torch.nn.functional as F
from thin_supernets import randomize
from torch import nn
from torchvision.models import MobileNetV2, mobilenet_v2
from torchvision.models._utils import _make_divisible

from crnas_d2 import ARCHITECTURES, CRMobileNetV2, add_crnas_config
from crnas_d2.modeling import ImageClassifier, build_cr_backbone
from crnas_d2.modeling.cr_mobilenetv2 import round_channels

from detectron2.config import LazyCall, LazyConfig, get_cfg, instantiate
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, build_backbone

FEATURES = ["stem", "res2", "res3", "res4", "res5"]
BASELINE = (1, 1, 2, 3, 4, 3, 3, 1, 1, 1)
THIN = {"width_multiplier": 0.25}

# Sandler et al. (2018), table 2: expansion t, channels c, stride s.
BOTTLENECKS = {
    "c16": (1, 16, 1),
    "c24": (6, 24, 2),
    "c32": (6, 32, 2),
    "c64": (6, 64, 2),
    "c96": (6, 96, 1),
    "c160": (6, 160, 2),
    "c320": (6, 320, 1),
}
# Stages of each resolution, shallow to deep; the last one gives the feature.
RESOLUTIONS = [["stem"], ["c16", "c24"], ["c32"], ["c64", "c96"], ["c160", "c320", "c1280"]]


def copy_in_order(source, target):
    """Both networks list the same tensors in the same order, under other names."""
    for a, b in zip(source.state_dict().values(), target.state_dict().values(), strict=True):
        assert a.shape == b.shape
        b.copy_(a)


def classifier_over(backbone, classes):
    """Of images that are normalized already."""
    zeros, ones = [0.0] * 3, [1.0] * 3
    return ImageClassifier(backbone=backbone, num_classes=classes, pixel_mean=zeros, pixel_std=ones)


def test_baseline_has_torchvisions_parameters():
    with torch.device("meta"):
        ours, theirs = classifier_over(CRMobileNetV2(BASELINE), classes=1000), mobilenet_v2()
    assert sum(p.numel() for p in ours.parameters()) == 3_504_872
    assert [p.shape for p in ours.parameters()] == [p.shape for p in theirs.parameters()]


@pytest.mark.parametrize("name", ["MobileNetV2", "SCR-MobileNetV2"])
@pytest.mark.parametrize("width", [0.35, 1.0, 1.4])
def test_logits_are_torchvisions(name, width):
    torch.manual_seed(0)
    stage_code = ARCHITECTURES[name].stage_code
    setting = [
        [t, c, n, s] for (t, c, s), n in zip(BOTTLENECKS.values(), stage_code[1:8], strict=True)
    ]
    theirs = MobileNetV2(num_classes=10, width_mult=width, inverted_residual_setting=setting)
    randomize(theirs)
    ours = classifier_over(CRMobileNetV2(stage_code, width_multiplier=width), classes=10)
    copy_in_order(theirs, ours)
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        logits = ours.eval()({"image": images})
        torch.testing.assert_close(logits, theirs.eval()(images), rtol=1e-5, atol=1e-5)
    assert logits.std() > 1e-3


def test_widths_are_rounded_as_torchvision_does():
    widths = [w / 100 for w in range(5, 305, 5)] + [0.35, 0.72, 1.0 / 3]
    for width in widths:
        for channels in (16, 24, 32, 64, 96, 160, 320, 1280):
            assert round_channels(channels * width) == _make_divisible(channels * width, 8)


@pytest.mark.parametrize("width", [0.1, 0.35, 0.5, 0.75, 1.0, 1.3, 1.4])
def test_channels_and_strides_of_every_feature(width):
    with torch.device("meta"):
        model = CRMobileNetV2(BASELINE, width_multiplier=width, out_features=FEATURES)
        features = model(torch.empty(2, 3, 64, 96))
    channels = [_make_divisible(c * width, 8) for c in (32, 24, 32, 96)]
    channels.append(_make_divisible(1280 * max(1, width), 8))
    assert list(features) == FEATURES
    for name, c, stride in zip(FEATURES, channels, (2, 4, 8, 16, 32), strict=True):
        assert model.output_shape()[name] == ShapeSpec(channels=c, stride=stride)
        assert features[name].shape == (2, c, 64 // stride, 96 // stride)


def reference(weights, images, architecture, res5_dilation=1):
    """Features by functional calls alone; a dilated kernel is a larger one with zeros in it."""

    def conv(x, name, stride=1, dilation=1, groups=1):
        weight = weights[f"{name}.weight"]
        size = (weight.shape[-1] - 1) * dilation + 1
        kernel = weight.new_zeros(*weight.shape[:2], size, size)
        kernel[..., ::dilation, ::dilation] = weight
        x = F.conv2d(x, kernel, stride=stride, padding=size // 2, groups=groups)
        keys = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(weights[f"{name}.norm.{key}"] for key in keys))

    def relu6(x):
        return x.clamp(0, 6)

    x = relu6(conv(images, "stem.0.conv", stride=2))
    outputs = {"stem": x}
    code = list(architecture.operation_code)
    for i, (stage, (expansion, _, stride)) in enumerate(BOTTLENECKS.items(), start=1):
        for block in range(architecture.stage_code[i]):
            name = f"{stage}.{block}"
            dilation = 1 + code[sum(architecture.stage_code[:i]) + block]
            s = stride if block == 0 else 1
            if res5_dilation == 2 and stage in ("c160", "c320"):
                s, dilation = 1, 2 * dilation
            hidden = x if expansion == 1 else relu6(conv(x, f"{name}.expand"))
            groups = hidden.shape[1]
            hidden = relu6(conv(hidden, f"{name}.depthwise", s, dilation, groups))
            out = conv(hidden, f"{name}.project")
            x = x + out if x.shape == out.shape else out
        outputs[stage] = x
    outputs["c1280"] = relu6(conv(x, "c1280.0.conv"))
    return {
        feature: outputs[stages[-1]] for feature, stages in zip(FEATURES, RESOLUTIONS, strict=True)
    }


@pytest.mark.parametrize("res5_dilation", [1, 2])
def test_dilated_network_is_the_papers(res5_dilation):
    torch.manual_seed(0)
    architecture = ARCHITECTURES["CR-MobileNetV2"]
    model = CRMobileNetV2(
        architecture.stage_code,
        architecture.operation_code,
        out_features=FEATURES,
        res5_dilation=res5_dilation,
        **THIN,
    )
    randomize(model)
    model.double().eval()
    images = torch.rand(1, 3, 128, 160, dtype=torch.double)
    with torch.no_grad():
        features = model(images)
        expected = reference(model.state_dict(), images, architecture, res5_dilation)
    for feature in FEATURES:
        assert expected[feature].std() > 1e-3
        torch.testing.assert_close(features[feature], expected[feature], rtol=1e-10, atol=1e-10)


def test_depthwise_convolutions_have_the_papers_dilations():
    architecture = ARCHITECTURES["CR-MobileNetV2"]
    with torch.device("meta"):
        model = CRMobileNetV2(architecture.stage_code, architecture.operation_code)
    dilations = {
        stage: [block.depthwise.dilation[0] for block in getattr(model, stage)]
        for stage in BOTTLENECKS
    }
    assert dilations == {
        "c16": [2],
        "c24": [1, 2],
        "c32": [1, 3],
        "c64": [1, 2, 2],
        "c96": [1, 1, 2, 2],
        "c160": [1, 2, 2, 1],
        "c320": [3],
    }
    others = [
        m for n, m in model.named_modules() if hasattr(m, "dilation") and "depthwise" not in n
    ]
    assert {m.dilation for m in others} == {(1, 1)}


def test_shortcut_only_where_shapes_allow():
    torch.manual_seed(0)
    model = CRMobileNetV2(BASELINE, norm="").eval()
    shortcuts = []
    for stage in BOTTLENECKS:
        for block in getattr(model, stage):
            nn.init.zeros_(block.project.weight)  # leaves the shortcut alone
            x = torch.rand(1, block.in_channels, 8, 8)
            out = block(x)
            assert torch.equal(out, x) or not out.any()
            shortcuts.append(bool(out.any()))
    # The first block of a stage changes stride or channels, all others do not.
    assert shortcuts == [i > 0 for n in BASELINE[1:8] for i in range(n)]


@pytest.mark.parametrize("size", [(64, 64), (75, 101)])
def test_operation_code_changes_values_but_no_shape(size):
    torch.manual_seed(0)
    stage_code = (1, 1, 2, 1, 2, 1, 2, 1, 1, 1)
    baseline = CRMobileNetV2(stage_code, out_features=FEATURES, **THIN).eval()
    images = torch.rand(1, 3, *size)
    expected = baseline(images)
    for seed in range(5):
        operation_code = [0, *random.Random(seed).choices(range(1, 3), k=10), 0, 0]
        model = CRMobileNetV2(stage_code, operation_code, out_features=FEATURES, **THIN).eval()
        model.load_state_dict(baseline.state_dict())  # no dilation has a parameter
        features = model(images)
        for name in FEATURES:
            assert features[name].shape == expected[name].shape
            assert torch.allclose(features[name], expected[name]) == (name == "stem")


@pytest.mark.parametrize("freeze_at", range(6))
def test_freeze_at(freeze_at):
    model = CRMobileNetV2(BASELINE, freeze_at=freeze_at, **THIN)
    frozen = {stage for stages in RESOLUTIONS[:freeze_at] for stage in stages}
    for stage in [stage for stages in RESOLUTIONS for stage in stages]:
        modules = list(getattr(model, stage).modules())
        norms = {type(m.norm) for m in modules if isinstance(m, nn.Conv2d)}
        assert norms == {FrozenBatchNorm2d if stage in frozen else nn.BatchNorm2d}
        trainable = {p.requires_grad for p in getattr(model, stage).parameters()}
        assert trainable == {stage not in frozen}


@pytest.mark.parametrize(
    "features, deepest", [(["stem"], 0), (["res3", "res2"], 2), (["res4"], 3), (["res5"], 4)]
)
def test_stages_beyond_the_out_features_are_not_built(features, deepest):
    torch.manual_seed(0)
    whole = CRMobileNetV2(BASELINE, out_features=FEATURES, **THIN).eval()
    part = CRMobileNetV2(BASELINE, out_features=features, **THIN).eval()
    kept = {stage for stages in RESOLUTIONS[: deepest + 1] for stage in stages}
    weights = {n: w for n, w in whole.state_dict().items() if n.split(".")[0] in kept}
    part.load_state_dict(weights)
    assert list(part.output_shape()) == features
    images = torch.rand(1, 3, 64, 64)
    outputs, expected = part(images), whole(images)
    assert set(outputs) == set(features)
    for name in features:
        assert torch.equal(outputs[name], expected[name])
        assert part.output_shape()[name] == whole.output_shape()[name]


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
@pytest.mark.parametrize("width", [0.25, 1.0])
def test_norms(norm, kind, width):
    torch.manual_seed(0)
    model = CRMobileNetV2(BASELINE, norm=norm, width_multiplier=width).eval()
    norms = [m.norm for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert {type(norm) for norm in norms} == {kind}
    feature = model(torch.rand(2, 3, 64, 64))["res5"]
    assert feature.shape == (2, 1280, 2, 2)
    assert feature.isfinite().all() and feature.std() > 0


def test_group_norm_keeps_detectron2s_groups_where_they_fit():
    with torch.device("meta"):
        model = CRMobileNetV2(BASELINE, norm="GN")
    norms = [m.norm for m in model.modules() if isinstance(m, nn.Conv2d)]
    groups = {norm.num_channels: norm.num_groups for norm in norms}
    fits = dict.fromkeys((32, 64, 96, 160, 192, 320, 384, 576, 960, 1280), 32)
    assert groups == {**fits, 16: 16, 24: 8, 144: 16}


def make_cfg():
    cfg = get_cfg()
    add_crnas_config(cfg)
    architecture = ARCHITECTURES["CR-MobileNetV2"]
    cfg.MODEL.BACKBONE.NAME = "build_cr_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 2
    cfg.MODEL.RESNETS.NORM = "GN"
    cfg.MODEL.RESNETS.OUT_FEATURES = FEATURES
    cfg.MODEL.CR.FAMILY = "mobilenetv2"
    cfg.MODEL.CR.WIDTH_MULTIPLIER = 0.25
    cfg.MODEL.CR.STAGE_CODE = list(architecture.stage_code)
    cfg.MODEL.CR.OPERATION_CODE = list(architecture.operation_code)
    return cfg


def test_config_and_arguments_make_the_same_network():
    architecture = ARCHITECTURES["CR-MobileNetV2"]
    model = CRMobileNetV2(
        architecture.stage_code,
        architecture.operation_code,
        norm="GN",
        freeze_at=2,
        out_features=FEATURES,
        **THIN,
    )
    built = build_backbone(make_cfg())
    assert isinstance(built, CRMobileNetV2)
    assert built.architecture == model.architecture == architecture
    assert built.output_shape() == model.output_shape()
    assert [(n, str(m)) for n, m in built.named_modules() if not list(m.children())] == [
        (n, str(m)) for n, m in model.named_modules() if not list(m.children())
    ]
    assert [(n, p.shape, p.requires_grad) for n, p in built.named_parameters()] == [
        (n, p.shape, p.requires_grad) for n, p in model.named_parameters()
    ]
    assert BACKBONE_REGISTRY.get("build_cr_backbone") is build_cr_backbone


def test_image_channels():
    cfg = make_cfg()
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = [0.5], [0.2]
    features = build_backbone(cfg)(torch.rand(1, 1, 64, 64))
    assert features["res5"].shape == (1, 1280, 2, 2)


def test_lazy_config(tmp_path):
    architecture = ARCHITECTURES["CR-MobileNetV2"]
    config = LazyCall(CRMobileNetV2)(
        stage_code=architecture.stage_code,
        operation_code=list(architecture.operation_code),
        out_features=FEATURES,
        **THIN,
    )
    path = str(tmp_path / "model.yaml")
    LazyConfig.save(config, path)
    for lazy in (config, LazyConfig.load(path)):
        model = instantiate(lazy)
        assert model.architecture == architecture
        assert list(model(torch.rand(2, 3, 64, 64))) == FEATURES


def test_deepcopy_shares_nothing():
    torch.manual_seed(0)
    model = CRMobileNetV2(BASELINE, **THIN).eval()
    twin = copy.deepcopy(model)
    images = torch.rand(1, 3, 64, 64)
    expected = model(images)["res5"]
    nn.init.zeros_(model.c320[0].depthwise.weight)
    assert torch.equal(twin(images)["res5"], expected)
    assert not torch.equal(model(images)["res5"], expected)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"stage_code": [3, 4, 6, 3]}, ["[3, 4, 6, 3] has 4 entries", "expected 10"]),
        ({"stage_code": [2, *BASELINE[1:]]}, ["stem has 2; expected 1"]),
        ({"stage_code": [1, 1, 0, *BASELINE[3:]]}, ["c24 has 0 blocks"]),
        ({"operation_code": [0, 1]}, ["has 2 entries; expected 20, the sum"]),
        ({"operation_code": [0] * 17 + [3, 0, 0]}, ["entry 3 in stage c320; expected 0..2"]),
        ({"operation_code": [1] + [0] * 19}, ["entry 1 at stem; expected 0"]),
        ({"operation_code": [0] * 18 + [1, 0]}, ["entry 1 at c1280; expected 0"]),
        ({"width_multiplier": 0.0}, ["width_multiplier is 0.0", "positive"]),
        ({"width_multiplier": -1.0}, ["width_multiplier is -1.0", "positive"]),
        ({"out_features": ["res2", "c24"]}, ["['c24']", "'stem', 'res2'", "'res5']"]),
        ({"out_features": ["linear"]}, ["['linear']"]),
    ],
)
def test_bad_arguments(options, words):
    with pytest.raises(ValueError) as error:
        CRMobileNetV2(**{"stage_code": BASELINE, **options})
    for word in words:
        assert word in str(error.value)
