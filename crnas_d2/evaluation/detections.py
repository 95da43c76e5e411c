"""The detections in a number of images, stored compactly."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np


def id_array(ids: Iterable[int | str]) -> np.ndarray:
    """Convert ids of images to an array of int64, or of strings, which sort as in Python."""
    ids = list(ids)
    return np.array(ids, str if ids and isinstance(ids[0], str) else np.int64)


@dataclass(frozen=True, eq=False)
class Detections:
    """D detections, exactly as :class:`detectron2.evaluation.COCOEvaluator` represents them.

    Each takes a few dozen bytes, whereas a dict of Python numbers takes half a kilobyte.

    Attributes:
        image_ids: int64 or strings of shape (D,).
        categories: int64 or int32 of shape (D,), contiguous from 0.
        boxes: float64 or float32 of shape (D, 4): x, y, width, height in pixels of the original
            image.
        scores: float64 or float32 of shape (D,).
        masks: height and width in pixels (int) and COCO's run lengths (str), with shape (D, 3), or
            (0, 3) if the detector has no masks.

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
        """Convert Detectron2's results.

        Args:
            results: results of
                :func:`detectron2.evaluation.coco_evaluation.instances_to_coco_json`. Keypoints are
                dropped.

        Raises:
            ValueError: some results have a mask, and others do not.
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
        """Convert to 32 bits, like Detectron2's numbers, in little more than half the memory."""
        return replace(
            self,
            categories=self.categories.astype(np.int32),
            boxes=self.boxes.astype(np.float32),
            scores=self.scores.astype(np.float32),
        )

    def to_json(self) -> list[dict[str, Any]]:
        """Convert back to the results that :meth:`from_json` was given."""
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
        """Concatenate parts in order, keeping their types. Empty if there are no parts.

        Raises:
            ValueError: some parts have masks, and others do not.
        """
        parts = list(parts)
        if not parts:
            return cls.from_json([])
        return cls(
            *(np.concatenate(columns) for columns in zip(*(vars(p).values() for p in parts)))
        )

    def is_finite(self) -> bool:
        """Whether all boxes and scores are finite."""
        return bool(np.isfinite(self.boxes).all() and np.isfinite(self.scores).all())

    def __len__(self) -> int:
        return len(self.scores)
