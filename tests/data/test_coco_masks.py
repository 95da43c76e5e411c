"""Masks that pycocotools can draw pass; those that end the process, or hang it, do not."""

import math
import re

import numpy as np
import pycocotools.mask
import pytest

from crnas_d2.data.masks import mask_fault

SIZE = (40, 30)


def circle(points, radius=10.0):
    angles = np.linspace(0, 2 * math.pi, points, endpoint=False)
    return (np.stack([np.cos(angles), np.sin(angles)], 1) * radius + 15).ravel().tolist()


def zigzag(turns):
    return [v for i in range(turns) for v in (40 * (i % 2), 30 * i / turns)]


@pytest.mark.parametrize(
    "polygon, message",
    [
        ([0, 0, 1e11, 0, 5, 5], r"x = 1e\+11; expected -40 to 80, .* image of 40 x 30 pixels"),
        ([0, 0, 5, -1e308, 5, 5], r"y = -1e\+308; expected -30 to 60"),
        ([0, 0, 1e308, 0, -1e308, 5], r"x = -1e\+308"),
        ([0, 0, 80.01, 0, 5, 5], "x = 80.01"),
        ([0, 0, 5, -30.01, 5, 5], "y = -30.01"),
        (circle(2_000_000), "polygon of 2000000 points and .* expected at most 2470 of both"),
        ([1, 2] * 2471, "polygon of 2471 points and 0 pixels outline"),
        (zigzag(100), "polygon of 100 points and 4000 pixels outline; expected at most 2470"),
        ([10**400, 0, 5, 0, 5, 5], "has the polygon"),
        ([float("inf"), 0, 5, 0, 5, 5], "has the polygon"),
        ([0, 0, 5, float("nan"), 5, 5], "has the polygon"),
        (["1"] * 6, "has the polygon"),
        ([[1]] * 6, "has the polygon"),
    ],
)
def test_polygons_that_cannot_be_drawn(polygon, message):
    good = [1, 1, 9, 1, 9, 9]
    assert re.search(f"segmentation .*{message}", mask_fault([good, polygon], SIZE))


def test_more_polygons_than_can_be_drawn():
    """They are drawn one after the other: a million small ones take minutes."""
    triangle = [1, 1, 9, 1, 9, 9]
    assert mask_fault([triangle] * (2470 // 3), SIZE) is None
    message = mask_fault([triangle] * (2470 // 3 + 1), SIZE)
    assert message.startswith(
        "segmentation has 824 polygons of 2472 points in all; expected at most 2470 points"
    )


@pytest.mark.parametrize(
    "polygon",
    [
        [0, 0, 40, 0, 40, 30, 0, 30],
        [-40, -30, 80, -30, 80, 60, -40, 60],
        [True, 2, 3, 4.5, 6, 7],
        circle(2_400),
        zigzag(60),
    ],
)
def test_polygons_that_are_drawn(polygon):
    assert mask_fault([polygon], SIZE) is None
    assert pycocotools.mask.frPyObjects([polygon], SIZE[1], SIZE[0])[0]["size"] == [30, 40]


def test_one_pixel_has_a_polygon():
    assert mask_fault([[0, 0, 1, 0, 1, 1, 0, 1]], (1, 1)) is None


def test_the_image_matters():
    far = [0, 0, 400, 0, 400, 300]
    assert mask_fault([far], SIZE) and mask_fault([far], (640, 480)) is None
    assert mask_fault([far], None) is None  # the image's size is a fault of its own


def test_compressed_run_lengths_are_read_as_pycocotools_does():
    rng = np.random.default_rng(0)
    for i in range(200):
        height, width = rng.integers(1, 300, 2).tolist()
        pixels = (rng.random((height, width)) < rng.random()) & (rng.random() < 0.95)
        if i % 2:  # long runs, whose differences have many digits
            pixels[: height // 2] = rng.random() < 0.5
            pixels[:, width // 3 :] = rng.random() < 0.5
        encoded = pycocotools.mask.encode(np.asfortranarray(pixels.astype(np.uint8)))
        counts = encoded["counts"].decode()
        assert mask_fault({"size": [height, width], "counts": counts}, (width, height)) is None
        wider = {"size": [height, width + 1], "counts": counts}
        assert f"of {height * width} pixels in all" in mask_fault(wider, (width + 1, height))


@pytest.mark.parametrize(
    "segmentation, message",
    [
        ({"size": [30, 40], "counts": [600, 599]}, "of 1199 pixels in all; expected 1200"),
        ({"size": [30, 40], "counts": [2**40]}, "of 1099511627776 pixels in all"),
        ({"size": [30, 40], "counts": [1201, -1]}, "the counts"),
        ({"size": [30, 40], "counts": [600.0, 600]}, "the counts"),
        ({"size": [30, 40], "counts": None}, "the counts None"),
        ({"size": [30, 40], "counts": ""}, "the counts ''"),
        ({"size": [30, 40], "counts": "PPYo1"}, "of 2073600 pixels in all"),
        ({"size": [30, 40], "counts": "PPYo"}, "the counts"),
        ({"size": [30, 40], "counts": "`U1世"}, "the counts"),
        ({"size": [30, 40], "counts": "o" * 50 + "1"}, "the counts"),
        ({"size": [30, 40], "counts": "O`U1"}, "the counts"),
        ({"size": [40, 30], "counts": "`U1"}, r"of size \[40, 30\]; expected \[30, 40\], height"),
        ({"counts": "`U1"}, "of size None"),
    ],
)
def test_run_lengths_that_cannot_be_drawn(segmentation, message):
    assert re.search(f"segmentation has .*{message}", mask_fault(segmentation, SIZE))
