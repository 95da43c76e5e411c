"""Whether an exported detector detects what the model itself detects."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch

from detectron2.export import TracingAdapter
from detectron2.modeling import GeneralizedRCNN, RetinaNet
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.structures import Instances

from .agreement import Selection, leave_out_ties, match_detections

Detector: TypeAlias = GeneralizedRCNN | RetinaNet
Function = Callable[[torch.Tensor], Sequence[torch.Tensor]]


def detect(model: Detector, image: torch.Tensor) -> Instances:
    """Detect objects in one image, without pasting their masks into it."""
    with torch.no_grad():
        if isinstance(model, RetinaNet):
            return model([{"image": image}])[0]["instances"]
        return model.inference([{"image": image}], do_postprocess=False)[0]


def compare(
    adapter: TracingAdapter,
    exported: Function,
    image: torch.Tensor,
    names: Sequence[str],
    tolerance: float,
) -> bool:
    """Print how far the detections of the exported model in an image are from those of the model.

    Returns:
        Whether the detections match one to one, with all outputs within the tolerance, except for
        ties in the selection of the detections.
    """
    with torch.no_grad():
        first, second = (dict(zip(names, run(image), strict=True)) for run in (adapter, exported))
    size, other_size = first.pop("image_size").tolist(), second.pop("image_size").tolist()
    agreement = match_detections(first, second, tolerance)
    counts = [len(detections["scores"]) for detections in (first, second)]
    print(
        f"image {size[0]}x{size[1]}: {counts[0]} detections, {counts[1]} of the exported model, "
        f"{counts[0] - len(agreement.missing)} of them the same"
    )
    for name, difference in agreement.differences.items():
        print(
            f"  {name}: largest difference {difference:.2g}, tolerance {agreement.limits[name]:.2g}"
        )
    missing, extra = leave_out_ties(
        agreement,
        first,
        second,
        find_selection(adapter.model),
        lambda score: find_candidates(adapter.model, image, score),
    )
    for what, detections, indices in (
        ("of the model alone", first, missing),
        ("of the exported model alone", second, extra),
    ):
        for index in indices[:3]:
            box = ", ".join(f"{x:.2f}" for x in detections["pred_boxes"][index].tolist())
            kind, score = detections["pred_classes"][index], detections["scores"][index]
            print(f"  {what}: class {kind}, score {score:.6f}, box {box}")
        if len(indices) > 3:
            print(f"  {what}: {len(indices) - 3} more")
    return size == other_size and not missing and not extra


def find_selection(model: Detector) -> Selection:
    selector, names = find_selector(model)
    score_threshold, iou_threshold, most = (getattr(selector, name) for name in names)
    return Selection(score_threshold, iou_threshold, most if most >= 0 else math.inf)


def find_candidates(model: Detector, image: torch.Tensor, score: float) -> dict[str, torch.Tensor]:
    """Get what the model would detect with scores above ``score`` without NMS."""
    selector, names = find_selector(model)
    usual = [getattr(selector, name) for name in names]
    try:
        for name, value in zip(names, (score, 1.0, sys.maxsize)):
            setattr(selector, name, value)
        found = detect(model, image)
    finally:
        for name, value in zip(names, usual):
            setattr(selector, name, value)
    return {
        "pred_boxes": found.pred_boxes.tensor,
        "pred_classes": found.pred_classes,
        "scores": found.scores,
    }


def find_selector(model: Detector) -> tuple[torch.nn.Module, Sequence[str]]:
    """Get the module that selects the detections, and its attributes for :class:`Selection`."""
    names = ("test_score_thresh", "test_nms_thresh")
    if isinstance(model, RetinaNet):
        return model, (*names, "max_detections_per_image")
    predictors = [m for m in model.modules() if isinstance(m, FastRCNNOutputLayers)]
    return predictors[-1], (*names, "test_topk_per_image")  # that of the last stage of a cascade
