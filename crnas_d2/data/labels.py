"""Detects test sets without labels, whose detections can be written but not scored."""

from __future__ import annotations

import functools
from typing import Any

from iopath.common.file_io import LazyPath

from detectron2.data import MetadataCatalog

from ..files import read_json
from .cache import state_of


def is_labeled(dataset_name: str) -> bool:
    """Whether a registered dataset has annotations, as far as this is known before it is loaded.

    COCO's evaluator scores nothing if the json file has no "annotations".
    """
    metadata = MetadataCatalog.get(dataset_name)
    json_file = metadata.get("json_file")
    if metadata.get("evaluator_type") != "coco" or not json_file or isinstance(json_file, LazyPath):
        return True
    try:
        return _has_annotations(json_file, state_of(json_file))
    except OSError:
        return True  # the file does not exist


@functools.lru_cache(maxsize=64)
def _has_annotations(json_file: str, state: Any) -> bool:
    return "annotations" in read_json(json_file)
