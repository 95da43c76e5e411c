"""Reads and checks the images of a dataset in PASCAL VOC layout."""

from __future__ import annotations

import math
import os
import re
import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from detectron2.utils.file_io import PathManager

from .boxes import IN_A_TEST, LEFT_OUT, box_kind
from .coco_check import leaves_root, size_fault
from .findings import Findings
from .image_header import Fault, read_facts
from .images import IMAGES

DEFAULTS = {"pose": "Unspecified", "truncated": "0", "difficult": "0"}  # as in VOC

SIZE_OF_FILE = "file without width or height above 0, taken from the image"
SEVERAL_FILES = "image with several files, of which the first one is taken"
BLANK_LINE = "blank line, which is passed over"
TWICE = "image that is there twice, and twice as often in the training"
FRACTION = "corners that are no whole numbers, rounded in the test, but not in the training"
NO_FLAG = "object without pose, truncated or difficult, taken for 'Unspecified', 0 and 0"


@dataclass(frozen=True)
class VOCObject:
    """An annotated object.

    Attributes:
        name: name of its class.
        corners: xmin, ymin, xmax, ymax, pixel indices that count from 1, both inclusive.
        is_trained: whether Detectron2 trains on it.
        flags: "pose", "truncated" and "difficult", as the VOC metric reads them.
    """

    name: str
    corners: tuple[float, float, float, float]
    is_trained: bool
    flags: dict[str, str]


@dataclass(frozen=True)
class VOCImage:
    """An annotated image.

    Attributes:
        name: name in the split.
        file: its image file.
        width, height: size in pixels, as Detectron2 reads the image.
        annotations: its XML file.
        objects: objects in the order of that file.
    """

    name: str
    file: str
    width: int
    height: int
    annotations: str
    objects: tuple[VOCObject, ...]


def read_voc_images(
    dirname: str, split: str, class_names: Sequence[str], scored: bool, findings: Findings
) -> list[VOCImage]:
    """Read and check the images of a split.

    Args:
        dirname: folder with ``Annotations``, ``ImageSets/Main`` and ``JPEGImages``.
        split: name of a file in ``ImageSets/Main`` without ``.txt``, with one image name per line.
        class_names: all classes.
        scored: also check what ``PascalVOCDetectionEvaluator`` needs.
        findings: findings to add to.

    Returns:
        The images without errors.

    Raises:
        FileNotFoundError: there is no such split.
    """
    set_file = set_file_of(dirname, split)
    files_by_name = _FilesByName(os.path.join(dirname, "JPEGImages"))
    names = list(_image_names(set_file, scored, findings))
    if names and not any(PathManager.isfile(_xml_file(dirname, name)) for _, name in names):
        findings.error(
            f"{set_file}: none of its {len(names)} images has a file in "
            f"{os.path.join(dirname, 'Annotations')}; a test set without annotations has to be in COCO "
            "format, a json of images and categories"
        )
        return []
    images = []
    for place, name in names:
        files = files_by_name.of(name)
        if not files:
            findings.error(
                f"{place}: there is no file {os.path.join(files_by_name.folder, name)}.jpg"
            )
        if len(files) > 1:
            findings.warn(SEVERAL_FILES, f"{name} ({', '.join(map(os.path.basename, files))})")
        file = _xml_file(dirname, name)
        root = _read_xml(file, findings)
        label = os.path.relpath(file, dirname)  # findings name the folder
        if root is None or not files:
            continue
        size = _size(root, label, files[0], findings)
        if size is not None:
            objects = tuple(_objects(root, label, size, class_names, scored, findings))
            images.append(VOCImage(name, files[0], *size, file, objects))
    return images


def _xml_file(dirname: str, image_name: str) -> str:
    return os.path.join(dirname, "Annotations", image_name + ".xml")


def set_file_of(dirname: str, split: str) -> str:
    """Get the file with the names of the images of a split."""
    return os.path.join(dirname, "ImageSets", "Main", split + ".txt")


class _FilesByName:
    """The image files of a folder, which is listed once, and of its subfolders."""

    def __init__(self, folder: str):
        self.folder = folder
        self._listed: dict[str, dict[str, list[str]]] = {}

    def of(self, name: str) -> list[str]:
        """Get the files of an image, ``.jpg`` first, as Detectron2 reads no other."""
        folder, stem = os.path.split(os.path.join(self.folder, name))
        if folder not in self._listed:
            self._listed[folder] = self._list(folder)
        return self._listed[folder].get(stem, [])

    def _list(self, folder: str) -> dict[str, list[str]]:
        files = defaultdict(list)
        names = PathManager.ls(folder) if PathManager.isdir(folder) else []
        for name in sorted(names, key=lambda name: (not name.endswith(".jpg"), name)):
            stem, extension = os.path.splitext(name)
            if extension.lower() in IMAGES:
                files[stem].append(os.path.join(folder, name))
        return files


def _image_names(set_file: str, scored: bool, findings: Findings) -> Iterator[tuple[str, str]]:
    """Iterate over the place and the name of each line that names an image."""
    if not PathManager.isfile(set_file):
        raise FileNotFoundError(f"there is no file {set_file}")
    with PathManager.open(set_file, encoding="utf-8-sig") as file:
        lines = file.read().removesuffix("\n").split("\n")
    seen = set()
    for number, line in enumerate(lines, start=1):
        place, name = f"{set_file}, line {number}", line.strip()
        if not name and any(map(str.strip, lines)):
            findings.warn(BLANK_LINE, place)
        elif len(name.split()) != 1 or "#" in name or leaves_root(name):
            findings.error(f"{place}: {name!r} is no name of an image")
        elif name in seen and scored:
            findings.error(
                f"{place}: {name!r} is there twice, so VOC's metric counts its objects twice"
            )
        else:
            if name in seen:
                findings.warn(TWICE, f"{place}: {name}")
            seen.add(name)
            yield place, name


def _read_xml(file: str, findings: Findings) -> ET.Element | None:
    try:
        with PathManager.open(file, "rb") as stream:  # binary, as the file states its encoding
            return ET.parse(stream).getroot()
    except FileNotFoundError:
        findings.error(f"there is no file {file}")
    except (ET.ParseError, ValueError, LookupError) as error:
        findings.error(f"{file}: {error}")
    return None


def _size(root: ET.Element, label: str, image: str, findings: Findings) -> tuple[int, int] | None:
    """Get the width and height of an image. None if they are unknown."""
    texts = [(root.findtext(f"size/{side}") or "0").strip() for side in ("width", "height")]
    if not all(re.fullmatch(r"\d{1,15}(\.0*)?", text) for text in texts):
        findings.error(f"{label}: width, height are {texts}; expected integers")
        return None
    width, height = (int(float(text)) for text in texts)
    size = width, height
    if 0 in size:
        facts = read_facts(image)
        if isinstance(facts, Fault):
            findings.error(f"{label}: width, height are {texts}, and {image} {facts.what}")
            return None
        size = facts.size
        findings.warn(SIZE_OF_FILE, label)
    fault = size_fault(*size)
    if fault:
        findings.error(f"{label}: {fault}")
    return None if fault else size


def _objects(
    root: ET.Element,
    label: str,
    size: tuple[int, int],
    class_names: Collection[str],
    scored: bool,
    findings: Findings,
) -> Iterator[VOCObject]:
    """Iterate over the objects without errors."""
    for index, item in enumerate(root.findall("object"), start=1):
        place = f"{label}, object {index}"
        before = len(findings.errors)
        name = item.findtext("name")
        if name not in class_names:
            findings.error(f"{place}: name is {name!r}; expected one of {list(class_names)}")
        texts = [item.findtext(f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax")]
        corners = _finite(texts)
        if corners is None:
            findings.error(f"{place}: bndbox is {texts}; expected 4 numbers xmin, ymin, xmax, ymax")
        is_trained = corners is not None and _is_trained(corners, place, size, scored, findings)
        flags = _flags(item, place, findings) if scored else {}
        if name is not None and corners is not None and len(findings.errors) == before:
            yield VOCObject(name, corners, is_trained, flags)


def _finite(texts: Sequence[str | None]) -> tuple[float, float, float, float] | None:
    try:
        xmin, ymin, xmax, ymax = (float(text or "") for text in texts)
    except ValueError:
        return None
    corners = xmin, ymin, xmax, ymax
    return corners if all(map(math.isfinite, corners)) else None


def _is_trained(
    corners: Sequence[float], place: str, size: tuple[int, int], scored: bool, findings: Findings
) -> bool:
    """Check a box, and return whether Detectron2 trains on it."""
    xmin, ymin, xmax, ymax = corners
    kind = box_kind(xmin - 1, ymin - 1, xmax - xmin + 1, ymax - ymin + 1, size)
    if kind:
        findings.warn(kind + IN_A_TEST[kind] * scored, place)
    if scored and any(corner % 1 for corner in corners):
        findings.warn(FRACTION, place)
    return kind not in LEFT_OUT


def _flags(item: ET.Element, place: str, findings: Findings) -> dict[str, str]:
    """Get the flags that the VOC metric reads, of which it uses ``difficult``."""
    texts = {key: (item.findtext(key) or "").strip() for key in DEFAULTS}
    if not _is_integer(texts["truncated"]):
        texts["truncated"] = ""
    if item.find("pose") is None or not (texts["truncated"] and texts["difficult"]):
        findings.warn(NO_FLAG, place)
    flags = {key: text or DEFAULTS[key] for key, text in texts.items()}
    if not _is_integer(flags["difficult"]):
        findings.error(f"{place}: difficult is {flags['difficult']!r}; expected 0 or 1")
    return flags


def _is_integer(text: str) -> bool:
    return re.fullmatch(r"[-+]?\d{1,15}", text) is not None
