"""Every key of Detectron2 that says something of a backbone is followed, or refused."""

import pytest
import torch
from test_fpn import make_cfg

from crnas_d2.modeling.builders import BUILDERS
from crnas_d2.modeling.keys import DEPTHS, check_keys

from detectron2.config import get_cfg
from detectron2.modeling import build_backbone
from detectron2.projects.deeplab import add_deeplab_config

# Another value than the default's for each key. What is not here is no key of Detectron2's.
CHANGES = {
    "RESNETS.DEPTH": 101,
    "RESNETS.OUT_FEATURES": ["res3", "res5"],
    "RESNETS.NUM_GROUPS": 2,
    "RESNETS.NORM": "BN",
    "RESNETS.WIDTH_PER_GROUP": 32,
    "RESNETS.STRIDE_IN_1X1": False,
    "RESNETS.RES5_DILATION": 2,
    "RESNETS.RES2_OUT_CHANNELS": 128,
    "RESNETS.STEM_OUT_CHANNELS": 32,
    "RESNETS.DEFORM_ON_PER_STAGE": [False, False, False, True],
    "RESNETS.DEFORM_MODULATED": True,
    "RESNETS.DEFORM_NUM_GROUPS": 2,
    "RESNETS.RES4_DILATION": 2,
    "RESNETS.RES5_MULTI_GRID": [1, 2, 4],
    "RESNETS.STEM_TYPE": "deeplab",
    "BACKBONE.FREEZE_AT": 3,
}
# A depthwise convolution is the only one of its block that can have the stride, and Detectron2's
# default is True, so that here both values have to be taken for a default.
WITHOUT_MEANING = {"mobilenetv2": ["RESNETS.STRIDE_IN_1X1"]}


def default_cfg(family):
    """Detectron2's own defaults and DeepLab's keys, at what they are in a plain ResNet."""
    cfg = get_cfg()
    add_deeplab_config(cfg)
    cfg.MODEL.RESNETS.STEM_TYPE = "basic"
    cfg.MODEL.RESNETS.RES5_MULTI_GRID = [1, 1, 1]
    own = make_cfg("ResNet50" if family == "resnet" else "MobileNetV2")
    cfg.MODEL.CR = own.MODEL.CR
    cfg.MODEL.BACKBONE.NAME = "build_cr_backbone"
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res4", "res5"]
    return cfg


def set_key(cfg, key, value):
    section, name = key.split(".")
    cfg.MODEL[section][name] = value


def describe(cfg):
    """All of a backbone but its random weights."""
    with torch.device("meta"):
        model = build_backbone(cfg)
    frozen = [p.requires_grad for p in model.parameters()]
    return str(model), model.output_shape(), frozen


@pytest.mark.parametrize("family", ["resnet", "mobilenetv2"])
def test_a_change_of_any_key_changes_the_network_or_is_refused(family):
    cfg = default_cfg(family)
    keys = {f"RESNETS.{k}" for k in cfg.MODEL.RESNETS} | {
        f"BACKBONE.{k}" for k in cfg.MODEL.BACKBONE
    }
    assert keys - {"BACKBONE.NAME"} == set(CHANGES)  # a new one belongs into the table
    expected = describe(cfg)
    ignored = []
    for key, value in CHANGES.items():
        changed = default_cfg(family)
        set_key(changed, key, value)
        try:
            same = describe(changed) == expected
        except ValueError as error:
            assert f"MODEL.{key} is {value!r}; expected " in str(error)
        else:
            ignored += [key] if same else []
    assert ignored == WITHOUT_MEANING.get(family, [])


@pytest.mark.parametrize("builder", BUILDERS)
@pytest.mark.parametrize(
    "key, value, expected",
    [
        ("RESNETS.DEFORM_ON_PER_STAGE", [False, True, True, True], [False] * 4),
        ("RESNETS.DEFORM_MODULATED", True, False),
        ("RESNETS.RES5_DILATION", 4, "1 or 2"),
    ],
)
def test_all_builders_refuse(builder, key, value, expected):
    cfg = make_cfg("MobileNetV2" if "mobilenetv2" in builder else "ResNet50", builder)
    set_key(cfg, key, value)
    with pytest.raises(ValueError) as error:
        build_backbone(cfg)
    assert str(error.value).startswith(f"MODEL.{key} is {value!r}; expected {expected}")


def test_deeplabs_defaults_are_refused():
    cfg = make_cfg()
    add_deeplab_config(cfg)
    with pytest.raises(ValueError, match=r"RES5_MULTI_GRID is \[1, 2, 4\]; expected \[1, 1, 1\]"):
        check_keys(cfg)


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_depth_that_agrees_is_taken(depth):
    block, code = DEPTHS[depth]
    theirs = {n: len([*s.children()]) for n, s in detectron2s_stages(depth)}
    assert list(theirs.values()) == code
    cfg = make_cfg("ResNet50")
    cfg.MODEL.RESNETS.DEPTH = depth
    cfg.MODEL.CR.BLOCK, cfg.MODEL.CR.STAGE_CODE = block, code
    check_keys(cfg)
    cfg.MODEL.RESNETS.DEPTH = 50
    check_keys(cfg)
    for key, value in (
        ("BLOCK", "bottleneck" if block == "basic" else "basic"),
        ("STAGE_CODE", [1, 3, 5, 7]),
    ):
        cfg = make_cfg("ResNet50")
        cfg.MODEL.RESNETS.DEPTH = depth
        cfg.MODEL.CR.BLOCK, cfg.MODEL.CR.STAGE_CODE = block, code
        cfg.MODEL.CR[key] = value
        with pytest.raises(ValueError, match=f"MODEL.RESNETS.DEPTH is {depth}; expected 50"):
            check_keys(cfg)


def detectron2s_stages(depth):
    cfg = get_cfg()
    cfg.MODEL.RESNETS.DEPTH = depth
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res5"]
    if depth < 50:
        cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    with torch.device("meta"):
        model = build_backbone(cfg)
    return [(n, s) for n, s in model.named_children() if n != "stem"]


def test_depth_names_the_one_that_fits():
    cfg = make_cfg("ResNet101")
    cfg.MODEL.RESNETS.DEPTH = 152
    with pytest.raises(ValueError, match=r"DEPTH is 152; expected 50 or 101, .* \[3, 4, 23, 3\]"):
        check_keys(cfg)


@pytest.mark.parametrize(
    "name, key, value",
    [("MobileNetV2", "BLOCK", "basic"), ("ResNet50", "WIDTH_MULTIPLIER", 0.5)],
)
def test_keys_of_the_other_family(name, key, value):
    cfg = make_cfg(name)
    cfg.MODEL.CR[key] = value
    with pytest.raises(
        ValueError, match=f"MODEL.CR.{key} is {value!r}; expected .*MODEL.CR.FAMILY"
    ):
        check_keys(cfg)
