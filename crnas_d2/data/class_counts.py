"""The class counts of registered datasets, and of parts that are split from them."""

from __future__ import annotations

import functools
import os
from dataclasses import replace
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from ..files import read_json
from .cache import state_of
from .class_names import tell_apart
from .object_counts import ClassCounts, count_coco, count_dicts
from .shared_images import drawn_from, source_of_drawn
from .splits import split_names

__all__ = ["ClassCounts", "count_classes"]


def count_classes(name: str, data: CfgNode) -> ClassCounts:
    """Count the classes of a registered dataset, or of a part that is split from one.

    Args:
        name: name of the dataset or part.
        data: ``DATASETS``.

    Raises:
        OSError: the dataset does not exist.
        ValueError: its file is not in COCO format, or archval cannot be split from it.
    """
    source = source_of_drawn(name)
    meta = MetadataCatalog.get(source or name)
    if meta.get("evaluator_type") != "coco" or not meta.get("json_file"):
        return count_dicts(DatasetCatalog.get(name), tell_apart(meta.get("thing_classes", ())))
    if source:
        archtrain, of_archval = drawn_from(source, data).counts
        counts = of_archval if name == split_names(source)[1] else archtrain
    else:
        json_file = os.fspath(meta.json_file)
        counts = _of_json(json_file, state_of(json_file))
    return replace(counts, classes=tuple(tell_apart(meta.get("thing_classes", counts.classes))))


@functools.lru_cache(maxsize=16)
def _of_json(json_file: str, state: Any) -> ClassCounts:
    try:
        return count_coco(read_json(json_file), frozenset())[0]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{json_file} is not in COCO format: {error!r}") from error
