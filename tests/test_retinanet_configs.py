"""RetinaNet: Detectron2's own, with the backbones, norms and input of our configs."""

import os

import pytest
import torch

import crnas_d2
from crnas_d2.config import flatten_config, get_architecture

import detectron2
from detectron2.config import get_cfg
from detectron2.modeling import build_model

COCO = {
    "COCO-Detection/retinanet_R_50_FPN_1x.yaml": "ResNet50",
    "COCO-Detection/retinanet_CR_R_50_FPN_1x.yaml": "CR-ResNet50",
}
SMALL = {
    "retinanet_R_18_FPN": "faster_rcnn_R_18_FPN",
    "stage_supernet_R_18_retinanet_FPN": "stage_supernet_R_18_FPN",
    "dilation_supernet_SCR_R_18_retinanet_FPN": "dilation_supernet_SCR_R_18_FPN",
}
# What makes a RetinaNet of a Faster R-CNN
CHANGED = {
    "MODEL.META_ARCHITECTURE",
    "MODEL.BACKBONE.NAME",
    "MODEL.RESNETS.OUT_FEATURES",
    "MODEL.FPN.IN_FEATURES",
    "MODEL.ANCHOR_GENERATOR.SIZES",
    "MODEL.RETINANET.SMOOTH_L1_LOSS_BETA",
    "SOLVER.BASE_LR",
}


def detectron2s_config():
    cfg = get_cfg()
    folder = os.path.join(os.path.dirname(detectron2.__file__), "model_zoo", "configs")
    cfg.merge_from_file(os.path.join(folder, "COCO-Detection", "retinanet_R_50_FPN_1x.yaml"))
    return cfg


def differences(one, other):
    one, other = flatten_config(one), flatten_config(other)
    return {key for key in one if one[key] != other[key]}


@pytest.mark.parametrize("name", COCO)
def test_detector_is_detectron2s(name):
    cfg, theirs = crnas_d2.get_config(name), detectron2s_config()
    assert get_architecture(cfg) == crnas_d2.ARCHITECTURES[COCO[name]]
    for key in ("RETINANET", "ANCHOR_GENERATOR"):
        assert cfg.MODEL[key] == theirs.MODEL[key], key
    for key in ("IN_FEATURES", "OUT_CHANNELS", "FUSE_TYPE"):
        assert cfg.MODEL.FPN[key] == theirs.MODEL.FPN[key]
    assert cfg.SOLVER.BASE_LR == theirs.SOLVER.BASE_LR
    assert cfg.SOLVER.IMS_PER_BATCH == theirs.SOLVER.IMS_PER_BATCH
    if name.endswith("CR_R_50_FPN_1x.yaml"):
        return
    assert cfg.MODEL.FPN.NORM == theirs.MODEL.FPN.NORM
    cfg.MODEL.RESNETS.NORM = theirs.MODEL.RESNETS.NORM
    shapes = []
    for config in (cfg, theirs):
        config.MODEL.DEVICE = "meta"
        with torch.device("meta"):
            shapes.append({n: t.shape for n, t in build_model(config).state_dict().items()})
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("name", COCO)
def test_it_is_the_faster_rcnn_but_for_what_makes_a_retinanet(name):
    faster = crnas_d2.get_config(name.replace("retinanet", "faster_rcnn"))
    assert differences(crnas_d2.get_config(name), faster) == CHANGED


@pytest.mark.parametrize("name, faster", SMALL.items())
def test_small_data(name, faster):
    ours, faster = (crnas_d2.get_config(f"Small-Data/{n}.yaml") for n in (name, faster))
    assert differences(ours, faster) == CHANGED
    assert ours.SOLVER.BASE_LR == faster.SOLVER.BASE_LR / 2
    builder = faster.MODEL.BACKBONE.NAME.replace("_fpn", "_retinanet_fpn")
    assert ours.MODEL.BACKBONE.NAME == builder
    coco = crnas_d2.get_config(next(iter(COCO))).MODEL.ANCHOR_GENERATOR.SIZES
    halves = [pytest.approx([size / 2 for size in level]) for level in coco]
    assert ours.MODEL.ANCHOR_GENERATOR.SIZES == halves
