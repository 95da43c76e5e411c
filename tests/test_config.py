"""The config keys, and the architecture that they describe."""

import pytest
import torch

import crnas_d2
from crnas_d2 import ARCHITECTURES, Architecture, add_crnas_config, get_config
from crnas_d2.config import default_config, get_architecture

from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone


def make_cfg(**options):
    cfg = get_cfg()
    add_crnas_config(cfg)
    for key, value in options.items():
        cfg.merge_from_list([f"MODEL.CR.{key}", value])
    return cfg


def without_added_keys(cfg, original):
    return {
        key: without_added_keys(cfg[key], value) if isinstance(value, dict) else cfg[key]
        for key, value in original.items()
    }


def test_default_is_resnet50():
    cfg = make_cfg()
    assert get_architecture(cfg) == ARCHITECTURES["ResNet50"]
    assert (cfg.MODEL.CR.FAMILY, cfg.MODEL.CR.BLOCK) == ("resnet", "bottleneck")


def test_keys_of_detectron2_stay_as_they_are():
    assert without_added_keys(make_cfg(), get_cfg()) == get_cfg()


@pytest.mark.parametrize("name", ["ResNet18", "CR-ResNet101", "SCR-ResNeXt101", "CR-MobileNetV2"])
def test_architecture_survives_yaml(name, tmp_path):
    architecture = ARCHITECTURES[name]
    cfg = make_cfg(
        FAMILY=architecture.family,
        STAGE_CODE=list(architecture.stage_code),
        OPERATION_CODE=list(architecture.operation_code),
    )
    path = tmp_path / "config.yaml"
    path.write_text(cfg.dump())
    merged = make_cfg()
    merged.merge_from_file(str(path), allow_unsafe=False)
    assert get_architecture(merged, family=architecture.family) == architecture


def test_codes_from_the_command_line():
    cfg = make_cfg()
    options = "MODEL.CR.STAGE_CODE [1,1,2,4] MODEL.CR.OPERATION_CODE (0,0,1,0,1,0,2,1)"
    cfg.merge_from_list(options.split())
    assert get_architecture(cfg) == ARCHITECTURES["CR-ResNet18"]


def test_config_without_keys_says_how_to_add_them():
    with pytest.raises(ValueError, match=r"no MODEL\.CR.*crnas_d2\.add_crnas_config\(cfg\)"):
        get_architecture(get_cfg())


@pytest.mark.parametrize(
    "options, family, words",
    [
        ({"STAGE_CODE": [3, 4, 6]}, None, ["MODEL.CR", "[3, 4, 6] has 3", "expected 4"]),
        ({"STAGE_CODE": [3, 0, 6, 3]}, "resnet", ["MODEL.CR", "res3 has 0 blocks"]),
        ({"OPERATION_CODE": [0] * 15}, "resnet", ["MODEL.CR", "has 15", "expected 16"]),
        ({"OPERATION_CODE": [0] * 15 + [3]}, None, ["MODEL.CR", "entry 3 in stage res5", "0..2"]),
        (
            {"FAMILY": "vgg"},
            None,
            ["MODEL.CR", "family is 'vgg'", "['mobilenetv2', 'resnet']"],
        ),
        ({"FAMILY": "mobilenetv2"}, None, ["MODEL.CR", "[3, 4, 6, 3] has 4", "expected 10"]),
        (
            {"FAMILY": "mobilenetv2"},
            "resnet",
            ["MODEL.CR.FAMILY is 'mobilenetv2'", "expected 'resnet'", "build_resnet_backbone"],
        ),
    ],
)
def test_bad_values(options, family, words):
    cfg = make_cfg(**options)
    with pytest.raises(ValueError) as error:
        get_architecture(cfg, family)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("name", ["COCO-Detection/no_such.yaml", "COCO-Detection", ""])
def test_get_config_of_no_file(name):
    with pytest.raises(FileNotFoundError, match=f"config file {name!r}: no such file, and none of"):
        get_config(name)


@pytest.mark.parametrize(
    "name, architecture",
    [
        ("COCO-Detection/faster_rcnn_CR_R_50_FPN_1x.yaml", "CR-ResNet50"),
        ("COCO-Detection/faster_rcnn_SCR_MNV2_FPN_2x.yaml", "SCR-MobileNetV2"),
    ],
)
def test_get_config_is_ready_to_build(name, architecture):
    cfg = crnas_d2.get_config(name)
    assert get_architecture(cfg) == ARCHITECTURES[architecture]
    with torch.device("meta"):
        backbone = build_backbone(cfg, ShapeSpec(channels=3))
    assert isinstance(backbone.bottom_up.architecture, Architecture)
    assert backbone.bottom_up.architecture == ARCHITECTURES[architecture]
    cfg.MODEL.CR.STAGE_CODE = [1, 1, 1, 1]
    assert get_architecture(get_config(name)) == ARCHITECTURES[architecture]


@pytest.mark.parametrize(
    "old, new",
    [
        ("DATASETS.CHECK_PICTURES", "DATASETS.CHECK_IMAGES"),
        ("DATASETS.HASH_PICTURES", "DATASETS.HASH_IMAGES"),
        ("SEARCH.RACING.ENABLED", "SEARCH.HALVING"),
    ],
)
def test_an_old_key_names_the_new_one(old, new):
    with pytest.raises(KeyError, match=f"{old} was renamed to {new}"):
        default_config().merge_from_list([old, True])
