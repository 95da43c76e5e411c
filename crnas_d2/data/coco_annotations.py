"""Checks and corrections of annotations in COCO format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from reprlib import repr as short
from typing import Any

import pycocotools.mask as mask_util

from detectron2.structures import PolygonMasks

from .boxes import IN_A_TEST, LEFT_OUT, box_kind
from .findings import Findings, Warned
from .masks import is_too_short, mask_fault
from .whole_numbers import ID_LIMIT, whole_number


@dataclass
class AnnotationCheck:
    """A check of all annotations of a file.

    Attributes:
        findings: the findings.
        sizes: (width, height) of each image by its id. None if it has no valid size.
        categories: ids of the categories.
        masked, scored: as in :class:`.coco_check.CocoCheck`.
        corrected: whether an annotation was changed.
        trained: number of annotations that Detectron2 trains on.
        run_lengths: annotations with a run-length mask that are not crowds.
        objects, crowds: for each category, the number of annotations, and of those with iscrowd 1.
    """

    findings: Findings
    sizes: Mapping[int | str, tuple[int, int] | None]
    categories: Collection[int | str]
    masked: bool
    scored: bool
    corrected: bool = False
    trained: int = 0
    run_lengths: Warned = field(default_factory=Warned)
    objects: Counter[int | str] = field(default_factory=Counter)
    crowds: Counter[int | str] = field(default_factory=Counter)

    def run(self, annotations: list[dict]) -> list[dict]:
        """Run the check, and return the annotations without those of unknown images."""
        counted_anew = self._check_ids(annotations)
        kept = [annotation for annotation in annotations if self._has_image(annotation)]
        if not kept:
            self.findings.error(
                f"none of the {len(annotations)} annotations has the id of an image as its image_id"
            )
        for annotation in kept:
            self._check(annotation)
        crowds = self.crowds.total()
        if kept and crowds == len(kept):
            self.findings.error(
                f"all {len(kept)} annotations have iscrowd 1: Detectron2 trains on none of them, and a "
                "test has no AP; expected iscrowd 0 for each that is one object"
            )
        if counted_anew:
            for number, annotation in enumerate(kept, start=1):
                annotation["id"] = number
        return kept

    def _correct(self, kind: str, annotation: dict) -> None:
        self._warn(kind, annotation)
        self.corrected = True

    def _warn(self, kind: str, annotation: dict) -> None:
        self.findings.warn(kind, _place(annotation))

    def _error(self, fault: str, annotation: dict) -> None:
        self.findings.error(
            f"annotation {annotation.get('id')} (of image {annotation.get('image_id')}): {fault}"
        )

    def _check_ids(self, annotations: list[dict]) -> bool:
        """Whether the annotations have to be renumbered from 1."""
        ids: list[Any] = [annotation.get("id") for annotation in annotations]
        types = set(map(type, ids))
        if not types <= {int, float, str}:
            for index, annotation_id in enumerate(ids):
                if type(annotation_id) not in (int, float, str):
                    self.findings.error(
                        f"annotation at index {index}: {short(annotations[index])}; expected an object "
                        "with an id that is a number or text"
                    )
            return False
        if len(set(ids)) < len(ids):
            seen = set()
            for annotation_id in ids:
                if annotation_id in seen:
                    self.findings.error(
                        f"annotation {annotation_id}: another annotation has the same id"
                    )
                seen.add(annotation_id)
        if types == {int} and 0 < min(ids) <= max(ids) < ID_LIMIT:
            return False
        kind = (
            "annotation with id 0, which pycocotools would take for no match, or with another id that is "
            "no whole number from 1: all are counted anew, from 1"
        )
        for annotation_id in ids:
            if type(annotation_id) is not int or not 0 < annotation_id < ID_LIMIT:
                self.findings.warn(kind, f"annotation {short(annotation_id)}")
        self.corrected = True
        return True

    def _has_image(self, annotation: dict) -> bool:
        image_id = annotation.get("image_id")
        if type(image_id) in (int, str):
            if image_id in self.sizes:
                return True
            self._correct(
                "annotation of an image that is not in the file, which Detectron2 leaves out",
                annotation,
            )
        else:
            self._error(f"image_id is {short(image_id)}; expected the id of an image", annotation)
        return False

    def _check(self, annotation: dict[str, Any]) -> None:
        size = self.sizes[annotation["image_id"]]
        crowd = self._is_crowd(annotation)
        trained = self._check_box(annotation, size)
        category_id: Any = annotation.get("category_id")
        if type(category_id) in (int, str) and category_id in self.categories:
            self.objects[category_id] += 1
            self.crowds[category_id] += crowd
        else:
            fault = f"there is no category with its category_id {short(category_id)}"
            self._error(fault, annotation)
        if annotation.get("segmentation"):
            trained = self._check_mask(annotation, size) and trained
            if not crowd and type(annotation.get("segmentation")) is dict:
                self.run_lengths.add(_place(annotation))
        elif self.masked and (self.scored or not crowd):
            self._error("it has no 'segmentation'", annotation)
        self._check_area(annotation)
        if annotation.get("ignore", 0) != 0:
            self._error("'ignore' is set, which Detectron2 does not support", annotation)
        if annotation.get("keypoints"):
            self._check_keypoints(annotation)
        self.trained += trained and not crowd

    def _is_crowd(self, annotation: dict) -> bool:
        crowd = annotation.get("iscrowd")
        if crowd == 0 or crowd == 1:
            return bool(crowd)
        if crowd is None:
            annotation["iscrowd"] = 0
            self._correct("annotation without iscrowd, read as one with 0", annotation)
        elif whole_number(crowd) is not None:
            annotation["iscrowd"] = int(whole_number(crowd) != 0)
            kind = (
                "iscrowd that is text, or neither 0 nor 1, read as the number that it is, and as 1"
            )
            self._correct(kind, annotation)
        else:
            self._error(f"iscrowd is {short(crowd)}; expected 0 or 1", annotation)
        return annotation.get("iscrowd") == 1

    def _check_box(self, annotation: dict, size: tuple[int, int] | None) -> bool:
        """Check a box, and return whether Detectron2 trains on it."""
        box: Any = annotation.get("bbox")
        try:
            x, y, width, height = box
            # Comparisons are false for NaN. This fast path covers most boxes.
            if size and x >= 0 and y >= 0 and width > 0 and height > 0:
                if x + width <= size[0] and y + height <= size[1]:
                    return True
        except (TypeError, ValueError):
            pass
        if type(box) is not list or len(box) != 4 or not all(map(_is_number, box)):
            fault = f"bbox is {short(box)}; expected 4 finite numbers [x, y, width, height]"
            self._error(fault, annotation)
            return False
        x, y, width, height = box
        kind = box_kind(x, y, width, height, size) if size else None
        if kind:
            self._warn(kind + IN_A_TEST[kind], annotation)
        return kind not in LEFT_OUT

    def _check_mask(self, annotation: dict, size: tuple[int, int] | None) -> bool:
        """Check a mask, and return whether Detectron2 trains on its object."""
        segmentation = annotation["segmentation"]
        fault = mask_fault(segmentation, size)
        if fault and type(segmentation) is list:
            drawn = [polygon for polygon in segmentation if not is_too_short(polygon)]
            if not drawn:
                self._refuse_short_mask(annotation)
                return False
            if len(drawn) < len(segmentation):
                fault = mask_fault(drawn, size)
                kind = "polygon of fewer than 3 points beside others, which is left out of the mask"
                if self.masked:
                    annotation["segmentation"] = drawn
                    self._correct(kind, annotation)
                else:
                    self._warn(kind, annotation)
        if fault and self.masked:
            self._error(fault, annotation)
        elif fault:
            del annotation["segmentation"]
            kind = "mask that cannot be drawn, which is left out, as MODEL.MASK_ON is False"
            self._correct(kind, annotation)
        return True

    def _refuse_short_mask(self, annotation: dict) -> None:
        what = "mask of polygons of fewer than 3 points alone"
        if self.masked and self.scored:
            polygons = short(annotation["segmentation"])
            self._error(f"segmentation is {polygons}, a {what}, which has no mask AP", annotation)
        else:
            self._warn(f"{what}, whose object Detectron2 leaves out of the training", annotation)

    def _check_area(self, annotation: dict) -> None:
        area: Any = annotation.get("area")
        if not (_is_number(area) and area >= 0):
            annotation["area"] = _measured_area(annotation)
            kind = "annotation without an area of 0 or more, which is that of its mask, or else of its box"
            self._correct(kind, annotation)

    def _check_keypoints(self, annotation: dict) -> None:
        keypoints = annotation["keypoints"]
        if type(keypoints) is not list or len(keypoints) % 3 or not all(map(_is_number, keypoints)):
            fault = (
                f"keypoints is {short(keypoints)}; expected finite numbers [x, y, visibility, ...]"
            )
            self._error(fault, annotation)


def _place(annotation: dict) -> str:
    return f"annotation {annotation.get('id')} of image {annotation['image_id']}"


def _measured_area(annotation: dict) -> float:
    """Measure an area as Detectron2 does when it writes COCO format. 0 if it cannot be measured."""
    segmentation: Any = annotation.get("segmentation")
    box: Any = annotation.get("bbox")
    try:
        if type(segmentation) is list and segmentation:
            return PolygonMasks([segmentation]).area()[0].item()
        if segmentation:
            if type(segmentation["counts"]) is list:
                segmentation = mask_util.frPyObjects(segmentation, *segmentation["size"])
            return mask_util.area(segmentation).item()
        return abs(box[2] * box[3])
    except (TypeError, ValueError, KeyError, IndexError):
        return 0.0  # the mask or box is reported as an error


def _is_number(value: Any) -> bool:
    # Also false for NaN
    return type(value) in (int, float) and abs(value) < 1e12
