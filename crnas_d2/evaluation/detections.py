"""What a detector found in a number of images, in little memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np


def id_array(ids: Iterable[int | str]) -> np.ndarray:
    """Ids of images as an array: int64, or texts, whose order is that of Python too."""
    ids = list(ids)
    return np.array(ids, str if ids and isinstance(ids[0], str) else np.int64)


@dataclass(frozen=True, eq=False)
class Detections:
    """D detections, as :class:`detectron2.evaluation.COCOEvaluator` describes them, digit for digit.

    A few dozen bytes each, where a dict of Python numbers takes half a kilobyte.

    Attributes:
        image_ids: (D,) int64, or texts.
        categories: (D,) int64 or int32, contiguous from 0.
        boxes: (D, 4) float64 or float32, x, y, width, height in pixels of the original image.
        scores: (D,) float64 or float32.
        masks: (D, 3) of height, width in pixels (int) and COCO's run lengths (str); (0, 3) where
            the detector has no masks.

    Raises:
        ValueError: the arrays do not have these shapes.
    """

    image_ids: np.ndarray
    categories: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    masks: np.ndarray

    def __post_init__(self) -> None:
        shapes = {name: array.shape for name, array in vars(self).items()}
        d = len(self.scores)
        expected = dict(zip(shapes, [(d,), (d,), (d, 4), (d,), (d, 3)]))
        if shapes != expected and shapes != expected | {"masks": (0, 3)}:
            raise ValueError(f"arrays of detections have the shapes {shapes}; expected {expected}")

    @classmethod
    def from_json(cls, results: Sequence[dict[str, Any]]) -> Detections:
        """
        Args:
            results: of :func:`detectron2.evaluation.coco_evaluation.instances_to_coco_json`.
                Keypoints are left out.

        Raises:
            ValueError: some results have a mask, and others none.
        """
        masks = [r["segmentation"] for r in results if "segmentation" in r]
        return cls(
            id_array(r["image_id"] for r in results),
            np.array([r["category_id"] for r in results], np.int64),
            np.array([r["bbox"] for r in results], np.float64).reshape(-1, 4),
            np.array([r["score"] for r in results], np.float64),
            np.array([[*mask["size"], mask["counts"]] for mask in masks], object).reshape(-1, 3),
        )

    def compact(self) -> Detections:
        """These, in little more than half the memory: Detectron2's numbers are all of 32 bits."""
        return replace(
            self,
            categories=self.categories.astype(np.int32),
            boxes=self.boxes.astype(np.float32),
            scores=self.scores.astype(np.float32),
        )

    def to_json(self) -> list[dict[str, Any]]:
        """The results that :meth:`from_json` was given."""
        columns = (self.image_ids, self.categories, self.boxes, self.scores)
        results = [
            {"image_id": image_id, "category_id": category, "bbox": box, "score": score}
            for image_id, category, box, score in zip(*(column.tolist() for column in columns))
        ]
        for result, (height, width, counts) in zip(results, self.masks.tolist()):
            result["segmentation"] = {"size": [height, width], "counts": counts}
        return results

    @classmethod
    def concatenate(cls, parts: Iterable[Detections]) -> Detections:
        """All detections of the parts, in order and in their types. Without any part, none.

        Raises:
            ValueError: some parts have masks, and others none.
        """
        parts = list(parts)
        if not parts:
            return cls.from_json([])
        return cls(
            *(np.concatenate(columns) for columns in zip(*(vars(p).values() for p in parts)))
        )

    def is_finite(self) -> bool:
        """Whether no box and no score is Inf or NaN."""
        return bool(np.isfinite(self.boxes).all() and np.isfinite(self.scores).all())

    def __len__(self) -> int:
        return len(self.scores)
