"""What the checks of all data sets of a config find."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from detectron2.config import CfgNode

from ..files import describe_error
from .catalog import coco_json_entries, image_folder_entries, json_rules, voc_dir_entries
from .coco_json import check_coco_json
from .findings import Findings
from .imagenet import list_images
from .voc import examine_voc_dir


def examine(cfg: CfgNode) -> list[Findings]:
    """What is wrong with the own data sets of a config, and what of them is treated in a way of its
    own. Nothing is raised, and nothing written but what checks remember.

    Args:
        cfg: its ``DATASETS.TRAIN`` and ``TEST`` tell what is asked of a data set.

    Returns:
        Of each entry of ``DATASETS.COCO_JSON``, ``VOC_DIRS`` and ``IMAGE_FOLDERS``.
    """
    return [
        *_each(coco_json_entries(cfg), lambda entry: _coco_json(entry, cfg)),
        *_each(voc_dir_entries(cfg), _voc_dir),
        *_each(image_folder_entries(cfg), _image_folder),
    ]


def _each(entries: Iterable[Any], look: Callable[[Any], Findings]) -> Iterator[Findings]:
    try:
        for entry in entries:
            yield look(entry)
    except ValueError as error:  # an entry is malformed
        yield Findings("DATASETS", [describe_error(error)])


def _coco_json(entry: dict[str, Any], cfg: CfgNode) -> Findings:
    json_file, image_root, required = entry["json_file"], entry["image_root"], entry["required"]
    try:
        return check_coco_json(json_file, image_root, required, json_rules(cfg)).findings
    except OSError as error:
        return Findings(json_file, [describe_error(error)])


def _voc_dir(entry: dict[str, Any]) -> Findings:
    keys = ("dirname", "split", "class_names", "scored", "trained")
    try:
        return examine_voc_dir(*(entry[key] for key in keys))
    except OSError as error:
        return Findings(entry["dirname"], [describe_error(error)])


def _image_folder(entry: list[str]) -> Findings:
    _, root = entry
    try:
        list_images(root)
    except (OSError, ValueError) as error:
        return Findings(root, [describe_error(error)])
    return Findings(root)
