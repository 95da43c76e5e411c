"""Copies of annotations in VOC layout for Detectron2's VOC metric."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from typing import Any

from iopath.common.file_io import file_lock

from detectron2.evaluation.pascal_voc_evaluation import parse_rec
from detectron2.utils.file_io import PathManager

from ..paths import cache_folder
from .voc_images import VOCImage, VOCObject, set_file_of

logger = logging.getLogger(__name__)


def is_read_right(dirname: str, split: str, images: Sequence[VOCImage]) -> bool:
    """Whether Detectron2's VOC metric reads the same from the files."""
    with PathManager.open(set_file_of(dirname, split)) as file:
        if [line.strip() for line in file] != [image.name for image in images]:
            return False
    try:
        return all(
            parse_rec.__wrapped__(image.annotations) == [_record(o) for o in image.objects]
            for image in images
        )
    except (AttributeError, TypeError, ValueError, ET.ParseError):
        return False


def _record(item: VOCObject) -> dict[str, Any]:
    """Get an object in the form in which Detectron2's VOC metric keeps it."""
    return {
        "name": item.name,
        "pose": item.flags["pose"],
        "truncated": int(item.flags["truncated"]),
        "difficult": int(item.flags["difficult"]),
        "bbox": [round(corner) for corner in item.corners],
    }


def write_copy(dirname: str, split: str, images: Sequence[VOCImage], cache_dir: str) -> str:
    """Write the data of a split that the VOC metric reads in a readable form, unless they exist.

    Returns:
        The folder, whose name has a hash of its content.

    Raises:
        OSError: it cannot be written.
    """
    records = {image.name: [_record(item) for item in image.objects] for image in images}
    digest = hashlib.sha256(json.dumps([split, records]).encode()).hexdigest()
    cache = os.path.abspath(cache_folder(cache_dir))
    folder = os.path.join(cache, f"voc_{digest[:16]}")
    try:
        os.makedirs(cache, exist_ok=True)
        with file_lock(folder):
            if not os.path.isdir(folder):
                temporary = f"{folder}.{uuid.uuid4().hex}.tmp"
                _write_annotations(temporary, split, records)
                os.rename(temporary, folder)
                logger.info(f"{dirname}: the test reads its annotations in {folder}")
    except OSError as error:
        raise OSError(
            f"{dirname}: for the test a corrected copy of its annotations has to be written to "
            f"{folder}, which fails ({error}); expected DATASETS.CACHE_DIR to be a folder for it"
        ) from error
    return folder


def _write_annotations(folder: str, split: str, records: dict[str, list[dict[str, Any]]]) -> None:
    set_file = set_file_of(folder, split)
    for name, objects in records.items():
        root = ET.Element("annotation")
        for record in objects:
            item = ET.SubElement(root, "object")
            for key in ("name", "pose", "truncated", "difficult"):
                ET.SubElement(item, key).text = str(record[key])
            box = ET.SubElement(item, "bndbox")
            for key, corner in zip(("xmin", "ymin", "xmax", "ymax"), record["bbox"]):
                ET.SubElement(box, key).text = str(corner)
        file = os.path.join(folder, "Annotations", f"{name}.xml")
        os.makedirs(os.path.dirname(file), exist_ok=True)
        ET.ElementTree(root).write(file, encoding="utf-8")
    os.makedirs(os.path.dirname(set_file), exist_ok=True)
    with open(set_file, "w", encoding="utf-8") as names:
        names.write("".join(f"{name}\n" for name in records))
