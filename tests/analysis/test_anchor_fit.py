"""Anchors and levels against all anchors of Detectron2's generator, and its pooler."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch

from crnas_d2 import get_config
from crnas_d2.analysis.anchor_fit import Anchors, Levels, suggest
from crnas_d2.data.objects import Objects

from detectron2.layers import ShapeSpec
from detectron2.modeling import build_anchor_generator
from detectron2.structures import Boxes, BoxMode, pairwise_iou

CONFIGS = [
    "Small-Data/faster_rcnn_R_18_FPN.yaml",
    "Small-Data/retinanet_R_18_FPN.yaml",
    "Small-Data/stage_supernet_R_18_FPN.yaml",
]


def made_objects(count, size=(150, 210), ratio=1.0, side=40.0, seed=0):
    """In images of one size, with areas and ratios around some."""
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(count // 5):
        annotations = []
        for _ in range(5):
            length, h_over_w = side * 2 ** rng.normal(0, 0.7), ratio * 2 ** rng.normal(0, 0.4)
            w, h = length / math.sqrt(h_over_w), length * math.sqrt(h_over_w)
            x, y = rng.uniform(-5, size[1] - 10), rng.uniform(-5, size[0] - 10)
            mode = BoxMode.XYWH_ABS
            annotations.append({"bbox": [x, y, w, h], "bbox_mode": mode, "category_id": 0})
        images.append({"height": size[0], "width": size[1], "annotations": annotations})
    return Objects.of(images)


@pytest.mark.parametrize("offset", [0.0, 0.5])
@pytest.mark.parametrize("config", CONFIGS)
def test_best_is_the_best_of_all_anchors(config, offset):
    cfg = get_config(config)
    cfg.MODEL.ANCHOR_GENERATOR.OFFSET = offset
    objects = made_objects(200)
    anchors = Anchors.of(cfg)
    shapes = [ShapeSpec(channels=1, stride=stride) for stride in anchors.strides]
    padded = [-(-side // anchors.divisor) * anchors.divisor for side in (150, 210)]
    grids = [torch.zeros(1, 1, *(-(-side // s) for side in padded)) for s in anchors.strides]
    all_anchors = build_anchor_generator(cfg, shapes)(grids)
    boxes = Boxes(torch.as_tensor(objects.boxes, dtype=torch.float32))
    overlaps = torch.stack([pairwise_iou(boxes, a).max(dim=1).values for a in all_anchors], dim=1)
    best, levels = anchors.best(objects)
    np.testing.assert_allclose(best, overlaps.max(dim=1).values, atol=1e-6)
    at_level = overlaps[torch.arange(len(levels)), torch.as_tensor(levels)]
    np.testing.assert_allclose(at_level, best, atol=1e-6)
    fit = anchors.reach(objects)
    retinanet = "retinanet" in config
    assert anchors.threshold == (0.5 if retinanet else 0.7)
    assert fit.reached == np.mean(best >= anchors.threshold)
    assert fit.half == np.mean(best >= 0.5) and fit.mean == pytest.approx(best.mean())


def test_levels_are_those_of_the_pooler():
    levels = Levels.of(get_config("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"))
    assert (levels.names, levels.strides) == (("p2", "p3", "p4", "p5"), (4, 8, 16, 32))
    objects = made_objects(500, (800, 1000), side=200)
    lengths = objects.lengths
    # Equation 1 of FPN's paper, with its k0 = 4 and 224
    expected = np.clip(np.floor(4 + np.log2(lengths / 224)), 2, 5) - 2
    assert levels.assign(objects).tolist() == expected.tolist()
    assert levels.limits() == [112, 224, 448]
    assert np.searchsorted(levels.limits(), lengths, side="right").tolist() == expected.tolist()


def test_levels_of_detectors_without_a_pyramid():
    assert Levels.of(get_config("Small-Data/retinanet_R_18_FPN.yaml")) is None
    levels = Levels.of(get_config("COCO-Detection/faster_rcnn_R_50_C4_1x.yaml"))
    assert (levels.names, levels.strides, levels.limits()) == (("res4",), (16,), [])
    assert set(levels.assign(made_objects(50)).tolist()) == {0}


def test_better_anchors_are_found():
    """Long objects, at a third of the size for which the anchors are."""
    anchors = Anchors.of(get_config("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"))
    objects = made_objects(1000, (600, 800), ratio=5.0, side=20)
    found = suggest(anchors, objects)
    others = made_objects(1000, (600, 800), ratio=5.0, side=20, seed=1)
    assert found.reach(others).reached > anchors.reach(others).reached + 0.1
    assert [len(level) for level in found.sizes] == [1] * 5 and found.sizes[0][0] < 32
    assert len(found.ratios[0]) == 3 and min(found.ratios[0]) > 1
    assert found.settings().startswith("MODEL:\n  ANCHOR_GENERATOR:\n    SIZES: [[")


def test_good_anchors_are_kept():
    """Those of objects that have their shapes."""
    anchors = Anchors.of(get_config("Small-Data/faster_rcnn_R_18_FPN.yaml"))
    objects = made_objects(1000, (600, 800))
    shapes = itertools.cycle(itertools.product((32, 64, 128), (0.5, 1, 2)))
    sides = np.array([(s / r**0.5, s * r**0.5) for s, r in itertools.islice(shapes, 1000)])
    sides = sides[: len(objects.boxes)]
    centers = 64 * np.round(objects.boxes[:, :2] / 64)  # places of all grids
    boxes = np.hstack([centers - sides / 2, centers + sides / 2])
    objects = dataclasses.replace(objects, boxes=boxes)
    assert anchors.reach(objects).reached == 1
    assert suggest(anchors, objects) is None
    assert suggest(anchors, made_objects(0)) is None


def test_anchors_that_lose_small_objects_are_no_better():
    """Anchors of 27 pixels overlap objects of 20 and of 36 by more than half. Those of 36 would
    reach most objects, and lose the small ones."""
    anchors = Anchors.of(get_config("COCO-Detection/faster_rcnn_R_50_C4_1x.yaml"))
    anchors = dataclasses.replace(anchors, sizes=((27.0,),), ratios=((1.0,),), strides=(4,))
    box = {"bbox_mode": BoxMode.XYWH_ABS, "category_id": 0}
    # Their centers are places of the grid.
    corners = [(0, 20), (20, 20), *((8 * i, 80) for i in range(6))]
    annotations = [
        {**box, "bbox": [x, y, side, side]} for (x, y), side in zip(corners, [20] * 2 + [36] * 6)
    ]
    objects = Objects.of([{"height": 200, "width": 200, "annotations": annotations}] * 60)
    larger = dataclasses.replace(anchors, sizes=((36.0,),))
    assert anchors.reach(objects).half == 1 > larger.reach(objects).half
    assert larger.reach(objects).reached > anchors.reach(objects).reached + 0.5
    found = suggest(anchors, objects) or anchors
    assert found.reach(objects).half == 1


def test_other_generators():
    cfg = get_config("Small-Data/faster_rcnn_R_18_FPN.yaml")
    cfg.MODEL.ANCHOR_GENERATOR.NAME = "RotatedAnchorGenerator"
    with pytest.raises(ValueError, match="'RotatedAnchorGenerator'; expected 'DefaultAnchor"):
        Anchors.of(cfg)
