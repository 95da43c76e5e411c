"""Own data sets in the layout of PASCAL VOC: ``Annotations``, ``ImageSets/Main``, ``JPEGImages``.

VOC itself (``voc_2007_trainval``, ``voc_2012_trainval``, ``voc_2007_test``, ...) is registered by
Detectron2, below its folder of data sets.
"""

import os
import re
import xml.etree.ElementTree as ET
from typing import Iterator, List, Sequence, Tuple

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_pascal_voc
from detectron2.utils.file_io import PathManager

from .coco_json import box_fault, leaves_root, size_fault
from ..files import raise_faults, real_path

__all__ = ["register_voc_dir", "validate_voc_dir"]


def register_voc_dir(
    name: str,
    dirname: str,
    split: str,
    year: int,
    class_names: Sequence[str],
    scored: bool = False,
) -> None:
    """Validate a data set in VOC layout and register it in Detectron2.

    To register the same data under the same name again is fine.

    Args:
        name: such as "cells_test".
        dirname, split, class_names, scored: see :func:`validate_voc_dir`.
        year: the metric by which ``PascalVOCDetectionEvaluator`` scores it: 2007 (mean of the
            precision at 11 recalls) or 2012 (area under the precision-recall curve).

    Raises:
        FileNotFoundError, ValueError: as :func:`validate_voc_dir`; or ``year`` is none of the two,
            or the name stands for another data set already.
    """
    if year not in (2007, 2012):
        raise ValueError(f"{name}: year is {year!r}; expected 2007 or 2012, the metric of VOC")
    class_names = list(class_names)
    validate_voc_dir(dirname, split, class_names, scored)
    if name in DatasetCatalog:
        meta = MetadataCatalog.get(name)
        known = [meta.get(key) for key in ("dirname", "split", "year", "thing_classes")]
        if [real_path(str(known[0])), *known[1:]] != [real_path(dirname), split, year, class_names]:
            raise ValueError(
                f"the data set name {name!r} is taken: it stands for {meta}, so it cannot stand "
                f"for {split!r} of {dirname} with year {year} and classes {class_names}"
            )
        return
    register_pascal_voc(name, dirname, split, year, class_names)
    MetadataCatalog.get(name).evaluator_type = "pascal_voc"


def validate_voc_dir(
    dirname: str, split: str, class_names: Sequence[str], scored: bool = False
) -> None:
    """Check a data set in VOC layout.

    Corners are pixel indices that count from 1, both inclusive, as in VOC; a box may leave its
    image by one pixel.

    Args:
        dirname: folder with ``Annotations``, ``ImageSets/Main`` and ``JPEGImages``.
        split: name of a file in ``ImageSets/Main``, without ``.txt``: one image name a line.
        class_names: all classes, in the order of the class indices.
        scored: check also what ``PascalVOCDetectionEvaluator`` needs: whole-number corners, and
            an object that is not difficult for every class.

    Raises:
        FileNotFoundError: there is no such split.
        ValueError: names the folder, the first faults with their files, and how many there are.
    """
    set_file = os.path.join(dirname, "ImageSets", "Main", split + ".txt")
    if not PathManager.isfile(set_file):
        raise FileNotFoundError(f"there is no file {set_file}")
    with PathManager.open(set_file) as f:
        image_names = f.read().removesuffix("\n").split("\n")
    faults = [
        f"class name {name!r}: expected text without '/', once"
        for name in class_names
        if not name.strip() or "/" in name or list(class_names).count(name) > 1
    ]
    if len(image_names) < 2:
        # numpy.loadtxt, by which Detectron2 reads the file, makes a single line no list.
        faults.append(f"{set_file}: expected the names of at least 2 images, one a line")
    seen = set()
    to_score = set()
    for line, image_name in enumerate(image_names, start=1):
        if image_name.split() != [image_name] or "#" in image_name or leaves_root(image_name):
            faults.append(f"{set_file}, line {line}: {image_name!r} is no name of an image")
        elif image_name in seen:
            faults.append(f"{set_file}, line {line}: {image_name!r} is there twice")
        else:
            seen.add(image_name)
            faults += _image_faults(dirname, image_name, class_names, scored, to_score)
    if scored:
        faults += [
            f"{set_file}: no object of class {name!r} that is not difficult, so it has no AP"
            for name in class_names
            if name not in to_score
        ]
    raise_faults(dirname, faults)


def _image_faults(
    dirname: str, image_name: str, class_names: Sequence[str], scored: bool, to_score: set
) -> Iterator[str]:
    """Adds the classes of the objects that count in AP to ``to_score``."""
    image_file = os.path.join(dirname, "JPEGImages", image_name + ".jpg")
    if not PathManager.isfile(image_file):
        yield f"there is no file {image_file}"
    file = os.path.join(dirname, "Annotations", image_name + ".xml")
    if not PathManager.isfile(file):
        yield f"there is no file {file}"
        return
    try:
        with PathManager.open(file) as f:
            root = ET.parse(f).getroot()
    except (ET.ParseError, UnicodeDecodeError) as error:
        yield f"{file}: {error}"
        return
    sides = [root.findtext(f"size/{side}") for side in ("width", "height")]
    if not all(re.fullmatch(r"0*[1-9]\d{0,14}", side or "") for side in sides):
        yield f"{file}: width, height are {sides}; expected integers above 0"
        return
    size = tuple(map(int, sides))
    if size_fault(*size):
        yield f"{file}: {size_fault(*size)}"
        return
    for index, item in enumerate(root.findall("object"), start=1):
        faults = _object_faults(item, size, class_names, scored)
        yield from (f"{file}, object {index}: {fault}" for fault in faults)
        if item.findtext("difficult") == "0":
            to_score.add(item.findtext("name"))


def _object_faults(
    item: ET.Element, size: Tuple[int, int], class_names: Sequence[str], scored: bool
) -> List[str]:
    faults = []
    if item.findtext("name") not in class_names:
        faults.append(f"name is {item.findtext('name')!r}; expected one of {list(class_names)}")
    corners = [item.findtext(f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax")]
    try:
        xmin, ymin, xmax, ymax = map(int if scored else float, corners)
    except (TypeError, ValueError):
        kind = "whole numbers" if scored else "numbers"
        faults.append(f"bndbox is {corners}; expected 4 {kind} xmin, ymin, xmax, ymax")
    else:
        fault = box_fault(xmin - 1, ymin - 1, xmax - xmin + 1, ymax - ymin + 1, size)
        if fault:
            faults.append(f"bndbox {corners} {fault}")
    if scored:
        flags = {key: item.findtext(key) for key in ("pose", "truncated", "difficult")}
        if flags["pose"] is None or not {flags["truncated"], flags["difficult"]} <= {"0", "1"}:
            faults.append(f"it has {flags}; expected a pose, and truncated and difficult 0 or 1")
    return faults
