"""Which checkpoints are of the network that a config describes."""

import pytest

import crnas_d2
from crnas_d2.checkpoint.classes import as_config
from crnas_d2.checkpoint.same_model import (
    check_same_model,
    check_same_network,
    flatten_model_config,
)

from detectron2.modeling import BACKBONE_REGISTRY

DETECTOR = "COCO-Detection/faster_rcnn_CR_R_18_FPN_1x.yaml"
STAGE = "Supernet/stage_supernet_R_18_FPN.yaml"
DILATION = "Supernet/dilation_supernet_SCR_R_18_FPN.yaml"


def config(name, **changes):
    cfg = crnas_d2.get_config(name)
    for key, value in changes.items():
        cfg.merge_from_list([f"MODEL.{key.replace('__', '.')}", value])
    return cfg


def saved(name, **changes):
    return flatten_model_config(config(name, **changes))


def refusal(cfg, model_config, check=check_same_network):
    """The keys that are refused."""
    try:
        check(cfg, model_config, "there/model.pth")
    except ValueError as error:
        head, *lines = str(error).split("\n  ")
        assert head == "there/model.pth is of another model than the config:"
        return [line.split(": ")[0] for line in lines]
    return []


@pytest.mark.parametrize(
    "name, key, value",
    [
        (DETECTOR, "META_ARCHITECTURE", "RetinaNet"),
        (DETECTOR, "BACKBONE.NAME", "build_cr_nasfpn_backbone"),
        (DETECTOR, "CR.FAMILY", "mobilenetv2"),
        (DETECTOR, "CR.BLOCK", "bottleneck"),
        (DETECTOR, "CR.STAGE_CODE", [1, 2, 1, 4]),
        (DETECTOR, "CR.OPERATION_CODE", [0, 0, 1, 0, 1, 0, 2, 2]),
        (DETECTOR, "RESNETS.RES2_OUT_CHANNELS", 16),
        (DETECTOR, "RESNETS.NUM_GROUPS", 32),
        (DETECTOR, "RESNETS.RES5_DILATION", 2),
        (DETECTOR, "FPN.OUT_CHANNELS", 64),
        (DILATION, "CR.STAGE_CODE", [2, 2, 2, 2]),
        (DILATION, "SUPERNET.OPERATIONS", [0, 2]),
        (DILATION, "BACKBONE.NAME", "build_stage_supernet_fpn_backbone"),
        (STAGE, "BACKBONE.NAME", "build_dilation_supernet_fpn_backbone"),
        (STAGE, "SUPERNET.SHARE_BLOCKS", True),
        (STAGE, "SUPERNET.STAGE_CHOICES", [[1, 2], [1, 2], [1, 2], [1, 2]]),
    ],
)
def test_another_network_is_refused_by_the_key(name, key, value):
    codes = {"CR.STAGE_CODE", "CR.OPERATION_CODE"}
    keys = refusal(config(name), saved(name, **{key.replace(".", "__"): value}))
    assert f"MODEL.{key}" in keys
    assert {k.removeprefix("MODEL.") for k in keys} <= {key, *codes, "SUPERNET.OPERATIONS"}


def test_the_message_has_both_values():
    with pytest.raises(
        ValueError,
        match=r"MODEL.BACKBONE.NAME: build_dilation_supernet_fpn_backbone in the checkpoint, "
        "build_stage_supernet_fpn_backbone in the config",
    ):
        check_same_network(config(STAGE), saved(DILATION), "there/model.pth")


@pytest.mark.parametrize("name", [DETECTOR, STAGE, DILATION])
def test_what_an_evaluation_may_change(name):
    changes = dict(
        ROI_HEADS__SCORE_THRESH_TEST=0.5,
        RPN__POST_NMS_TOPK_TEST=50,
        RESNETS__NORM="FrozenBN",
        BACKBONE__FREEZE_AT=0,
        SUPERNET__SEED=3,
        CR__ACTIVATION_CHECKPOINT=True,
    )
    assert refusal(config(name, **changes), saved(name)) == []


def test_a_training_goes_on_where_no_weights_depend_on_what_has_changed():
    changes = dict(
        ROI_HEADS__NMS_THRESH_TEST=0.4,
        RPN__POST_NMS_TOPK_TEST=50,
        CR__ACTIVATION_CHECKPOINT=True,
        SUPERNET__TEST_PATHS=[[1, 1, 2, 4]],
        RPN__POST_NMS_TOPK_TRAIN=50,
    )
    keys = ["MODEL.RPN.POST_NMS_TOPK_TRAIN"]
    assert refusal(config(STAGE, **changes), saved(STAGE), check_same_model) == keys


@pytest.mark.parametrize("check", [check_same_model, check_same_network])
def test_no_operation_code_is_one_of_zeros(check):
    zeros, none = (config(DETECTOR, CR__OPERATION_CODE=code) for code in ([0] * 8, []))
    assert refusal(zeros, flatten_model_config(none), check) == []
    assert refusal(none, flatten_model_config(zeros), check) == []


def test_equal_values_that_are_written_differently():
    paper = config(STAGE, SUPERNET__STAGE_CHOICES=[list(range(1, 11))] * 4)
    space = crnas_d2.spaces.get_stage_space("resnet").choices
    paper.MODEL.SUPERNET.STAGE_CHOICES = [list(choices) for choices in space]
    assert refusal(paper, saved(STAGE)) == []
    assert refusal(config(STAGE), flatten_model_config(paper)) == []


@pytest.mark.parametrize(
    "name", [DETECTOR, STAGE, "COCO-Cascade/cascade_mask_rcnn_R_101_FPN_20e.yaml"]
)
def test_a_config_that_was_written_and_read_is_the_same(tmp_path, name):
    cfg = config(name)
    (tmp_path / "config.yaml").write_text(cfg.dump())
    read = crnas_d2.get_config(str(tmp_path / "config.yaml"))
    for one, other in ((cfg, read), (read, cfg)):
        assert refusal(one, flatten_model_config(other), check_same_model) == []
    other = [[10.0, 10.0, 5.0, 5.0], [20.0, 20.0, 10.0, 10.0], [30.0, 30.0, 15.0, 16.0]]
    read.MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS = other
    keys = ["MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS"]
    assert refusal(read, flatten_model_config(cfg), check_same_model) == keys


def test_a_builder_by_another_name(monkeypatch):
    alias = "build_cr_resnet_alias_backbone"
    builder = BACKBONE_REGISTRY.get("build_cr_fpn_backbone")
    monkeypatch.setitem(BACKBONE_REGISTRY._obj_map, alias, builder)
    assert refusal(config(DETECTOR, BACKBONE__NAME=alias), saved(DETECTOR)) == []
    assert refusal(config(DETECTOR), saved(DETECTOR, BACKBONE__NAME=alias)) == []


@pytest.mark.parametrize("check", [check_same_network, check_same_model])
def test_a_builder_by_its_old_name(check):
    old = "build_cr_resnet_fpn_backbone"
    assert refusal(config(DETECTOR, BACKBONE__NAME=old), saved(DETECTOR), check) == []
    assert refusal(config(DETECTOR), saved(DETECTOR, BACKBONE__NAME=old), check) == []


def test_fewer_choices_than_were_trained():
    fewer = [[1, 2], [2, 3], [2, 5], [3, 4]]
    assert refusal(config(STAGE, SUPERNET__STAGE_CHOICES=fewer), saved(STAGE)) == []
    assert refusal(config(DILATION, SUPERNET__OPERATIONS=[0, 1]), saved(DILATION)) == []


def test_a_network_of_a_supernet():
    codes = dict(CR__STAGE_CODE=[2, 1, 3, 2], CR__OPERATION_CODE=[0, 2, 1, 0, 0, 1, 2, 1])
    same = ("STEM_OUT_CHANNELS", "RES2_OUT_CHANNELS", "WIDTH_PER_GROUP")
    for supernet in (STAGE, DILATION):
        widths = {f"RESNETS__{k}": config(supernet).MODEL.RESNETS[k] for k in same}
        norm = dict(FPN__OUT_CHANNELS=config(supernet).MODEL.FPN.OUT_CHANNELS)
        cfg = config(DETECTOR, **codes, **widths, **norm)
        assert refusal(cfg, saved(supernet)) == []
        nas = config(DETECTOR, BACKBONE__NAME="build_cr_nasfpn_backbone", **widths)
        assert refusal(nas, saved(supernet)) == ["MODEL.BACKBONE.NAME"]


@pytest.mark.parametrize("check", [check_same_model, check_same_network])
def test_other_classes(check):
    here = config(DETECTOR, CLASS_NAMES=["cup", "ball"])
    assert refusal(here, saved(DETECTOR, CLASS_NAMES=["cup", "ball"]), check) == []
    for names in (["cup", "hat"], ["cup"], ["ball", "cup", "hat"]):
        assert refusal(here, saved(DETECTOR, CLASS_NAMES=names), check) == ["MODEL.CLASS_NAMES"]
    assert refusal(here, saved(DETECTOR), check) == []  # not known there
    assert refusal(config(DETECTOR), saved(DETECTOR, CLASS_NAMES=["cup"]), check) == []


def test_classes_in_another_order():
    """An evaluation can put the weights into the new order, but not a resume the optimizer's state."""
    here = config(DETECTOR, CLASS_NAMES=["cup", "ball"])
    there = saved(DETECTOR, CLASS_NAMES=["ball", "cup"])
    assert refusal(here, there) == []
    message = (
        "MODEL.CLASS_NAMES: the same 2 in another order: the one of index 0 is 'ball' in the "
        "checkpoint, 'cup' in the data. The state of the optimizer"
    )
    with pytest.raises(ValueError, match=message):
        check_same_model(here, there, "there/model.pth")


def test_names_of_other_classes_are_shown():
    here = config(DETECTOR, CLASS_NAMES=["cup", "Balls", "dog"])
    there = saved(DETECTOR, CLASS_NAMES=["cup", "ball"])
    message = (
        "MODEL.CLASS_NAMES: 2 in the checkpoint, 3 in the data; in the checkpoint alone: 'ball'; in "
        "the data alone: 'Balls', 'dog'; taken as different: 'ball' and 'Balls'"
    )
    with pytest.raises(ValueError, match=message):
        check_same_network(here, there, "there/model.pth")


def test_classes_alone_are_known():
    """As of a detector of the model zoo."""
    here = config(DETECTOR, CLASS_NAMES=["cup", "ball"])
    assert refusal(here, as_config(("ball", "cup"))) == []
    assert refusal(here, as_config(("ball", "hat"))) == ["MODEL.CLASS_NAMES"]
    assert refusal(here, as_config(())) == []


def test_a_checkpoint_that_says_nothing():
    assert refusal(config(DILATION), {}) == []
    assert refusal(config(DETECTOR), {}) == []
