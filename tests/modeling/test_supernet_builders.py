"""Supernets as Detectron2 builds them from a config."""

from fractions import Fraction

import pytest
import torch
from thin_supernets import FEATURES, STAGE_NAMES, make_thin_cfg

from crnas_d2 import ARCHITECTURES
from crnas_d2.modeling import DilationSupernet, StageSupernet
from crnas_d2.modeling.activation_checkpoint import CheckpointedStage
from crnas_d2.spaces import get_operation_space, get_stage_space

from detectron2.config import get_cfg
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import FPN, build_backbone

STEPS = {"stage": StageSupernet, "dilation": DilationSupernet}
FAMILIES = {"resnet": "SCR-ResNet50", "mobilenetv2": "SCR-MobileNetV2"}
ALL = pytest.mark.parametrize("step, family", [(s, f) for s in STEPS for f in FAMILIES])


def make_cfg(step, family, fpn=True):
    cfg = make_thin_cfg(f"build_{step}_supernet_{'fpn_' if fpn else ''}backbone", family)
    cfg.MODEL.CR.STAGE_CODE = list(ARCHITECTURES[FAMILIES[family]].stage_code)
    cfg.MODEL.FPN.OUT_CHANNELS = 16
    return cfg


def build_on_meta(cfg):
    with torch.device("meta"):
        return build_backbone(cfg)


@ALL
def test_pyramid(step, family):
    torch.manual_seed(0)
    cfg = make_cfg(step, family)
    choices = [[1, 2]] * 4 if family == "resnet" else [[1], [1], *[[1, 2]] * 5, [1], [1], [1]]
    cfg.MODEL.SUPERNET.STAGE_CHOICES = choices
    model = build_backbone(cfg)
    assert isinstance(model, FPN) and type(model.bottom_up) is STEPS[step]
    supernet = model.bottom_up
    images, first = torch.rand(2, 3, 64, 128), None
    for i in range(2):
        supernet.set_path([c[min(i, len(c) - 1)] for c in supernet.space.choices])
        features = model(images)
        assert list(features) == list(model.output_shape()) == ["p2", "p3", "p4", "p5", "p6"]
        for level, (name, feature) in enumerate(features.items(), start=2):
            stride = 2**level
            assert model.output_shape()[name] == ShapeSpec(channels=16, stride=stride)
            assert feature.shape == (2, 16, 64 // stride, 128 // stride)
            assert feature.isfinite().all() and feature.std() > 0
        assert first is None or not torch.equal(features["p5"], first)
        first = features["p5"]
    assert model.size_divisibility == 32


@ALL
def test_default_space_is_the_papers(step, family):
    cfg = make_cfg(step, family, fpn=False)
    supernet = build_on_meta(cfg)
    assert type(supernet) is STEPS[step]
    assert supernet.output_shape().keys() == set(FEATURES)
    if step == "stage":
        assert supernet.space == get_stage_space(family)
        assert supernet.space.size == {"resnet": 10_000, "mobilenetv2": 3_125}[family]
    else:
        assert supernet.space == get_operation_space(ARCHITECTURES[FAMILIES[family]])
        assert supernet.space.size == {"resnet": 3**16, "mobilenetv2": 3**17}[family]


@pytest.mark.parametrize(
    "family, choices, weights",
    [
        ("resnet", [[1, 3], [2], [2, 5, 6], [1, 4]], [1.5, 1, 0.5, 2]),
        (
            "mobilenetv2",
            [[1], [1, 2], [1], [2, 3], [1], [1], [1, 4], [2], [1], [1]],
            [0, 1, 1, 1.25, 1, 1, 1, 1, 0, 0],
        ),
    ],
)
def test_own_stage_space(family, choices, weights, tmp_path):
    """Written in a config file, without code."""
    cfg = make_cfg("stage", family)
    path = tmp_path / "own.yaml"
    path.write_text(f"MODEL: {{SUPERNET: {{STAGE_CHOICES: {choices}, STAGE_WEIGHTS: {weights}}}}}")
    cfg.merge_from_file(str(path), allow_unsafe=False)
    supernet = build_on_meta(cfg).bottom_up
    assert supernet.space == get_stage_space(family, choices, weights)
    assert supernet.space.weights == tuple(map(Fraction, weights))
    branches = {
        name: [int(n) for n in getattr(supernet, name).ops]
        for name in STAGE_NAMES[family]
        if name not in ("stem", "c1280", "pool")
    }
    assert branches == {n: c for n, c in zip(STAGE_NAMES[family], choices) if n in branches}
    supernet.set_path(max(supernet.space))


@pytest.mark.parametrize("family", FAMILIES)
def test_own_operations(family):
    cfg = make_cfg("dilation", family)
    cfg.merge_from_list(["MODEL.SUPERNET.OPERATIONS", "[0, 2]"])
    supernet = build_on_meta(cfg).bottom_up
    assert supernet.space == get_operation_space(ARCHITECTURES[FAMILIES[family]], [0, 2])
    for block in supernet.choice_blocks:
        assert {int(o): op.dilation for o, op in block.ops.items()} == {0: (1, 1), 2: (3, 3)}
    with pytest.raises(ValueError, match="is not in the space"):
        supernet.set_path([choices[0] or 1 for choices in supernet.space.choices])


def bottleneck(inputs, width, outputs):
    """Parameters of a block: three convolutions and their norms, and those of the shortcut."""
    parameters = inputs * width + 9 * width * width + width * outputs + 2 * (2 * width + outputs)
    return parameters + (inputs * outputs + 2 * outputs if inputs != outputs else 0)


STEM_32 = 3 * 32 * 7 * 7 + 2 * 32


def half_width_r50(step):
    cfg = make_cfg(step, "resnet")
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = 32
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 128
    cfg.MODEL.RESNETS.WIDTH_PER_GROUP = 32
    cfg.MODEL.FPN.OUT_CHANNELS = 256
    supernet = build_on_meta(cfg).bottom_up
    assert {n: (s.channels, s.stride) for n, s in supernet.output_shape().items()} == {
        "res2": (128, 4),
        "res3": (256, 8),
        "res4": (512, 16),
        "res5": (1024, 32),
    }
    return supernet


def test_half_width_stage_supernet():
    """Section 3.2.1: 10,000 stage codes from 307 blocks."""
    supernet = half_width_r50("stage")
    depths = [sum(choices) for choices in get_stage_space("resnet").choices]
    assert sum(depths) == 307
    expected, inputs = STEM_32, 32
    for i, depth in enumerate(depths):
        width, outputs = 32 * 2**i, 128 * 2**i
        expected += 10 * bottleneck(inputs, width, outputs)
        expected += (depth - 10) * bottleneck(outputs, width, outputs)
        inputs = outputs
    assert sum(p.numel() for p in supernet.parameters()) == expected
    assert [block.index for block in supernet.choice_blocks] == [0, 1, 2, 3]


def test_half_width_dilation_supernet():
    supernet = half_width_r50("dilation")
    expected, inputs = STEM_32, 32
    for i, depth in enumerate(ARCHITECTURES["SCR-ResNet50"].stage_code):
        width, outputs = 32 * 2**i, 128 * 2**i
        for _ in range(depth):
            expected += bottleneck(inputs, width, outputs) + 2 * (9 * width * width + 2 * width)
            inputs = outputs
    assert sum(p.numel() for p in supernet.parameters()) == expected
    assert len(supernet.choice_blocks) == 16


@ALL
def test_detectron2s_own_keys(step, family):
    cfg = make_cfg(step, family)
    cfg.MODEL.SUPERNET.STAGE_CHOICES = (
        [[1], [2], [1], [1]] if family == "resnet" else [[1]] * 3 + [[2]] * 4 + [[1]] * 3
    )
    cfg.MODEL.BACKBONE.FREEZE_AT = 1
    cfg.MODEL.CR.ACTIVATION_CHECKPOINT = True
    cfg.MODEL.RESNETS.NORM = "SyncBN"
    supernet = build_on_meta(cfg).bottom_up
    kinds = {
        name.split(".")[0]: type(m)
        for name, m in supernet.named_modules()
        if name.endswith(".norm")
    }
    assert kinds.pop("stem") is FrozenBatchNorm2d
    assert len(kinds) in (4, 8) and set(kinds.values()) == {torch.nn.SyncBatchNorm}
    last = supernet.res5 if family == "resnet" else supernet.c320
    assert type(last.ops["1"] if step == "stage" else last) is CheckpointedStage


@pytest.mark.parametrize("groups, width", [(1, 4), (4, 2)])
def test_groups(groups, width):
    cfg = make_cfg("dilation", "resnet")
    cfg.MODEL.RESNETS.NUM_GROUPS = groups
    cfg.MODEL.RESNETS.WIDTH_PER_GROUP = width
    supernet = build_on_meta(cfg).bottom_up
    for operation in "012":
        layer = supernet.res3[0].conv2.ops[operation]
        assert (layer.groups, layer.in_channels) == (groups, 2 * groups * width)


@pytest.mark.parametrize("fpn", [False, True])
@pytest.mark.parametrize("step", STEPS)
def test_config_without_our_keys(step, fpn):
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME = make_cfg(step, "resnet", fpn).MODEL.BACKBONE.NAME
    with pytest.raises(ValueError, match=r"crnas_d2\.add_crnas_config\(cfg\)"):
        build_backbone(cfg)


@pytest.mark.parametrize(
    "step, options, words",
    [
        ("stage", ["MODEL.SUPERNET.STAGE_CHOICES", [[1, 2]]], ["1 choice sets", "expected 4"]),
        (
            "stage",
            ["MODEL.SUPERNET.STAGE_CHOICES", [[2, 1], [1], [1], [1]]],
            ["stage res2", "[2, 1]"],
        ),
        ("stage", ["MODEL.SUPERNET.STAGE_WEIGHTS", [1, 1, 1]], ["3 weights", "expected 4"]),
        ("dilation", ["MODEL.SUPERNET.OPERATIONS", [0, 3]], ["operations are (0, 3)", "above 2"]),
        ("dilation", ["MODEL.SUPERNET.OPERATIONS", []], ["operations are []", "one or more"]),
        ("dilation", ["MODEL.CR.STAGE_CODE", [1, 2]], ["MODEL.CR: ", "[1, 2] has 2 entries"]),
        ("stage", ["MODEL.CR.FAMILY", "vgg"], ["'vgg'", "'mobilenetv2', 'resnet'"]),
        ("dilation", ["MODEL.RESNETS.OUT_FEATURES", ["res2", "res5", "res7"]], ["['res7']"]),
        ("stage", ["MODEL.RESNETS.OUT_FEATURES", ["res4"]], ["['res4']", "expected 'res5'"]),
        ("dilation", ["MODEL.RESNETS.RES5_DILATION", 4], ["RES5_DILATION is 4", "1 or 2"]),
        ("stage", ["MODEL.CR.BLOCK", "preact"], ["block is 'preact'"]),
    ],
)
def test_bad_values(step, options, words):
    cfg = make_cfg(step, "resnet")
    cfg.merge_from_list(options)
    with pytest.raises(ValueError) as error:
        build_backbone(cfg)
    for word in words:
        assert word in str(error.value)
