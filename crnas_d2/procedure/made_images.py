"""Synthetic images in place of a dataset that does not exist, for measurements of time."""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np
from PIL import Image

from detectron2.config import CfgNode

OBJECTS = 8  # per image


def use_made_images(cfg: CfgNode, folder: str) -> None:
    """Make a config train and test on synthetic images of its input's size.

    There are at least as many images as in a mini-batch.

    Args:
        cfg: the config, which is changed in place.
        folder: an empty folder for the images.
    """
    name = f"made_{os.path.basename(folder)}"
    count = max(cfg.SOLVER.IMS_PER_BATCH, cfg.SEARCH.IMAGES_PER_BATCH, OBJECTS)
    datasets = cfg.DATASETS
    datasets.COCO_JSON, datasets.VOC_DIRS, datasets.IMAGE_FOLDERS = [], [], []
    if cfg.MODEL.META_ARCHITECTURE == "ImageClassifier":
        size = cfg.INPUT.CLASSIFICATION.TEST_SIZE
        for index in range(count):
            _write_image(os.path.join(folder, name, f"class{index % 2}"), index, size, size)
        datasets.IMAGE_FOLDERS = [[name, os.path.join(folder, name)]]
    else:
        side = cfg.INPUT.MIN_SIZE_TRAIN[-1] or 480
        path = os.path.join(folder, f"{name}.json")
        with open(path, "w") as file:
            json.dump(_write_scenes(cfg, os.path.join(folder, name), count, side), file)
        datasets.COCO_JSON = [[name, path, os.path.join(folder, name)]]
    datasets.TRAIN = datasets.TEST = (name,)
    datasets.CHECK_IMAGES, datasets.CACHE_DIR = "none", folder


def _write_scenes(cfg: CfgNode, folder: str, count: int, height: int) -> dict:
    """Write images and return annotations in COCO format, with boxes of all sizes and as masks."""
    width, classes = height * 4 // 3, cfg.MODEL.ROI_HEADS.NUM_CLASSES
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(count):
        file_name = _write_image(folder, index, height, width)
        images.append({"id": index, "file_name": file_name, "height": height, "width": width})
        for number in range(OBJECTS):
            size = height / (number + 2)
            x, y = (width - size) * number / OBJECTS, (height - size) * index / count
            corners = [x, y, x + size, y, x + size, y + size, x, y + size]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index,
                    "category_id": number % classes + 1,
                    "bbox": [x, y, size, size],
                    "area": size * size,
                    "iscrowd": 0,
                    "segmentation": [corners],
                }
            )
    categories = [{"id": index + 1, "name": f"class {index}"} for index in range(classes)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _write_image(folder: str, seed: int, height: int, width: int) -> str:
    """Write an image of smooth noise, which takes as long to decode as a photograph.

    Returns:
        The name of the file.
    """
    os.makedirs(folder, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3))
    image = Image.fromarray(noise.astype(np.uint8))
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    image.save(os.path.join(folder, f"{seed}.jpg"))
    return f"{seed}.jpg"
