"""A detector over a thin supernet that waits, and returns synthetic detections."""

from __future__ import annotations

import time
from typing import Any

import torch
from coco_scoring import SIZE
from torch import nn

from crnas_d2.evaluation.detections import Detections

from detectron2.config import CfgNode
from detectron2.modeling import GeneralizedRCNN, build_backbone
from detectron2.structures import Boxes, Instances


class MadeHeads(nn.Module):
    """Replaces RPN and RoI heads: waits, and returns synthetic detections.

    Args:
        found: detections in all images, in the order of the images, the same number in each.
        images: number of images.
        seconds: time to wait for each image.
        mask_on: whether a detection has a mask too.
    """

    def __init__(self, found: Detections, images: int, seconds: float, mask_on: bool):
        super().__init__()
        self._boxes = torch.tensor(found.boxes.reshape(images, -1, 4), dtype=torch.float32)
        self._boxes[..., 2:] += self._boxes[..., :2]
        self._scores = torch.tensor(found.scores.reshape(images, -1), dtype=torch.float32)
        self._classes = torch.tensor(found.categories.reshape(images, -1))
        self._seconds = seconds
        self.mask_on = mask_on
        self.numbers: list[int] = []  # of the images in the mini-batch

    def forward(self, images: Any, *_: Any) -> tuple[list[Instances], dict]:
        time.sleep(self._seconds * len(self.numbers))
        return [self._find(n, size) for n, size in zip(self.numbers, images.image_sizes)], {}

    def _find(self, number: int, size: tuple[int, int]) -> Instances:
        instances = Instances(size)
        scale = torch.tensor([size[1], size[0]] * 2) / torch.tensor([*SIZE, *SIZE])
        instances.pred_boxes = Boxes(self._boxes[number] * scale)
        instances.scores = self._scores[number]
        instances.pred_classes = self._classes[number]
        if self.mask_on:
            instances.pred_masks = torch.ones(len(instances), 1, 28, 28)
        return instances


class StandIn(GeneralizedRCNN):
    """A detector whose backbone is a thin supernet, with synthetic heads."""

    def __init__(self, cfg: CfgNode, heads: MadeHeads):
        super().__init__(
            backbone=build_backbone(cfg),
            proposal_generator=lambda *_: (None, {}),
            roi_heads=heads,
            pixel_mean=cfg.MODEL.PIXEL_MEAN,
            pixel_std=cfg.MODEL.PIXEL_STD,
        )

    def inference(self, batched_inputs: list[dict], *args, **kwargs) -> list[dict]:
        self.roi_heads.numbers = [image["image_id"] for image in batched_inputs]
        return super().inference(batched_inputs, *args, **kwargs)
