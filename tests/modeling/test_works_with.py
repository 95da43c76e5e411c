"""The table of docs/works_with.md: each of its lines, with a thin CR-ResNet18, on the CPU."""

import re
from pathlib import Path

import pytest
import torch
import yaml
from made_batch import make_batch

import crnas_d2
from crnas_d2.analysis import analyze_detector

from detectron2.config import CfgNode, instantiate
from detectron2.modeling import build_model
from detectron2.projects.point_rend import add_pointrend_config
from detectron2.structures import RotatedBoxes
from detectron2.utils.events import EventStorage

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^\| (.+?) \| `(.+?)` \| (.+?) \| (.+?) \| (.+?) \| (.+?) \|$", re.MULTILINE)
PAGE = (ROOT / "docs" / "works_with.md").read_text(encoding="utf-8")
ROWS = {row[0]: row[1:] for row in ROW.findall(PAGE.split("\n## ")[0])}
LOSSES = {
    "Faster R-CNN": {"loss_cls", "loss_box_reg", "loss_rpn_cls", "loss_rpn_loc"},
    "Mask R-CNN": {"loss_mask"},
    "Cascade R-CNN": {"loss_cls_stage2", "loss_box_reg_stage2"},
    "RetinaNet": {"loss_cls", "loss_box_reg"},
    "FCOS": {"loss_fcos_cls", "loss_fcos_loc", "loss_fcos_ctr"},
    "Keypoint R-CNN": {"loss_keypoint"},
    "Panoptic FPN": {"loss_sem_seg", "loss_mask"},
    "Semantic FPN": {"loss_sem_seg"},
    "PointRend": {"loss_mask_point"},
    "Rotated Faster R-CNN": {"loss_cls", "loss_rpn_loc"},
}
OUTPUTS = {
    "Panoptic FPN": {"instances", "sem_seg", "panoptic_seg"},
    "Semantic FPN": {"sem_seg"},
}
ALL = pytest.mark.parametrize("name", ROWS)
THIN = [
    *("MODEL.DEVICE", "cpu", "MODEL.BACKBONE.FREEZE_AT", 0),
    *("MODEL.RESNETS.NORM", "BN", "MODEL.FPN.NORM", "BN"),
    *("MODEL.RESNETS.STEM_OUT_CHANNELS", 8, "MODEL.RESNETS.RES2_OUT_CHANNELS", 8),
    *("MODEL.FPN.OUT_CHANNELS", 32, "MODEL.SEM_SEG_HEAD.CONVS_DIM", 32),
    *("MODEL.ROI_BOX_HEAD.FC_DIM", 16, "MODEL.ROI_MASK_HEAD.CONV_DIM", 16),
    *("MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", [16]),
    *("MODEL.RPN.POST_NMS_TOPK_TRAIN", 20, "MODEL.RPN.POST_NMS_TOPK_TEST", 20),
    *("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 16, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0),
    *("MODEL.RETINANET.SCORE_THRESH_TEST", 0.0),
]


def make_cfg(name):
    lines = ROWS[name][0]
    cfg = crnas_d2.get_config("COCO-Detection/faster_rcnn_CR_R_18_FPN_1x.yaml")
    if name == "PointRend":
        add_pointrend_config(cfg)
    if lines.endswith(".yaml"):
        cfg.merge_from_file(str(ROOT / lines), allow_unsafe=False)
    else:
        cfg.merge_from_other_cfg(CfgNode(yaml.safe_load(lines)))
    cfg.merge_from_list(THIN)
    if name == "PointRend":
        cfg.merge_from_list(["MODEL.POINT_HEAD.FC_DIM", 16, "MODEL.ROI_MASK_HEAD.FC_DIM", 16])
    return cfg


def make_model(name):
    torch.manual_seed(0)
    lines = ROWS[name][0]
    if not lines.startswith("lazy_model"):
        return build_model(make_cfg(name))
    arguments = re.fullmatch(r'lazy_model\("(.+)", "(.+)"\)', lines).groups()
    body = {"stem_out_channels": 8, "res2_out_channels": 8}
    model = crnas_d2.lazy_model(*arguments, norm="BN", freeze_at=0, **body)
    model.backbone.out_channels = 64
    model.test_score_thresh = 0.0
    return instantiate(model)


def turn_boxes(batch):
    """Give them angles, as a dataset of rotated boxes has them."""
    for image in batch:
        truth = image["instances"]
        boxes = truth.gt_boxes
        sides = boxes.tensor[:, 2:] - boxes.tensor[:, :2]
        angles = torch.tensor([[20.0], [-30.0]])
        truth.gt_boxes = RotatedBoxes(torch.cat([boxes.get_centers(), sides, angles], dim=1))


def test_all_rows_are_read():
    assert ROWS.keys() == LOSSES.keys()


@ALL
def test_trains_a_step_and_detects(name):
    model = make_model(name)
    assert model.backbone.bottom_up.architecture == crnas_d2.ARCHITECTURES["CR-ResNet18"]
    assert ROWS[name][1].startswith("yes")
    batch = make_batch()
    if "Rotated" in name:
        pytest.importorskip("detectron2._C")
        turn_boxes(batch)
    with EventStorage():
        losses = model.train()(batch)
    assert losses.keys() >= LOSSES[name]
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    for parameter_name, parameter in model.backbone.bottom_up.named_parameters():
        assert parameter.grad.isfinite().all() and parameter.grad.any(), parameter_name

    with torch.no_grad():
        (output,) = model.eval()(make_batch()[:1])
    assert output.keys() == OUTPUTS.get(name, {"instances"})
    if "instances" in output:
        assert len(output["instances"]) > 0
        assert output["instances"].pred_boxes.tensor.isfinite().all()
    if "sem_seg" in output:
        assert output["sem_seg"].shape == (54, 96, 128)


@ALL
def test_multiply_adds(name):
    expected = ROWS[name][3]
    cfg = make_model(name) if expected == "in Python" else make_cfg(name)
    if expected == "no":
        with pytest.raises(ValueError, match="counted|expected"):
            analyze_detector(cfg)
    else:
        assert expected in ("yes", "in Python")
        assert analyze_detector(cfg, (96, 128)).macs > 0
