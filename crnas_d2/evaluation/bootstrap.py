"""COCO's AP of a detector on many resamples of the images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import Params
from torch.nn.functional import embedding_bag

from .detections import Detections, id_array
from .matching import ALL_BITS, AREAS, BITS, IOU_THRESHOLDS, ImageObjects, find_outside, match

# By Detectron2's name of the metric: the IoU thresholds over which it is averaged, and the area of
# the objects that it counts
METRICS = {
    "AP": (BITS, "all"),
    "AP50": (BITS[IOU_THRESHOLDS == 0.5], "all"),
    "AP75": (BITS[IOU_THRESHOLDS == 0.75], "all"),
    "APs": (BITS, "small"),
    "APm": (BITS, "medium"),
    "APl": (BITS, "large"),
}
NUM_RECALLS = len(Params("bbox").recThrs)
MAX_ELEMENTS = 2**20  # of a temporary array


def metric_and_category(name: str, class_names: Sequence[str]) -> tuple[str, int | None]:
    """Get the arguments of :class:`ResampledImages` from a metric's name in Detectron2's results.

    Args:
        name: one of :data:`METRICS`, or the AP of a class, such as "AP-person".
        class_names: names in the order of the categories.

    Raises:
        ValueError: there is no such metric.
    """
    if name in METRICS:
        return name, None
    metric, _, of_class = name.partition("-")
    if metric != "AP" or of_class not in class_names:
        raise ValueError(
            f"metric is {name!r}; expected one of {', '.join(METRICS)}, or AP-NAME of a class"
        )
    return metric, class_names.index(of_class)


def poisson_weights(images: int, resamples: int, seed: int) -> np.ndarray:
    """Draw how often each image occurs in each resample of the Poisson bootstrap, with a mean of 1.

    The size of a resample is random too. As AP is a ratio, this hardly adds to its variance.

    Returns:
        Whole numbers as float32 of shape (images, resamples).
    """
    return np.random.default_rng(seed).poisson(1, (images, resamples)).astype(np.float32)


class ResampledImages:
    """The images of a dataset with their objects, and how often each image counts in R resamples.

    All detectors share an instance, so that their results in a resample are paired.

    Args:
        ground_truth: annotations of the dataset.
        contiguous_ids: ``thing_dataset_id_to_contiguous_id`` of Detectron2's metadata, from
            category ids in the ground truth to those of detections.
        weights: whole numbers of shape (I, R), for the images in the order of their ids. With 1
            everywhere, the result is the AP on the original images.
        iou_type: "bbox" for box AP, "segm" for mask AP.
        metric: one of :data:`METRICS`.
        category: index of the only category to score. None averages over those that have objects.

    Raises:
        ValueError: the weights, the IoU type or the metric are not as described.
    """

    def __init__(
        self,
        ground_truth: COCO,
        contiguous_ids: Mapping[int, int],
        weights: np.ndarray,
        iou_type: str = "bbox",
        metric: str = "AP",
        category: int | None = None,
    ):
        if iou_type not in ("bbox", "segm"):
            raise ValueError(f"IoU type is {iou_type!r}; expected 'bbox' or 'segm'")
        if metric not in METRICS:
            raise ValueError(f"metric is {metric!r}; expected one of {', '.join(METRICS)}")
        if len(weights) != len(ground_truth.imgs) or np.any(weights < 0) or np.any(weights % 1):
            raise ValueError(
                f"weights of shape {weights.shape}; expected a row of whole numbers from 0 for "
                f"each of {len(ground_truth.imgs)} images"
            )
        image_ids = sorted(ground_truth.imgs)
        self._image_ids = id_array(image_ids)
        self._weights = np.asarray(weights, np.float32)
        self._iou_type = iou_type
        self._bits, area = METRICS[metric]
        self._area = AREAS[area]
        self._objects = [
            ImageObjects(ground_truth, image_id, contiguous_ids, iou_type, self._area)
            for image_id in image_ids
        ]
        image = np.repeat(np.arange(len(image_ids)), [len(o.crowd) for o in self._objects])
        categories = np.concatenate([np.empty(0, int), *(o.categories for o in self._objects)])
        counts = ~np.concatenate([np.empty(0, bool), *(o.ignored for o in self._objects)])
        # For each category, the image of each of its objects that count
        self._counted = [image[counts & (categories == c)] for c in range(len(contiguous_ids))]
        self._scored = range(len(contiguous_ids)) if category is None else [category]

    def ap(self, detections: Detections) -> np.ndarray:
        """Compute the metric of one detector on each resample.

        An image of weight w counts as w consecutive copies of it. So with all weights equal to 1
        the result is that of pycocotools. The only difference from real copies is the order of
        detections with equal scores in the same image and category.

        As AP is not a mean over images, it is computed anew for each resample. Matching does not
        depend on the weights and is done once. Sums are exact up to 2^24 weighted detections and
        annotations of a category.

        Args:
            detections: detections in all of the images. An image without any counts too.

        Returns:
            The metric in percent, as float64 of shape (R,). NaN for a resample without objects.

        Raises:
            ValueError: a detection is in another image or of an unknown category, or masks are
                needed and missing.
        """
        self._check(detections)
        images = np.zeros(0, int)
        if len(detections):
            images = np.searchsorted(self._image_ids, detections.image_ids)
        outside = find_outside(detections, self._iou_type, self._area)
        matches = match(detections, images, self._objects, outside)
        matches = matches[matches["ignored"] != ALL_BITS]
        # As in pycocotools, equal scores are sorted by image id, then in the order given. They
        # already come in this order, and the sort is stable.
        matches = matches[np.lexsort((-matches["score"], matches["category"]))]
        bounds = np.searchsorted(matches["category"], np.arange(len(self._counted) + 1))
        sums = np.zeros(self._weights.shape[1])
        present = np.zeros(len(sums), int)
        for category in self._scored:
            of_category = self._counted[category]
            found = matches[bounds[category] : bounds[category + 1]]
            rows = int(np.count_nonzero(found["true"]))
            columns = max(1, MAX_ELEMENTS // max(1, rows))
            for start in range(0, len(sums), columns):
                block = slice(start, start + columns)
                weights = np.ascontiguousarray(self._weights[:, block])
                num_objects = _running_weight(weights, of_category, np.array([len(of_category)]))[0]
                sums[block] += _average_precision(found, weights, num_objects, self._bits)
                present[block] += num_objects > 0
        return np.divide(100 * sums, present, out=np.full(len(sums), np.nan), where=present > 0)

    def _check(self, detections: Detections) -> None:
        foreign = set(detections.image_ids.tolist()).difference(self._image_ids.tolist())
        if foreign:
            raise ValueError(f"detections in images {sorted(foreign)[:5]}, which are not there")
        categories = np.unique(detections.categories).tolist()
        if not set(categories) <= set(range(len(self._counted))):
            raise ValueError(
                f"detections of categories {categories}; expected 0 to {len(self._counted) - 1}"
            )
        if self._iou_type == "segm" and len(detections.masks) != len(detections):
            raise ValueError("mask AP needs masks, and the detections have none")


def _average_precision(
    matches: np.ndarray, weights: np.ndarray, num_objects: np.ndarray, bits: np.ndarray
) -> np.ndarray:
    """Compute the AP of one category, averaged over IoU thresholds and recalls 0, 0.01, ..., 1.

    Args:
        matches: matches of shape (D,), best score first.
        weights: weights of shape (I, R).
        num_objects: numbers of objects of shape (R,).
        bits: bits of the IoU thresholds.

    Returns:
        The AP from 0 to 1, with shape (R,). 0 where there are no objects.
    """
    sums = np.zeros(len(num_objects))
    found = np.flatnonzero(matches["true"])  # at all others precision falls and recall stays
    if len(found) == 0:
        return sums
    counted = _running_weight(weights, matches["image"], found + 1)
    num_objects = np.maximum(num_objects, 1)
    for bit in bits:
        true = np.flatnonzero(matches["true"] & bit)
        ignored = np.flatnonzero(matches["ignored"] & bit)
        if len(true) == 0:
            continue
        hits = _running_sum(weights[matches["image"][true]].astype(float))
        precision = counted[np.searchsorted(found, true)]
        if len(ignored):
            ends = np.searchsorted(ignored, true)
            precision -= _running_weight(weights, matches["image"][ignored], ends)
        np.divide(hits, np.maximum(precision, 1, out=precision), out=precision)
        backwards = precision[::-1]
        for before, row in zip(backwards, backwards[1:]):  # several times faster than accumulate()
            np.maximum(before, row, out=row)  # the best precision at this recall or a higher one
        hits /= num_objects
        passed = _recall_thresholds_passed(hits)
        passed[1:] -= passed[:-1].copy()
        sums += np.einsum("ur,ur->r", precision, passed)
    return sums / (len(bits) * NUM_RECALLS)


def _running_weight(weights: np.ndarray, images: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Compute the sum of weights[images[:e]] for each of the ascending ends e.

    Returns:
        Sums as float64 of shape (len(ends), R).
    """
    parts = embedding_bag(
        torch.from_numpy(images[: ends[-1]].astype(np.int64)),
        torch.from_numpy(weights),
        torch.from_numpy(np.append(0, ends)),
        mode="sum",
        include_last_offset=True,
    )
    return _running_sum(parts.numpy().astype(float))


def _running_sum(rows: np.ndarray) -> np.ndarray:
    """Compute ``np.cumsum(rows, 0)`` in place, several times faster."""
    tensor = torch.from_numpy(rows)
    return torch.cumsum(tensor, 0, out=tensor).numpy()


def _recall_thresholds_passed(recall: np.ndarray) -> np.ndarray:
    """Count COCO's recall thresholds up to ``recall``, which is a fraction of whole numbers.

    Threshold k is 0.01 k in floating point, which for some k is slightly more than k / 100.
    Fractions that differ at all differ by much more, so only the threshold next to the recall is
    compared with it.
    """
    passed = np.floor(recall * 100 + 1e-7)
    passed += recall >= 0.01 * passed
    return passed
