"""Reads the valid part of a COCO json that has errors, for display."""

from __future__ import annotations

import math
import os
from collections import defaultdict
from typing import Any

from detectron2.structures import BoxMode

from ..files import read_json


def read_sound_part(
    json_file: str, image_root: str
) -> tuple[list[dict[str, Any]], list[str], int, int]:
    """Read the valid part of a COCO json.

    Returns:
        The images with their objects in Detectron2's format; the names of the categories in the
        order of their ids; and the numbers of images and of objects that were left out as
        unintelligible.

    Raises:
        OSError, ValueError: the file cannot be read, or has neither images nor categories.
    """
    coco = read_json(json_file)
    sections: list[Any] = (
        [coco.get(name) for name in ("images", "annotations", "categories")]
        if isinstance(coco, dict)
        else [None] * 3
    )
    images, annotations, categories = (
        [e for e in section if isinstance(e, dict)] if isinstance(section, list) else []
        for section in sections
    )
    if not images or not categories:
        raise ValueError(f"{json_file} has no images or no categories, so there is nothing to show")
    names = {_key(c.get("id")): str(c.get("name")) for c in categories}
    order = {category_id: i for i, category_id in enumerate(sorted(names, key=_sorting))}
    objects, sound = defaultdict(list), 0
    dataset = {}
    for image in images:
        size = [_number(image.get(side)) for side in ("height", "width")]
        name = image.get("file_name")
        if all(s >= 1 for s in size) and isinstance(name, str) and name:
            path = os.path.join(image_root, name)
            height, width = map(int, size)
            record = {"file_name": path, "height": height, "width": width}
            dataset[_key(image.get("id"))] = record
    for annotation in annotations:
        box = annotation.get("bbox")
        values = [_number(v) for v in box] if isinstance(box, list) and len(box) == 4 else []
        image, category = (_key(annotation.get(key)) for key in ("image_id", "category_id"))
        if values and all(map(math.isfinite, values)) and image in dataset and category in order:
            sound += 1
            objects[image].append(
                {
                    "bbox": values,
                    "bbox_mode": BoxMode.XYWH_ABS,
                    "category_id": order[category],
                    "iscrowd": int(_number(annotation.get("iscrowd", 0)) == 1),
                }
            )
    shown = [{**image, "annotations": objects[image_id]} for image_id, image in dataset.items()]
    left_out = len(images) - len(shown), len(annotations) - sound
    return shown, [names[category_id] for category_id in order], *left_out


def _key(raw_id: Any) -> Any:
    """Get a common value for equivalent ids, such as 1, 1.0 and "1"."""
    number = _number(raw_id)
    return number if math.isfinite(number) else str(raw_id)


def _sorting(raw_id: Any) -> tuple[bool, float, str]:
    is_text = isinstance(raw_id, str)
    return is_text, 0.0 if is_text else raw_id, str(raw_id)


def _number(value: Any) -> float:
    """Convert a value to a number. NaN if it is not one."""
    try:
        return math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan
