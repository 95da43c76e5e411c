"""An examination of all datasets of a config, which collects all findings."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog

from ..files import describe_error
from .catalog import (
    coco_json_entries,
    image_folder_entries,
    json_rules,
    register_own,
    voc_dir_entries,
)
from .coco_json import JsonRules, check_coco_json
from .findings import Findings
from .image_check import look_at_images
from .imagenet import list_images
from .shared_images import source_of_drawn
from .voc import examine_voc_dir


def examine(cfg: CfgNode) -> list[Findings]:
    """Find errors in the datasets of a config, and content that is treated in a special way.

    Custom datasets without errors are registered. Nothing is raised, and nothing is written except
    cached results of the checks.

    Args:
        cfg: config, whose ``DATASETS.TRAIN`` and ``TEST`` determine what is required of a dataset.

    Returns:
        The findings for each entry of ``DATASETS.COCO_JSON``, ``VOC_DIRS`` and ``IMAGE_FOLDERS``,
        and for the images of TRAIN and TEST, except for datasets with errors and those that are
        generated on first use.
    """
    looks = {
        "COCO_JSON": (coco_json_entries, lambda entry: _coco_json(entry, json_rules(cfg))),
        "VOC_DIRS": (voc_dir_entries, _voc_dir),
        "IMAGE_FOLDERS": (image_folder_entries, _image_folder),
    }
    found = []
    sound = cfg.clone()
    sound.defrost()
    for key, (read, look) in looks.items():
        try:
            findings = [look(entry) for entry in read(cfg)]
        except ValueError as error:  # an entry is malformed
            findings = [Findings("DATASETS", [describe_error(error)])]
        entries = zip(cfg.DATASETS[key], findings)
        sound.DATASETS[key] = [entry for entry, of_it in entries if not of_it.errors]
        found += findings
    return [*found, *_images(sound)]


def _images(cfg: CfgNode) -> Iterator[Findings]:
    names = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
    with contextlib.suppress(ValueError):  # the setup of the datasets reports it
        cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ()
        register_own(cfg)
    for name in dict.fromkeys(source_of_drawn(name) or name for name in names):
        if name in DatasetCatalog:
            cfg.DATASETS.TRAIN = (name,)
            try:
                yield from look_at_images(cfg, makes=False)
            except (OSError, ValueError) as error:
                yield Findings("DATASETS", [describe_error(error)])


def _coco_json(entry: dict[str, Any], rules: JsonRules) -> Findings:
    json_file, image_root, required = entry["json_file"], entry["image_root"], entry["required"]
    try:
        return check_coco_json(json_file, image_root, required, rules).findings
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
