"""Detectors whose multiply-adds are counted."""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import crnas_d2

from detectron2.modeling import build_model


def config(network):
    return crnas_d2.get_config(f"COCO-Detection/faster_rcnn_{network}_FPN_1x.yaml")


def mask_rcnn(network):
    cfg = config(network)
    cfg.MODEL.MASK_ON = True
    cfg.MODEL.ROI_MASK_HEAD.NAME = "MaskRCNNConvUpsampleHead"
    cfg.MODEL.ROI_MASK_HEAD.NUM_CONV = 4
    cfg.MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION = 14
    return cfg


def conv(height, width, inputs, outputs, kernel, groups=1):
    """Multiply-adds of a convolution with an output of height x width."""
    return height * width * outputs * (inputs // groups) * kernel * kernel


def executed_flops(cfg, run_heads=lambda heads: None):
    """FLOPs of all that torch executes in the backbone, the RPN head and what ``run_heads`` runs."""
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model = build_model(cfg).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        features = model.backbone(torch.empty(1, 3, 800, 1088, device="meta"))
        model.proposal_generator.rpn_head(list(features.values()))
        run_heads(model.roi_heads)
    return counter.get_total_flops()


def c4_config(mask=False, **cr):
    cfg = crnas_d2.get_config("COCO-Detection/faster_rcnn_CR_R_50_C4_1x.yaml")
    cfg.MODEL.MASK_ON = mask
    cfg.MODEL.ROI_MASK_HEAD.NAME = "MaskRCNNConvUpsampleHead"
    cfg.MODEL.CR.merge_from_list([entry for key in cr.items() for entry in key])
    return cfg


class Layers(nn.Module):
    """The layers of a mask or keypoint head, without its losses."""

    def __init__(self, head):
        super().__init__()
        self.head = head

    def forward(self, x):
        return self.head.layers(x)
