"""Advice on made objects, of which the truth is known."""

import re

import pytest
import yaml

from crnas_d2 import get_config
from crnas_d2.analysis.advice import advise
from crnas_d2.analysis.anchor_fit import Anchors
from crnas_d2.data.objects import Objects

from detectron2.structures import BoxMode


@pytest.fixture
def cfg():
    """Which gives images of 400 x 400 pixels half their size."""
    cfg = get_config("Small-Data/faster_rcnn_R_18_FPN.yaml")
    cfg.INPUT.MIN_SIZE_TRAIN = (160, 200)
    cfg.INPUT.MAX_SIZE_TRAIN = cfg.INPUT.MIN_SIZE_TEST = cfg.INPUT.MAX_SIZE_TEST = 200
    return cfg


def squares(*images):
    """Images of 400 x 400 pixels with squares, given by their sides."""
    return Objects.of(
        [
            {
                "height": 400,
                "width": 400,
                "annotations": [
                    {"bbox": [0, 0, s, s], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0}
                    for s in sides
                ],
            }
            for sides in images
        ]
    )


def about(subject, cfg, objects, anchors=None):
    return next(a for a in advise(cfg, anchors, objects) if a.subject == subject)


def test_small_objects_ask_for_a_larger_input(cfg):
    """Of 20 objects two are 20 pixels long, 10 in the input, the others 25 there. A tenth may be
    shorter than 16."""
    objects = squares([20] * 3 + [50] * 17)
    advice = about("Input size", cfg, objects)
    assert "0.0 % are shorter than 8 pixels and 15.0 % are shorter than 16" in advice.found
    # 16 / 10 times 200 is 320; that of 160 is 256.
    assert yaml.safe_load(advice.settings.replace("(256, 320)", "[256, 320]")) == {
        "INPUT": {
            "MIN_SIZE_TRAIN": [256, 320],
            "MAX_SIZE_TRAIN": 320,
            "MIN_SIZE_TEST": 320,
            "MAX_SIZE_TEST": 320,
        }
    }
    assert "At 320 (at most 320), 0.0 % are shorter than 8 pixels and 0.0 % are" in advice.found
    assert "2.6 times" in advice.found  # (320 / 200) ** 2
    assert "enlarges" not in advice.found  # the files have 400
    cfg.merge_from_list(["INPUT.MIN_SIZE_TEST", 320, "INPUT.MAX_SIZE_TEST", 320])
    again = about("Input size", cfg, objects)
    assert "That is well" in again.found and not again.settings


def test_tiny_objects_in_small_files(cfg):
    advice = about("Input size", cfg, squares([6] * 10))
    factor = int(re.search(r"MIN_SIZE_TEST: (\d+)", advice.settings)[1]) / 200
    assert 3 * factor >= 16 > 3 * (factor - 32 / 200)
    assert "enlarges 100 % of the images" in advice.found and "tiles" in advice.found


def test_images_that_are_not_resized(cfg):
    cfg.INPUT.MIN_SIZE_TEST = 0
    advice = about("Input size", cfg, squares([10] * 10))
    assert "Enlarge the images 1.6 times" in advice.found and not advice.settings


def test_more_objects_than_detections(cfg):
    advice = about("Detections per image", cfg, squares([50] * 130, [50] * 100, [50] * 101))
    assert "has 130 of them" in advice.found and "Of 2 images" in advice.found
    assert yaml.safe_load(advice.settings) == {"TEST": {"DETECTIONS_PER_IMAGE": 200}}
    assert not about("Detections per image", cfg, squares([50] * 100)).settings


def test_anchors(cfg):
    """Squares of 46 pixels in the input, where the anchors have 32 and 64."""
    anchors, objects = Anchors.of(cfg), squares(*[[92] * 4] * 50)
    advice = about("Anchors", cfg, objects, anchors)
    assert "0.7 for 0.0 %" in advice.found and "100.0 % instead of 0.0 %" in advice.found
    cfg.merge_from_other_cfg(type(cfg)(yaml.safe_load(advice.settings)))
    again = about("Anchors", cfg, objects, Anchors.of(cfg))
    assert "0.7 for 100.0 %" in again.found and not again.settings


def test_nothing_to_say_without_objects(cfg):
    assert advise(cfg, Anchors.of(cfg), squares([], [])) == []
