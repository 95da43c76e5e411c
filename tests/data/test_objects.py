"""Arrays of objects against Detectron2's own mapper, and against counting one by one."""

import numpy as np
import pytest
from PIL import Image

from crnas_d2.data.objects import Objects

from detectron2.data import DatasetMapper
from detectron2.data.detection_utils import filter_empty_instances
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.structures import BoxMode

SIZES = [(60, 90), (90, 60), (64, 64), (40, 200)]
BOXES = [
    [5.5, 6, 20.25, 30],
    [-10.0, -4.0, 25.0, 20.0],  # of which a part is outside
    [30.0, 30.0, 500.0, 500.0],
    [70.0, 10.0, 0.0, 12.0],  # empty
    [-30.0, 5.0, 20.0, 20.0],  # outside
    [2.0, 3.0, 4.0, 5.0],
    [36.0, 30.0, -9.5, 8.0],  # to the left
]


@pytest.fixture
def dataset(tmp_path):
    """Four images with boxes in two modes, one of a crowd, and one image without any."""
    images = []
    for index, (height, width) in enumerate(SIZES):
        path = tmp_path / f"{index}.png"
        Image.new("RGB", (width, height)).save(path)
        annotations = []
        for number, (x, y, w, h) in enumerate(BOXES if index != 2 else []):
            corners = number % 2
            annotations.append(
                {
                    "bbox": [x, y, x + w, y + h] if corners else [x, y, w, h],
                    "bbox_mode": BoxMode.XYXY_ABS if corners else BoxMode.XYWH_ABS,
                    "category_id": (number + index) % 4,
                    "iscrowd": int(number == 5 and index == 0),
                }
            )
        image = {"file_name": str(path), "image_id": index, "height": height, "width": width}
        images.append({**image, "annotations": annotations})
    return images


def test_boxes_are_those_of_the_mapper(dataset):
    objects = Objects.of(dataset).resized(50, 80)
    mapper = DatasetMapper(
        is_train=True, augmentations=[ResizeShortestEdge(50, 80)], image_format="RGB"
    )
    boxes, classes, places = [], [], []
    for index, image in enumerate(dataset):
        instances = filter_empty_instances(mapper(image)["instances"])
        assert instances.image_size == tuple(objects.sizes[index])
        boxes += instances.gt_boxes.tensor.tolist()
        classes += instances.gt_classes.tolist()
        places += [index] * len(instances)
    np.testing.assert_allclose(objects.boxes, boxes, rtol=1e-6)
    assert objects.classes.tolist() == classes and objects.images.tolist() == places
    assert (objects.crowd, objects.empty) == (1, 2 * 3)


def test_counts(dataset):
    objects = Objects.of(dataset)
    kept = [
        (i, o)
        for i, image in enumerate(dataset)
        for o in image["annotations"]
        if not o["iscrowd"] and o["bbox"][0] not in (-30, 70)
    ]
    assert objects.per_image.tolist() == [sum(i == j for i, _ in kept) for j in range(4)]
    images, counts = objects.per_class(5)
    assert counts.tolist() == [sum(o["category_id"] == c for _, o in kept) for c in range(5)]
    assert images.tolist() == [len({i for i, o in kept if o["category_id"] == c}) for c in range(5)]
    lengths = [np.sqrt((x1 - x0) * (y1 - y0)) for x0, y0, x1, y1 in objects.boxes]
    np.testing.assert_allclose(objects.lengths, lengths)
    ratios = [(y1 - y0) / (x1 - x0) for x0, y0, x1, y1 in objects.boxes]
    np.testing.assert_allclose(objects.ratios, ratios)
    small = sum(length < 32 for length in lengths)
    large = sum(length >= 96 for length in lengths)
    assert objects.per_area() == {
        "small": small,
        "medium": len(lengths) - small - large,
        "large": large,
    }


def test_images_as_they_are(dataset):
    objects = Objects.of(dataset)
    assert objects.resized(0, 80) is objects


def test_a_dataset_without_objects(dataset):
    bare = [{k: v for k, v in image.items() if k != "annotations"} for image in dataset]
    objects = Objects.of(bare).resized(50, 80)
    assert objects.boxes.shape == (0, 4) and objects.per_image.tolist() == [0] * 4
    assert [counts.tolist() for counts in objects.per_class(2)] == [[0, 0], [0, 0]]


def test_images_without_a_size(dataset):
    del dataset[1]["height"]
    with pytest.raises(ValueError, match="1.png: expected a height and a width"):
        Objects.of(dataset)
