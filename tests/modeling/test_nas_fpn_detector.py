"""Detectors with a NAS-FPN: images of any size, anchors, a step of training, and multiply-adds."""

import pytest
import torch

import crnas_d2
from crnas_d2.analysis import analyze_detector
from crnas_d2.engine.sync_bn import without_sync_bn

from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage


def make_detector():
    """The shipped detector, thin."""
    torch.manual_seed(0)
    cfg = without_sync_bn(
        crnas_d2.get_config("COCO-Detection/faster_rcnn_CR_R_50_NASFPN_1x.yaml"), "test"
    )
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 8
    cfg.MODEL.RESNETS.WIDTH_PER_GROUP = 4
    cfg.MODEL.NAS_FPN.NUM_CELLS = 2
    cfg.MODEL.NAS_FPN.OUT_CHANNELS = 8
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 16
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
    return build_model(cfg)


# Of no multiple of 128; padded together they have 256x256.
SIZES = [(150, 70), (97, 201)]


@torch.no_grad()
def test_detector_on_images_of_any_size():
    model = make_detector().eval()
    model.roi_heads.box_predictor.test_score_thresh = 0.0
    padded = []
    model.backbone.register_forward_pre_hook(lambda _, args: padded.append(args[0].shape[-2:]))
    features = {}
    model.backbone.register_forward_hook(lambda *args: features.update(args[2]))
    images = [torch.randint(256, (3, *size), dtype=torch.uint8) for size in SIZES]
    results = model([{"image": image} for image in images])
    assert padded == [(256, 256)]
    assert [tuple(f.shape[-2:]) for f in features.values()] == [(n, n) for n in (32, 16, 8, 4, 2)]
    for (height, width), result in zip(SIZES, results, strict=True):
        instances = result["instances"]
        assert len(instances) > 0 and instances.image_size == (height, width)
        boxes = instances.pred_boxes.tensor
        assert (boxes >= 0).all() and (boxes <= torch.tensor([width, height] * 2)).all()


def test_anchors_are_those_of_fpns_levels():
    anchors = make_detector().proposal_generator.anchor_generator
    assert anchors.strides == [8, 16, 32, 64, 128]
    for level, cell in enumerate(anchors.cell_anchors, start=3):
        areas = (cell[:, 2] - cell[:, 0]) * (cell[:, 3] - cell[:, 1])
        assert areas.sqrt().tolist() == pytest.approx([32 * 2 ** (level - 2)] * 3)


def test_detector_trains_a_step():
    model = make_detector().train()
    batch = []
    for height, width in SIZES:
        boxes = Boxes(torch.tensor([[5.0, 5.0, 60.0, 50.0], [10.0, 20.0, 40.0, 90.0]]))
        instances = Instances((height, width), gt_boxes=boxes, gt_classes=torch.tensor([0, 2]))
        image = torch.randint(256, (3, height, width), dtype=torch.uint8)
        batch.append({"image": image, "instances": instances})
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with EventStorage():
        losses = model(batch)
    assert losses.keys() == {"loss_cls", "loss_box_reg", "loss_rpn_cls", "loss_rpn_loc"}
    assert all(loss.isfinite() and loss > 0 for loss in losses.values())
    sum(losses.values()).backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01).step()
    neck = [n for n in before if n.startswith(("backbone.fpn_cells", "backbone.fpn_lateral"))]
    assert len(neck) == 3 * (2 * 7 + 3)
    for name, parameter in model.named_parameters():
        assert parameter.isfinite().all()
        if name in neck:
            assert parameter.grad.any(), name
        if name in neck and parameter.dim() == 4:
            assert not torch.equal(parameter, before[name]), name


@pytest.mark.parametrize("network", ["R_50", "CR_R_50"])
def test_multiply_adds(network):
    """By hand at 800x1088, which is padded to 896x1152."""
    cfg = crnas_d2.get_config(f"COCO-Detection/faster_rcnn_{network}_NASFPN_1x.yaml")
    cost = analyze_detector(cfg)
    pixels = {level: 896 * 1152 // 4**level for level in range(2, 8)}
    cell = sum(9 * 384 * 384 * pixels[level] for level in (4, 4, 3, 4, 5, 7, 6))
    anchors = 3
    rpn_position = 9 * 384 * 384 + 384 * anchors + 384 * 4 * anchors
    ours = {m.name: m.macs for m in cost.modules if m.part != "backbone"}
    assert ours == {
        "FPN lateral": 384 * (512 * pixels[3] + 1024 * pixels[4] + 2048 * pixels[5]),
        "NAS-FPN cells": 7 * cell,
        "RPN head": rpn_position * sum(pixels[level] for level in range(3, 8)),
        "box head": 1000 * (384 * 7 * 7 * 1024 + 1024 * 1024),
        "box predictor": 1000 * 1024 * (81 + 80 * 4),
    }
    parameters = {m.name: m.parameters for m in cost.modules}
    assert parameters["NAS-FPN cells"] == 7 * 7 * (9 * 384 * 384 + 2 * 384)
    assert parameters["FPN lateral"] == 384 * (512 + 1024 + 2048) + 3 * 2 * 384
    # All of ResNet's sizes are exact in both paddings, so that its count goes with the area.
    fpn = crnas_d2.get_config(f"COCO-Detection/faster_rcnn_{network}_FPN_1x.yaml")
    fpn_macs = analyze_detector(fpn).backbone_macs
    assert cost.backbone_macs * 800 * 1088 == fpn_macs * 896 * 1152
