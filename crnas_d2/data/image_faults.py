"""Compares image files with what their datasets state about them."""

from __future__ import annotations

import os
import shlex

from .findings import Findings
from .image_facts import ImageFacts
from .image_header import STORE_TURNED, Fault
from .listing import Listed

Seen = ImageFacts | Fault | None  # None if there is no file

TURNED = (
    "image that its EXIF data turn or mirror, as Detectron2 does, while its size does not tell "
    "whether the boxes are of the turned image"
)
TIFF_AS_STORED = (
    "TIFF with an orientation, which Pillow applies and Detectron2 applies once more, so that it is "
    "read as it is stored, and its boxes have to be of that"
)

BACKSLASHES = "Its name has backslashes, as on Windows; here / stands between folders"
WITHOUT_ORIENTATION = (
    "If its boxes too are of the image before: exiftool -overwrite_original -Orientation= PATH (that "
    "of the file's EXIF data goes, no pixel changes); if they are of the turned image, exchange "
    "width and height in the dataset"
)


class ImageFaults:
    """Adds the faults of images to findings.

    A remedy is only included in the first error of its kind.
    """

    def __init__(self, findings: Findings):
        self._findings = findings
        self._told: set[str] = set()

    def add(self, image: Listed, seen: Seen) -> None:
        if seen is None:
            remedy = BACKSLASHES if os.sep == "/" and "\\" in image.path else ""
            self._error(image, f"there is no file {image.path}", remedy)
        elif isinstance(seen, Fault):
            self._error(image, f"{image.path} {seen.what}", seen.remedy)
        elif image.size is None:
            return
        elif tuple(image.size) != seen.size:
            what, remedy = _fault_of_size(image.size, seen)
            self._error(image, f"{image.path} {what}", remedy)
        elif seen.orientation > 1:
            self._warn(image, seen)

    def _error(self, image: Listed, sentence: str, remedy: str = "") -> None:
        place = "" if image.image_id is None else f"image {image.image_id}: "
        if remedy and remedy not in self._told:
            self._told.add(remedy)
            sentence += f". {remedy.replace('PATH', shlex.quote(image.path))}"
        self._findings.error(place + sentence)

    def _warn(self, image: Listed, seen: ImageFacts) -> None:
        if seen.format == "TIFF":
            self._findings.warn(TIFF_AS_STORED, image.path)
        elif seen.orientation < 5 or seen.width == seen.height:
            self._findings.warn(TURNED, image.path)


def _fault_of_size(said: tuple[int, int], seen: ImageFacts) -> Fault:
    what = f"has {_pixels(seen.size)} pixels, and the dataset says {_pixels(said)}"
    if tuple(said) != seen.size[::-1]:
        return Fault(what)
    if seen.orientation < 5:
        return Fault(f"{what}: width and height are the other way round")
    number = seen.orientation
    if seen.format == "TIFF":
        what += (
            f": it is a TIFF of orientation {number}, which Pillow turns, and Detectron2 once more"
        )
        return Fault(what, STORE_TURNED)
    what += (
        f": Detectron2 turns it by its EXIF data (orientation {number}), and the dataset has the size "
        "before that"
    )
    return Fault(what, WITHOUT_ORIENTATION)


def _pixels(size: tuple[int, int]) -> str:
    return " x ".join(map(str, size))
