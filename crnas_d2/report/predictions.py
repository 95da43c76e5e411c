"""Detections on images as a COCO dataset."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pycocotools.mask as mask_util

from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import BoxMode, Instances

from .. import __version__
from ..files import read_json

PREDICTIONS_FILE = "predictions.json"
CONTRIBUTOR = "crnas_d2"


class Predictions:
    """Collects detections, and exports them as a complete dataset in COCO format.

    Class i of the detector is the category with the id i + 1.
    """

    def __init__(self, class_names: Sequence[str]):
        self._content: dict[str, Any] = {
            "info": {
                "description": "predictions",
                "version": __version__,
                "contributor": CONTRIBUTOR,
            },
            "images": [],
            "annotations": [],
            "categories": [{"id": i, "name": name} for i, name in enumerate(class_names, start=1)],
        }

    def add(self, file_name: str, instances: Instances, **more: Any) -> list[dict[str, Any]]:
        """Add an image and its detections.

        Args:
            file_name: name of the image.
            instances: detections in pixels of the image, on any device.
            more: further entries for the image.

        Returns:
            The detections in Detectron2's annotation format, as for :func:`draw_objects`, with the
            highest score last.
        """
        images, annotations = self._content["images"], self._content["annotations"]
        height, width = instances.image_size
        image_id = len(images) + 1
        images.append(
            {"id": image_id, "file_name": file_name, "width": width, "height": height, **more}
        )
        objects = []
        for found in instances_to_coco_json(instances.to("cpu"), image_id):
            area = found["bbox"][2] * found["bbox"][3]
            if "segmentation" in found:
                area = float(mask_util.area(found["segmentation"]))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    **found,
                    "category_id": found["category_id"] + 1,
                    "area": area,
                    "iscrowd": 0,
                }
            )
            objects.append({**found, "bbox_mode": BoxMode.XYWH_ABS})
        return sorted(objects, key=lambda instance: instance["score"])

    def to_json(self) -> bytes:
        return json.dumps(self._content, ensure_ascii=False).encode()


def is_of_predictions(path: str) -> bool:
    """Whether a file was written by :class:`Predictions`."""
    try:
        return read_json(path)["info"]["contributor"] == CONTRIBUTOR
    except (OSError, ValueError, LookupError, TypeError):
        return False
