"""How many images and objects of each class a data set has."""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from ..files import is_remote, read_json
from .shared_images import drawn_from, source_of_drawn
from .splits import split_names
from .trained_objects import is_trained, trained_objects


@dataclass(frozen=True)
class ClassCounts:
    """
    Attributes:
        classes: their names, in the order of the class indices.
        images: of the data set.
        with_class: images that have an object of each class.
        objects: of each class. Those that Detectron2 trains on: no crowds, and none that lies
            outside its image.
        annotated: whether there are annotations at all.
    """

    classes: tuple[str, ...]
    images: int
    with_class: tuple[int, ...]
    objects: tuple[int, ...]
    annotated: bool = True

    def __add__(self, other: ClassCounts) -> ClassCounts:
        """Of both data sets together, which have the same classes."""
        return ClassCounts(
            self.classes,
            self.images + other.images,
            tuple(a + b for a, b in zip(self.with_class, other.with_class)),
            tuple(a + b for a, b in zip(self.objects, other.objects)),
            self.annotated and other.annotated,
        )


def count_classes(name: str, archval: CfgNode) -> ClassCounts:
    """Those of a registered data set, or of a part that is drawn from one; nothing is written.

    Args:
        archval: ``DATASETS.ARCHVAL``.

    Raises:
        OSError: the data set is not there.
        ValueError: its file is not in COCO format, or archval cannot be drawn from it.
    """
    source = source_of_drawn(name)
    meta = MetadataCatalog.get(source or name)
    if meta.get("evaluator_type") != "coco" or not meta.get("json_file"):
        return _of_dicts(DatasetCatalog.get(name), meta.get("thing_classes", ()))
    json_file = os.fspath(meta.json_file)
    modified = None if is_remote(json_file) else os.stat(json_file).st_mtime_ns
    archval_ids = drawn_from(source, archval).archval if source else frozenset()
    rest, of_archval = _of_json(json_file, modified, archval_ids)
    counts = of_archval if source and name == split_names(source)[1] else rest
    return replace(counts, classes=tuple(meta.get("thing_classes", counts.classes)))


@functools.lru_cache(maxsize=16)
def _of_json(
    json_file: str, modified: int | None, archval: frozenset[Hashable]
) -> tuple[ClassCounts, ClassCounts]:
    """Of the images of a file that are not in archval, and of those that are."""
    coco = read_json(json_file)
    try:
        categories = sorted(coco["categories"], key=lambda category: category["id"])
        classes = {category["id"]: index for index, category in enumerate(categories)}
        annotations = coco.get("annotations") or []
        ids = [image["id"] for image in coco["images"]]
        pairs = [
            (annotation["image_id"], classes[annotation["category_id"]])
            for annotation in trained_objects(coco["images"], annotations)
        ]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{json_file} is not in COCO format: {error!r}") from error
    names = [str(category.get("name")) for category in categories]
    return tuple(
        _count(
            names,
            sum((id in archval) is chosen for id in ids),
            [pair for pair in pairs if (pair[0] in archval) is chosen],
            bool(annotations),
        )
        for chosen in (False, True)
    )


def _of_dicts(dataset: Sequence[Mapping[str, Any]], names: Sequence[str]) -> ClassCounts:
    """Of a data set in Detectron2's form."""
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
    """
    Args:
        images: number of all.
        pairs: image and class of each object.
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
