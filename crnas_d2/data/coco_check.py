"""Checks and corrections of the content of a json file in COCO format."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from reprlib import repr as short
from typing import Any

from PIL import Image

from .coco_annotations import AnnotationCheck
from .findings import Findings, Warned
from .whole_numbers import are_of_one_type, is_id, whole_number

SECTIONS = {"images": "image", "annotations": "annotation", "categories": "category"}

UNLABELED = "it has no annotations: detections on its images have no AP"


@dataclass
class CocoCheck:
    """One pass over the content of a json file.

    Unambiguous content in a form that Detectron2 or pycocotools would misread is corrected in
    place.

    Attributes:
        coco: the content.
        findings: the findings.
        masked: whether masks are trained or tested.
        scored: whether masks are tested.
        left_out: ids or names of categories that are not classes.
        outside_root: whether file names may lead out of the image root.
        corrected: whether the content differs from that of the file.
        categories: names by id, in the order of the ids.
        annotations: number of annotations.
        trained: number of annotations that Detectron2 trains on.
        run_lengths: annotations with a run-length mask that are not crowds.
        left_out_here: those of ``left_out`` that are categories of this file.
    """

    coco: Any
    findings: Findings
    masked: bool = False
    scored: bool = False
    left_out: Sequence[int | str] = ()
    outside_root: bool = False
    corrected: bool = False
    categories: dict[int | str, str] = field(default_factory=dict)
    annotations: int = 0
    trained: int = 0
    run_lengths: Warned = field(default_factory=Warned)
    left_out_here: list[int | str] = field(default_factory=list)

    def run(self) -> None:
        if not self._has_sections():
            return
        self._settle_ids("categories", "category_id")
        self._settle_ids("images", "image_id")
        self._check_categories()
        sizes = self._check_images()
        if self.coco["annotations"]:
            self._check_annotations(sizes)
        else:
            del self.coco["annotations"]
            self.findings.warn(UNLABELED, f"{len(sizes):,} images")
            self._leave_out(self.categories)
        self._warn_of_names()

    def _correct(self, kind: str, place: str) -> None:
        self.findings.warn(kind, place)
        self.corrected = True

    def _has_sections(self) -> bool:
        error = self.findings.error
        if not isinstance(self.coco, dict):
            error(f"the top level is {short(self.coco)}; expected an object with images, ...")
            return False
        if self.coco.get("annotations", []) == []:
            self.corrected = "annotations" in self.coco
            self.coco["annotations"] = []
        for key in SECTIONS:
            entries = self.coco.get(key)
            if not isinstance(entries, list) or not (entries or key == "annotations"):
                error(f"{key!r} is {short(entries)}; expected a list that is not empty")
        if self.findings.errors:
            return False
        for key, kind in SECTIONS.items():
            entries = self.coco[key]
            if not set(map(type, entries)) <= {dict}:
                for index, entry in enumerate(entries):
                    if type(entry) is not dict:
                        error(f"{kind} at index {index}: {short(entry)}; expected an object")
                self.coco[key] = [entry for entry in entries if type(entry) is dict]
        return True

    def _settle_ids(self, section: str, reference: str) -> None:
        """Convert ids that are strings or floats of integers to integers, unless all are strings."""
        columns = [
            (self.coco[section], "id", SECTIONS[section]),
            (self.coco["annotations"], reference, "annotation"),
        ]
        if are_of_one_type(*([e.get(key) for e in entries] for entries, key, _ in columns)):
            return
        kind = f"{reference} that is text or has a point, read as the whole number that it means"
        for entries, key, owner in columns:
            for entry in entries:
                number = whole_number(entry.get(key))
                if number is not None and type(entry[key]) is not int:
                    entry[key] = number
                    self._correct(kind, f"{owner} {entry.get('id')}")
        if len({type(entry.get("id")) for entry in self.coco[section]} & {int, str}) > 1:
            self.findings.error(
                f"the ids of {section} are numbers and texts, which pycocotools cannot sort; expected "
                "all of one kind"
            )

    def _with_id(self, section: str) -> dict[int | str, dict]:
        """Get the entries with a valid and unique id."""
        kind, found = SECTIONS[section], {}
        for index, entry in enumerate(self.coco[section]):
            entry_id = entry.get("id")
            if not is_id(entry_id):
                self.findings.error(
                    f"{kind} at index {index}: {short(entry)}; expected an object with an id that is "
                    "an integer of 64 bits, or text"
                )
            elif entry_id in found:
                self.findings.error(f"{kind} {entry_id}: another {kind} has the same id")
            else:
                found[entry_id] = entry
        return found

    def _check_categories(self) -> None:
        for category_id, category in self._with_id("categories").items():
            if type(category.get("name")) is int:
                category["name"] = str(category["name"])
                self._correct(
                    "name of a category that is a number, read as text", f"category {category_id}"
                )
            name = category.get("name")
            self.categories[category_id] = str(name)
            if type(name) is not str:
                self.findings.error(f"category {category_id}: name is {short(name)}; expected text")
            elif not name.strip():
                self.findings.warn("category with an empty name", f"category {category_id}")
        if not self.findings.errors:
            self.categories = dict(sorted(self.categories.items()))

    def _check_images(self) -> dict[int | str, tuple[int, int] | None]:
        """Check the images, and return (width, height) by id, or None for an invalid size."""
        owners: dict[str, int | str] = {}
        sizes: dict[int | str, tuple[int, int] | None] = {}
        for image_id, image in self._with_id("images").items():
            sizes[image_id] = self._size(image_id, image)
            name = image.get("file_name")
            if type(name) is not str or not name or "\0" in name:
                self.findings.error(f"image {image_id}: file_name is {short(name)}; expected text")
                continue
            if leaves_root(name):
                if not self.outside_root:
                    self.findings.error(
                        f"image {image_id}: file_name {name!r} leads out of the image root, which "
                        "DATASETS.IMAGES_OUTSIDE_ROOT True would allow"
                    )
                    continue
                kind = "file name that leads out of the image root, which is allowed"
                self.findings.warn(kind, f"image {image_id}")
            path = os.path.normpath(name)
            if owners.setdefault(path, image_id) != image_id:
                kind = "image that is there under two ids, which is trained and tested twice"
                self.findings.warn(kind, f"image {image_id} {name!r}, as {owners[path]}")
        return sizes

    def _size(self, image_id: int | str, image: dict) -> tuple[int, int] | None:
        sides: Any = image.get("width"), image.get("height")
        if not (type(sides[0]) is type(sides[1]) is int):
            numbers = tuple(map(whole_number, sides))
            if None not in numbers:
                sides = image["width"], image["height"] = numbers
                kind = "width or height that is text or has a point, read as the number that it is"
                self._correct(kind, f"image {image_id}")
        if not all(type(side) is int and side > 0 for side in sides):
            self.findings.error(
                f"image {image_id}: width, height are {short(sides)}; expected integers above 0"
            )
        elif fault := size_fault(*sides):
            self.findings.error(f"image {image_id}: {fault}")
        else:
            return sides
        return None

    def _check_annotations(self, sizes: dict[int | str, tuple[int, int] | None]) -> None:
        check = AnnotationCheck(self.findings, sizes, self.categories, self.masked, self.scored)
        entries = check.run(self.coco["annotations"])
        self.corrected |= check.corrected
        self.trained = check.trained
        self.annotations = len(entries)
        self.run_lengths = check.run_lengths
        self.coco["annotations"] = entries
        self._leave_out(
            [category_id for category_id in self.categories if not check.objects[category_id]]
        )
        for category_id, name in self.categories.items():
            if check.objects[category_id] == 0:
                kind = (
                    "category without any box; if it is no class, but a group of the exporter, name it "
                    "in DATASETS.LEFT_OUT_CATEGORIES"
                )
                self.findings.warn(kind, f"category {category_id} {name!r}")
            elif 0 < check.objects[category_id] == check.crowds[category_id]:
                kind = (
                    "category whose objects all have iscrowd 1: Detectron2 does not train it, and it "
                    "has no AP"
                )
                self.findings.warn(kind, f"category {category_id} {name!r}")

    def _warn_of_names(self) -> None:
        owners: dict[str, int | str] = {}
        for category_id, name in self.categories.items():
            if name.strip() and owners.setdefault(name, category_id) != category_id:
                kind = "category with the name of another one, which stays a class of its own"
                self.findings.warn(kind, f"category {category_id} {name!r}, as {owners[name]}")

    def _leave_out(self, empty: Collection[int | str]) -> None:
        """Leave out categories that are not classes.

        Args:
            empty: ids of the categories without annotations.
        """
        if self.findings.errors:
            return
        for entry in self.left_out:
            ids = [
                category_id
                for category_id, name in self.categories.items()
                if entry in (category_id, name)
            ]
            what = f"DATASETS.LEFT_OUT_CATEGORIES has {entry!r}"
            if len(ids) > 1:
                self.findings.error(f"{what}, the name of {len(ids)} categories; expected an id")
            elif ids and ids[0] not in empty:
                self.findings.error(
                    f"{what}, a category with annotations; expected one without any"
                )
            elif ids:
                kind = "category that DATASETS.LEFT_OUT_CATEGORIES leaves out of the classes"
                self._correct(kind, f"category {ids[0]} {self.categories.pop(ids[0])!r}")
                self.left_out_here.append(entry)
        if self.left_out_here:
            kept = [c for c in self.coco["categories"] if c.get("id") in self.categories]
            if not kept:
                self.findings.error("DATASETS.LEFT_OUT_CATEGORIES leaves no category")
            self.coco["categories"] = kept


def leaves_root(file_name: str) -> bool:
    """Whether a name, joined to a folder, may lead out of it.

    Symbolic links are not followed, as it is the owner's own choice to link images into a folder.
    """
    if ".." not in file_name and file_name[0] not in "/\\":
        return False
    parts = re.split(r"[/\\]", file_name)
    return os.path.isabs(file_name) or not parts[0] or ".." in parts


def size_fault(width: int, height: int) -> str | None:
    """Describe what is wrong with the size of an image.

    Args:
        width, height: positive size of the image.

    Returns:
        The fault. None if there is none.
    """
    limit = Image.MAX_IMAGE_PIXELS and 2 * Image.MAX_IMAGE_PIXELS
    if limit and width * height > limit:
        return (
            f"width, height are {short(width)}, {short(height)}; expected at most {limit} pixels, as "
            "Pillow opens no larger image"
        )
    return None
