"""Custom datasets in PASCAL VOC layout: ``Annotations``, ``ImageSets/Main``, ``JPEGImages``.

VOC itself (``voc_2007_trainval``, ``voc_2012_trainval``, ``voc_2007_test``, ...) is registered by
Detectron2, below its folder of datasets.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from detectron2.utils.logger import log_first_n

from ..paths import real_path
from .findings import Findings
from .voc_copy import is_read_right, write_copy
from .voc_images import VOCImage, VOCObject, read_voc_images, set_file_of

__all__ = ["examine_voc_dir", "load_voc_dir", "register_voc_dir"]


def register_voc_dir(
    name: str,
    dirname: str,
    split: str,
    year: int,
    class_names: Sequence[str],
    scored: bool = False,
    cache_dir: str = "",
    trained: bool = False,
) -> None:
    """Check a dataset in VOC layout, log the findings, and register it in Detectron2.

    ``dirname`` in its metadata is what ``PascalVOCDetectionEvaluator`` reads: the folder itself, or
    a copy of the annotations that it reads correctly. ``source`` is always the folder. The same
    data may be registered again under the same name.

    Args:
        name: name such as "cells_test".
        dirname, split, class_names, scored, trained: see :func:`examine_voc_dir`.
        year: metric by which ``PascalVOCDetectionEvaluator`` scores it: 2007 (mean of the precision
            at 11 recalls) or 2012 (area under the precision-recall curve).
        cache_dir: ``DATASETS.CACHE_DIR``, for the copy.

    Raises:
        FileNotFoundError: there is no such split.
        ValueError: the data have errors, ``year`` is neither of the two, or the name is taken by
            another dataset.
        OSError: the copy cannot be written.
    """
    if year not in (2007, 2012):
        raise ValueError(f"{name}: year is {year!r}; expected 2007 or 2012, the metric of VOC")
    class_names = list(class_names)
    findings, images = _read(dirname, split, class_names, scored, trained)
    findings.raise_errors()
    for sentence in findings.describe_warnings():
        log_first_n(logging.WARNING, sentence, name=__name__, key="message")
    if name in DatasetCatalog:
        meta = MetadataCatalog.get(name)
        known = [meta.get(key) for key in ("source", "split", "year", "thing_classes")]
        if [real_path(str(known[0])), *known[1:]] != [real_path(dirname), split, year, class_names]:
            raise ValueError(
                f"the dataset name {name!r} is taken: it stands for {meta}, so it cannot stand "
                f"for {split!r} of {dirname} with year {year} and classes {class_names}"
            )
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    is_copied = scored and not is_read_right(dirname, split, images)
    DatasetCatalog.register(
        name, functools.partial(load_voc_dir, dirname, split, tuple(class_names))
    )
    MetadataCatalog.get(name).set(
        thing_classes=class_names,
        dirname=write_copy(dirname, split, images, cache_dir) if is_copied else dirname,
        source=dirname,
        split=split,
        year=year,
        evaluator_type="pascal_voc",
    )


def examine_voc_dir(
    dirname: str,
    split: str,
    class_names: Sequence[str],
    scored: bool = False,
    trained: bool = False,
) -> Findings:
    """Find content in VOC layout that Detectron2 cannot read or treats in its own way.

    Corners are pixel indices that count from 1, both inclusive, as in VOC. A box may exceed its
    image by one pixel.

    Args:
        dirname: folder with ``Annotations``, ``ImageSets/Main`` and ``JPEGImages``.
        split: name of a file in ``ImageSets/Main`` without ``.txt``, with one image name per line.
        class_names: all classes, in the order of the class indices.
        scored: also check what ``PascalVOCDetectionEvaluator`` needs, such as a non-difficult
            object of every class.
        trained: require an object on which Detectron2 trains.

    Raises:
        FileNotFoundError: there is no such split.
    """
    findings, _ = _read(dirname, split, class_names, scored, trained)
    return findings


def load_voc_dir(dirname: str, split: str, class_names: Sequence[str]) -> list[dict[str, Any]]:
    """Load the images in Detectron2's format, like ``load_voc_instances`` for readable files."""
    findings, images = _read(dirname, split, class_names)
    findings.raise_errors()
    return [
        {
            "file_name": image.file,
            "image_id": image.name,
            "height": image.height,
            "width": image.width,
            "annotations": [_annotation(item, class_names) for item in image.objects],
        }
        for image in images
    ]


def _annotation(item: VOCObject, class_names: Sequence[str]) -> dict[str, Any]:
    xmin, ymin, xmax, ymax = item.corners
    return {
        "category_id": class_names.index(item.name),
        "bbox": [xmin - 1.0, ymin - 1.0, xmax, ymax],
        "bbox_mode": BoxMode.XYXY_ABS,
    }


def _read(
    dirname: str,
    split: str,
    class_names: Sequence[str],
    scored: bool = False,
    trained: bool = False,
) -> tuple[Findings, list[VOCImage]]:
    findings = Findings(dirname)
    for name in class_names:
        if not name.strip() or "/" in name or list(class_names).count(name) > 1:
            findings.error(f"class name is {name!r}; expected text without '/', once")
    images = read_voc_images(dirname, split, class_names, scored, findings)
    if findings.errors:
        return findings, images
    if trained and not any(item.is_trained for image in images for item in image.objects):
        findings.error(
            f"{set_file_of(dirname, split)}: there is no object on which Detectron2 trains; expected "
            "one or more"
        )
    if scored:
        counted = {o.name for i in images for o in i.objects if not int(o.flags["difficult"])}
        for name in class_names:
            if name not in counted:
                findings.error(
                    f"{set_file_of(dirname, split)}: no object of class {name!r} that is not "
                    "difficult, so it has no AP, and VOC's metric would count it as 0"
                )
    return findings, images
