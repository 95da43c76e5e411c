"""The matching of detections to objects by COCO's rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as mask_util
from pycocotools.coco import COCO
from pycocotools.cocoeval import Params

from .detections import Detections

AREAS = dict(zip(Params("bbox").areaRngLbl, Params("bbox").areaRng))
IOU_THRESHOLDS, MAX_DETECTIONS = Params("bbox").iouThrs, Params("bbox").maxDets[-1]
BITS = 1 << np.arange(len(IOU_THRESHOLDS), dtype=np.uint16)
ALL_BITS = np.bitwise_or.reduce(BITS)
# A detection. Bit t of ``true`` is set if it matches an object at IoU threshold t, and bit t of
# ``ignored`` if it counts as neither a true nor a false positive.
MATCH = np.dtype(
    [("score", "f8"), ("image", "i4"), ("category", "i4"), ("true", "u2"), ("ignored", "u2")]
)


class ImageObjects:
    """The G annotated objects of one image, in the order of the ground truth.

    Args:
        ground_truth: annotations of the dataset.
        image_id: id of the image.
        contiguous_ids: map from category ids in the ground truth to those of detections.
        iou_type: "bbox" or "segm".
        area: lower and upper limit of the area of objects that count, in pixels.

    Attributes:
        categories: categories as in detections, with shape (G,).
        crowd: bool of shape (G,).
        ignored: bool of shape (G,), true for a crowd or an object outside of the area. A detection
            that only matches one of these counts as neither a true nor a false positive.
        scored: bool of shape (G,), true if not ignored. An object with id 0 is not scored either,
            because pycocotools takes 0 for "no match".
        regions: boxes of shape (G, 4), or G run-length encoded masks.
    """

    def __init__(
        self,
        ground_truth: COCO,
        image_id: int,
        contiguous_ids: Mapping[int, int],
        iou_type: str,
        area: Sequence[float] = AREAS["all"],
    ):
        annotations = [
            annotation
            for annotation in ground_truth.imgToAnns.get(image_id, [])
            if annotation["category_id"] in contiguous_ids
        ]
        self.categories = np.array([contiguous_ids[a["category_id"]] for a in annotations], int)
        self.crowd = np.array([bool(a["iscrowd"]) for a in annotations], bool)
        areas = np.array([a["area"] for a in annotations], float)
        self.ignored = self.crowd | (areas < area[0]) | (areas > area[1])
        self.scored = ~self.ignored & np.array([a["id"] != 0 for a in annotations], bool)
        self.regions: np.ndarray | list[dict[str, Any]]
        if iou_type == "segm":
            self.regions = [ground_truth.annToRLE(annotation) for annotation in annotations]
        else:
            self.regions = np.array([a["bbox"] for a in annotations], float).reshape(-1, 4)

    def iou(self, detections: Detections, indices: np.ndarray) -> np.ndarray:
        """Compute IoUs of shape (len(indices), G) with pycocotools.

        For a crowd it is the share of the detection that lies inside.
        """
        if isinstance(self.regions, np.ndarray):
            found = detections.boxes[indices]
        else:
            found = _run_lengths(detections.masks[indices])
        return mask_util.iou(found, self.regions, self.crowd.astype(int).tolist())


def find_outside(detections: Detections, iou_type: str, area: Sequence[float]) -> np.ndarray:
    """Tell which detections are outside of [area[0], area[1]] pixels, as bool of shape (D,)."""
    if list(area) == AREAS["all"]:
        return np.zeros(len(detections), bool)
    if iou_type == "segm":
        found = np.array([mask_util.area(mask) for mask in _run_lengths(detections.masks)])
    else:
        found = detections.boxes[:, 2:].astype(float).prod(1)
    return (found < area[0]) | (found > area[1])


def _run_lengths(masks: np.ndarray) -> list[dict[str, Any]]:
    """Convert masks to the format of pycocotools."""
    return [{"size": [height, width], "counts": counts} for height, width, counts in masks.tolist()]


def match(
    detections: Detections,
    images: np.ndarray,
    objects: Sequence[ImageObjects],
    outside: np.ndarray,
) -> np.ndarray:
    """Match each detection to an object, best score first.

    The result equals exactly that of COCOeval in pycocotools, which loops over detections, objects
    and thresholds in Python. Here all images, categories and thresholds are processed in parallel.

    Args:
        detections: D detections.
        images: int of shape (D,), the index of each detection's image in ``objects``.
        objects: objects of each image.
        outside: bool of shape (D,), true for detections outside of the area of objects that count,
            which are not false positives if they match nothing.

    Returns:
        Matches of dtype :data:`MATCH`, sorted by image, category and score. Only the best 100 of
        each image and category are included.
    """
    order = np.lexsort((-detections.scores, detections.categories, images))
    images, categories = images[order], detections.categories[order]
    first = _changes(images, categories)
    best = np.arange(len(order)) - np.repeat(first, np.diff(first, append=len(order)))
    kept = best < MAX_DETECTIONS
    order, images, categories = order[kept], images[kept], categories[kept]
    matches = np.zeros(len(order), MATCH)
    matches["score"] = detections.scores[order]
    matches["image"] = images
    matches["category"] = categories

    # Pairs of a detection and an object of its image and category with enough overlap
    pairs, flags, num_objects = [], [], 0
    starts = _changes(images)
    for start, end in zip(starts, [*starts[1:], len(order)]):
        of_image = objects[images[start]]
        if len(of_image.crowd) == 0:
            continue
        iou = of_image.iou(detections, order[start:end])
        same_category = categories[start:end, None] == of_image.categories
        d, g = np.nonzero((iou >= IOU_THRESHOLDS[0]) & same_category)
        pairs.append((start + d, num_objects + g, iou[d, g]))
        flags.append((of_image.crowd, of_image.ignored, of_image.scored))
        num_objects += len(of_image.crowd)
    if pairs:
        columns = [np.concatenate(column) for column in (*zip(*pairs), *zip(*flags))]
        _match_pairs(matches, *columns)
    matches["ignored"] |= np.where(outside[order], ALL_BITS & ~matches["true"], 0).astype(np.uint16)
    return matches


def _match_pairs(
    matches: np.ndarray,
    d: np.ndarray,
    g: np.ndarray,
    iou: np.ndarray,
    crowd: np.ndarray,
    ignored: np.ndarray,
    scored: np.ndarray,
) -> None:
    """Run COCO's greedy matching.

    Each detection takes the remaining object that it overlaps most, the last of equal ones. It
    takes an ignored object only if nothing else remains. A crowd is never used up.

    Args:
        matches: matches of shape (D,), sorted by image, category and score, whose ``true`` and
            ``ignored`` are set.
        d, g, iou: pairs of detection and object, with shape (P,).
        crowd, ignored, scored: bool of shape (G,), as in :class:`ImageObjects`.
    """
    order = np.lexsort((-g, -iou, ignored[g], d))
    d, g, iou = d[order], g[order], iou[order]
    # Images and categories are independent of each other: step k takes the k-th pair of each of
    # them.
    first = _changes(matches["image"][d], matches["category"][d])
    step = np.arange(len(d)) - np.repeat(first, np.diff(first, append=len(d)))
    steps = np.split(np.argsort(step, kind="stable"), np.cumsum(np.bincount(step))[:-1])

    reached = ((iou[:, None] >= IOU_THRESHOLDS) * BITS).sum(1, dtype=np.uint16)
    matched = np.zeros(len(matches), np.uint16)
    taken = np.zeros(len(crowd), np.uint16)
    for pair in steps:
        of_d, of_g = d[pair], g[pair]
        new = reached[pair] & ~matched[of_d] & ~taken[of_g]
        matched[of_d] |= new
        taken[of_g] |= new * ~crowd[of_g]
        matches["true"][of_d] |= new * scored[of_g]
        matches["ignored"][of_d] |= new * ignored[of_g]


def _changes(*columns: np.ndarray) -> np.ndarray:
    """Get the indices at which runs of equal rows start."""
    changed = np.ones(len(columns[0]), bool)
    changed[1:] = np.any([column[1:] != column[:-1] for column in columns], 0)
    return np.flatnonzero(changed)
