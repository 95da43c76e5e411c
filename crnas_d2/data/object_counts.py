"""The numbers of images and objects of each class in a dataset."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from detectron2.structures import BoxMode

from .trained_objects import is_trained, trained_objects


@dataclass(frozen=True)
class ClassCounts:
    """The counts of a dataset.

    Attributes:
        classes: names of the classes, in the order of the class indices.
        images: number of images.
        with_class: for each class, the number of images with an object of it.
        objects: for each class, the number of objects that Detectron2 trains on, which excludes
            crowds and objects outside of their image.
        annotated: whether there are annotations at all.
    """

    classes: tuple[str, ...]
    images: int
    with_class: tuple[int, ...]
    objects: tuple[int, ...]
    annotated: bool = True

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> ClassCounts:
        """Create counts from attributes by name, with lists for tuples."""
        attributes: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in content.items()
        }
        return cls(**attributes)

    def __add__(self, other: ClassCounts) -> ClassCounts:
        """Add the counts of two datasets with the same classes."""
        return ClassCounts(
            self.classes,
            self.images + other.images,
            tuple(a + b for a, b in zip(self.with_class, other.with_class)),
            tuple(a + b for a, b in zip(self.objects, other.objects)),
            self.annotated and other.annotated,
        )


def count_coco(
    coco: Mapping[str, Any], archval: frozenset[Hashable]
) -> tuple[ClassCounts, ClassCounts]:
    """Count the images of a COCO json that are not in archval, and those that are.

    Raises:
        KeyError, TypeError: it is not in COCO format.
    """
    categories = sorted(coco["categories"], key=lambda category: category["id"])
    classes = {category["id"]: index for index, category in enumerate(categories)}
    annotations = coco.get("annotations") or []
    pairs: tuple[list, list] = [], []
    for annotation in trained_objects(coco["images"], annotations):
        image = annotation["image_id"]
        pairs[image in archval].append((image, classes[annotation["category_id"]]))
    names = [str(category.get("name")) for category in categories]
    ids = [image["id"] for image in coco["images"]]
    inside = sum(image_id in archval for image_id in ids)
    archtrain, in_archval = (
        _count(names, images, of_part, bool(annotations))
        for images, of_part in zip((len(ids) - inside, inside), pairs)
    )
    return archtrain, in_archval


def count_dicts(dataset: Sequence[Mapping[str, Any]], names: Sequence[str]) -> ClassCounts:
    """Count a dataset in Detectron2's format."""
    annotated = [(index, image) for index, image in enumerate(dataset) if "annotations" in image]
    pairs = [
        (index, annotation["category_id"])
        for index, image in annotated
        for annotation in image["annotations"]
        if _is_trained(annotation, image)
    ]
    return _count(names, len(dataset), pairs, bool(annotated))


def _is_trained(annotation: Mapping[str, Any], image: Mapping[str, Any]) -> bool:
    if "bbox" not in annotation:
        return False
    box = BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYWH_ABS)
    size = image.get("width"), image.get("height")
    return is_trained(box, annotation.get("iscrowd"), *size)


def _count(
    names: Sequence[str], images: int, pairs: Sequence[tuple[Hashable, int]], annotated: bool
) -> ClassCounts:
    """Count objects.

    Args:
        names: names of the classes.
        images: total number of images.
        pairs: image and class of each object.
        annotated: whether there are annotations.
    """
    objects = Counter(label for _, label in pairs)
    with_class = Counter(label for _, label in set(pairs))
    indices = range(len(names))
    return ClassCounts(
        tuple(names),
        images,
        tuple(with_class[index] for index in indices),
        tuple(objects[index] for index in indices),
        annotated,
    )
