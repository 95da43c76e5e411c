"""The objects of a dataset as arrays, as a detector is trained on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from detectron2.data.transforms import ResizeShortestEdge
from detectron2.structures import BoxMode

# In pixels. Detectron2 drops a box that is not wider and higher in the detector's input.
SMALLEST_SIDE = 1e-5
# COCO's limits of small, medium and large objects, on the area in pixels
SMALL, LARGE = 32**2, 96**2
AREAS = ("small", "medium", "large")


@dataclass(frozen=True)
class Objects:
    """The objects of a dataset.

    Attributes:
        boxes: x0, y0, x1, y1 in pixels, clipped to the image and not empty, with shape (n, 4).
            Crowds are excluded.
        classes: class indices of shape (n,).
        images: index of the image of each object, with shape (n,).
        sizes: height and width of each image in pixels, with shape (m, 2).
        crowd: number of crowd annotations, which no detector is trained on.
        empty: number of objects entirely outside of their image, which are dropped.
    """

    boxes: np.ndarray
    classes: np.ndarray
    images: np.ndarray
    sizes: np.ndarray
    crowd: int
    empty: int

    @classmethod
    def of(cls, dataset: Sequence[Mapping[str, Any]]) -> Objects:
        """Get the objects of a dataset.

        Args:
            dataset: a dataset in Detectron2's format.

        Raises:
            ValueError: an image does not state its size.
        """
        unsized = next((i for i in dataset if not ("height" in i and "width" in i)), None)
        if unsized is not None:
            raise ValueError(f"{unsized['file_name']}: expected a height and a width")
        sizes = np.array([(i["height"], i["width"]) for i in dataset], float).reshape(-1, 2)
        all_of_them = [(i, o) for i, d in enumerate(dataset) for o in d.get("annotations", ())]
        pairs = [(i, o) for i, o in all_of_them if not o.get("iscrowd", 0)]
        images = np.array([i for i, _ in pairs], int)
        classes = np.array([o["category_id"] for _, o in pairs], int)
        boxes = _corners([o for _, o in pairs])
        limits = np.tile(sizes[images][:, ::-1], 2)
        boxes = np.minimum(boxes.clip(min=0), limits)
        # The comparison is false for NaN.
        kept = (boxes[:, 2:] - boxes[:, :2] > SMALLEST_SIDE).all(axis=1)
        return cls(
            boxes[kept],
            classes[kept],
            images[kept],
            sizes,
            crowd=len(all_of_them) - len(pairs),
            empty=int((~kept).sum()),
        )

    def resized(self, shortest: int, longest: int) -> Objects:
        """Resize the objects as Detectron2's test does for the input of a detector.

        Args:
            shortest: ``INPUT.MIN_SIZE_TEST``. With 0 the images keep their size.
            longest: ``INPUT.MAX_SIZE_TEST``.
        """
        if shortest == 0:
            return self
        different, places = np.unique(self.sizes, axis=0, return_inverse=True)
        outputs = np.array(
            [ResizeShortestEdge.get_output_shape(*size, shortest, longest) for size in different],
            float,
        ).reshape(-1, 2)
        sizes = outputs[places.reshape(-1)]
        scales = np.tile((sizes / self.sizes)[self.images][:, ::-1], 2)
        return replace(self, boxes=self.boxes * scales, sizes=sizes)

    def select(self, chosen: np.ndarray) -> Objects:
        """Select some of the objects, on the same images."""
        return replace(
            self, boxes=self.boxes[chosen], classes=self.classes[chosen], images=self.images[chosen]
        )

    @property
    def sides(self) -> np.ndarray:
        """The height and width of the boxes in pixels, with shape (n, 2)."""
        return (self.boxes[:, 2:] - self.boxes[:, :2])[:, ::-1]

    @property
    def lengths(self) -> np.ndarray:
        """The square root of the area of the boxes in pixels, with shape (n,)."""
        return np.sqrt(self.sides.prod(axis=1))

    @property
    def ratios(self) -> np.ndarray:
        """The height of the boxes over their width, as in Detectron2's anchors, with shape (n,)."""
        return self.sides[:, 0] / self.sides[:, 1]

    @property
    def per_image(self) -> np.ndarray:
        """The number of objects in each image, with shape (m,)."""
        return np.bincount(self.images, minlength=len(self.sizes))

    def per_class(self, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
        """Count images with objects of each class, and objects, each of shape (num_classes,)."""
        seen = np.unique(np.stack([self.images, self.classes]), axis=1)
        return (
            np.bincount(seen[1], minlength=num_classes),
            np.bincount(self.classes, minlength=num_classes),
        )

    def per_area(self) -> dict[str, int]:
        """Count the objects in COCO's size classes by the area of the box."""
        areas = self.lengths**2
        counts = [areas < SMALL, (areas >= SMALL) & (areas < LARGE), areas >= LARGE]
        return {name: int(count.sum()) for name, count in zip(AREAS, counts)}


def _corners(annotations: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Get the corners x0, y0, x1, y1, with shape (n, 4)."""
    corners = np.zeros((len(annotations), 4))
    modes = np.array([int(o["bbox_mode"]) for o in annotations], int)
    for mode in np.unique(modes):
        chosen = np.flatnonzero(modes == mode)
        boxes = np.array([annotations[int(i)]["bbox"] for i in chosen], np.float64)
        corners[chosen] = BoxMode.convert(boxes, BoxMode(mode), BoxMode.XYXY_ABS)
    # A negative width extends to the left, as in Detectron2's mapper.
    return np.sort(corners.reshape(-1, 2, 2), axis=1).reshape(-1, 4)
