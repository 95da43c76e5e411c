"""Custom datasets in COCO format: a json file of annotations and a folder of images."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from PIL import Image

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.utils.logger import log_first_n

from ..files import no_garbage_collection, parse_json, read_file, write_atomically
from ..paths import cache_folder, is_remote, real_path
from .cache import file_state, remembered
from .coco_check import UNLABELED, CocoCheck
from .findings import Findings, Warned

__all__ = [
    "SCORED_KEYS",
    "CheckedJson",
    "JsonRules",
    "check_coco_json",
    "register_coco_json",
    "validate_coco_json",
]

# Keys that pycocotools reads from every annotation it scores, in addition to the mandatory ones
SCORED_KEYS = ("area", "iscrowd")


@dataclass(frozen=True)
class JsonRules:
    """The settings of a config for its files in COCO format.

    Attributes:
        left_out_categories: ``DATASETS.LEFT_OUT_CATEGORIES``.
        images_outside_root: ``DATASETS.IMAGES_OUTSIDE_ROOT``.
        cache_dir: ``DATASETS.CACHE_DIR``, for cached verdicts and corrected copies.
    """

    left_out_categories: tuple[int | str, ...] = ()
    images_outside_root: bool = False
    cache_dir: str = ""


@dataclass(frozen=True)
class CheckedJson:
    """A checked file in COCO format.

    Attributes:
        source: the file.
        json_file: the file that Detectron2 and pycocotools have to read, which is the source or a
            corrected copy.
        findings: the findings. If there are errors, all other attributes are unreliable.
        categories: names by id, in the order of the ids, which is that of the classes.
        annotations: number of annotations. 0 if the images have no labels.
        trained: number of annotations that Detectron2 trains on, which excludes crowds and those
            that it drops.
        left_out: those of the rules' ``left_out_categories`` that are categories of this file.
    """

    source: str
    json_file: str
    findings: Findings
    categories: dict[int | str, str]
    annotations: int
    trained: int
    left_out: tuple[int | str, ...]


def register_coco_json(
    name: str,
    json_file: str,
    image_root: str,
    required: Collection[str] = (),
    rules: JsonRules = JsonRules(),
) -> CheckedJson:
    """Check a dataset in COCO format and register it in Detectron2 with its categories.

    The findings are logged once. In the metadata, ``source`` is always the file itself, whereas
    ``json_file`` may be a corrected copy. The same files may be registered again under the same
    name.

    Args:
        name: name such as "bccd_train".
        json_file, image_root, required, rules: see :func:`check_coco_json`.

    Raises:
        FileNotFoundError: as :func:`check_coco_json`.
        ValueError: the file has errors, or the name is taken by another dataset.
    """
    checked = check_coco_json(json_file, image_root, required, rules)
    checked.findings.raise_errors()
    for sentence in checked.findings.describe_warnings():
        log_first_n(logging.WARNING, sentence, name=__name__, key="message")
    if name in DatasetCatalog:
        meta = MetadataCatalog.get(name)
        known = [
            meta.get("source") or meta.get("json_file", f"no json file, but {meta}"),
            meta.get("image_root", ""),
        ]
        if [real_path(str(p)) for p in known] != [real_path(p) for p in (json_file, image_root)]:
            raise ValueError(
                f"the dataset name {name!r} is taken: it stands for {known[0]} with images in "
                f"{known[1]!r}, so it cannot stand for {json_file} with images in {image_root!r}"
            )
        # The file may have been edited since.
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    metadata = {
        "thing_classes": list(checked.categories.values()),
        "thing_dataset_id_to_contiguous_id": {
            category_id: i for i, category_id in enumerate(checked.categories)
        },
        "source": json_file,
    }
    register_coco_instances(name, metadata, checked.json_file, image_root)
    return checked


def validate_coco_json(
    json_file: str, image_root: str, required: Collection[str] = ()
) -> dict[int | str, str]:
    """Same as :func:`check_coco_json`, but return only the categories.

    Raises:
        ValueError: the file has errors.
    """
    checked = check_coco_json(json_file, image_root, required)
    checked.findings.raise_errors()
    return checked.categories


def check_coco_json(
    json_file: str,
    image_root: str,
    required: Collection[str] = (),
    rules: JsonRules = JsonRules(),
) -> CheckedJson:
    """Check a dataset in COCO format (detection, instance segmentation).

    An error is something on which Detectron2 or pycocotools would fail or compute wrong scores.
    Warnings are counted. They concern content that Detectron2 treats in its own way, or unambiguous
    content for which a corrected copy of the file is written to the cache folder, in a form that
    Detectron2 and pycocotools read correctly. Training and tests share the copy. Images are not
    opened.

    One process of the machine reads the file. Its verdict is cached until the file changes.

    Args:
        json_file: path or URI of the json file.
        image_root: folder that the file names in it are relative to.
        required: what is read in addition to boxes: ``SCORED_KEYS`` for a dataset that is tested,
            "segmentation" if masks are trained or tested, "objects" for a dataset that is trained
            on, and "polygons" if the training reads no other masks.
        rules: settings of the config.

    Raises:
        FileNotFoundError: the file or folder does not exist.
        OSError: a corrected copy is needed, but the cache folder is not writable.
    """
    if not is_remote(image_root) and not os.path.isdir(image_root):
        raise FileNotFoundError(f"the image root {image_root!r} of {json_file} is not a folder")
    folder = os.path.abspath(cache_folder(rules.cache_dir))
    masked = "segmentation" in required
    settings = {
        "masked": masked,
        "scored": masked and set(SCORED_KEYS) <= set(required),
        "left_out": list(rules.left_out_categories),
        "outside_root": rules.images_outside_root,
    }

    def check() -> dict[str, Any]:
        return _check(json_file, folder, settings)

    if is_remote(json_file):
        verdict = check()
    else:
        key = [file_state(json_file), settings, Image.MAX_IMAGE_PIXELS]
        verdict = remembered(folder, "coco_json", key, check)
        if verdict["copy"] and not os.path.isfile(os.path.join(folder, verdict["copy"])):
            verdict = check()
    warnings = {kind: Warned(**warned) for kind, warned in verdict["warnings"].items()}
    if "objects" in required:
        warnings.pop(UNLABELED, None)  # it is an error there
    errors = verdict["errors"] or list(_faults_in_training(verdict, required))
    return CheckedJson(
        json_file,
        os.path.join(folder, verdict["copy"]) if verdict["copy"] else json_file,
        Findings(json_file, errors, warnings),
        dict(map(tuple, verdict["categories"])),
        verdict["annotations"],
        verdict["trained"],
        tuple(verdict["left_out"]),
    )


def _faults_in_training(verdict: dict[str, Any], required: Collection[str]) -> Iterator[str]:
    """Iterate over faults that make a training with Detectron2 impossible."""
    annotations, masks = verdict["annotations"], Warned(**verdict["run_lengths"])
    if "objects" in required and not annotations:
        yield "it has no annotations, so there is nothing to train on"
    elif "objects" in required and not verdict["trained"]:
        yield (
            f"Detectron2 trains on none of the {annotations} annotations: it leaves out each one, as "
            "the warnings say; expected one that it keeps"
        )
    if "polygons" in required and masks.count:
        yield (
            f"masks of run lengths ({masks.describe()}), and with INPUT.MASK_FORMAT 'polygon' Detectron2 "
            "trains on polygons alone. Expected this line in the config: INPUT: "
            '{MASK_FORMAT: "bitmask"}'
        )


def _check(json_file: str, folder: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Compute the verdict as JSON, and write a corrected copy if needed."""
    with no_garbage_collection():
        return _check_content(read_file(json_file), json_file, folder, settings)


def _check_content(
    content: bytes, json_file: str, folder: str, settings: dict[str, Any]
) -> dict[str, Any]:
    findings = Findings(json_file)
    try:
        coco = parse_json(content, "the file")
    except ValueError as error:
        coco = None
        findings.error(str(error))
    check = CocoCheck(coco, findings, **settings)
    if not findings.errors:
        check.run()
    copy = None
    if check.corrected and not findings.errors:
        contents = [settings["masked"], settings["left_out"]]  # what a copy depends on
        copy = _write_copy(json_file, folder, [content, json.dumps(contents).encode()], coco)
    return {
        "errors": findings.errors,
        "warnings": {kind: asdict(warned) for kind, warned in findings.warnings.items()},
        "categories": list(check.categories.items()),
        "annotations": check.annotations,
        "trained": check.trained,
        "run_lengths": asdict(check.run_lengths),
        "left_out": check.left_out_here,
        "copy": copy,
    }


def _write_copy(json_file: str, folder: str, source: list[bytes], coco: Any) -> str:
    """Write a corrected copy, and return its name, which has the hash of what it was made from."""
    digest = hashlib.sha256()
    for content in source:
        digest.update(content)
    stem = os.path.splitext(os.path.basename(json_file))[0]
    name = f"{stem}_corrected_{digest.hexdigest()[:16]}.json"
    try:
        os.makedirs(folder, exist_ok=True)
        write_atomically(os.path.join(folder, name), json.dumps(coco).encode())
    except OSError as error:
        raise type(error)(
            f"{json_file} needs a corrected copy, which cannot be written to {folder} ({error}); "
            "choose another folder by DATASETS.CACHE_DIR"
        ) from error
    return name
