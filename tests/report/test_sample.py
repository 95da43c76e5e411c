"""Which images stand for a dataset."""

import itertools

import numpy as np
import pytest

from crnas_d2.data.objects import Objects
from crnas_d2.report.sample import choose

from detectron2.structures import BoxMode

SIDES = (10, 50, 150)  # one of each of COCO's classes of size


def made_objects(images):
    """Images with objects, given as pairs of class and size."""
    annotations = [
        [
            {
                "bbox": [0, 0, SIDES[size], SIDES[size]],
                "bbox_mode": BoxMode.XYWH_ABS,
                "category_id": label,
            }
            for label, size in objects
        ]
        for objects in images
    ]
    return Objects.of([{"height": 200, "width": 200, "annotations": a} for a in annotations])


def test_all_classes_and_sizes_come_first():
    """Among many images of one kind, each rare one."""
    common = [[(0, 1)] * 3 for _ in range(200)]
    rare = {17: [(1, 1)], 60: [(2, 0)], 61: [(0, 2)], 140: [(3, 1), (4, 2)]}
    for index, objects in rare.items():
        common[index] = objects
    first = [*itertools.islice(choose(made_objects(common), 5), 5)]
    assert set(rare) < set(first)


def test_as_few_as_can_be():
    """One image that shows everything goes before many that show a thing each."""
    images = [[(label, size)] for label in range(3) for size in range(3)]
    images.insert(4, [pair for image in images for pair in image])
    assert next(choose(made_objects(images))) == 4


@pytest.mark.parametrize("count", [1, 16])
def test_each_image_once_and_the_same_each_time(count):
    rng = np.random.default_rng(0)
    images = [
        [(int(rng.integers(5)), int(rng.integers(3))) for _ in range(rng.integers(4))]
        for _ in range(30)
    ]
    objects = made_objects(images)
    order = [*choose(objects, count)]
    assert sorted(order) == list(range(30))
    assert order == [*choose(objects, count)] != [*choose(objects, count, seed=1)]


def test_without_objects():
    assert sorted(choose(made_objects([[]] * 3))) == [0, 1, 2]
