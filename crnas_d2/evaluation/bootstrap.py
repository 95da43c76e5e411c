"""COCO's AP of one architecture under many resamples of the images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import Params
from torch.nn.functional import embedding_bag

from .detections import Detections, id_array
from .matching import BITS, MATCH, ImageObjects, match

NUM_RECALLS = len(Params("bbox").recThrs)
MAX_ELEMENTS = 2**20  # of a temporary array


def poisson_weights(images: int, resamples: int, seed: int) -> np.ndarray:
    """How often each image is in each resample of the Poisson bootstrap: numbers with mean 1.

    The ordinary bootstrap draws as many images as there are, so its counts change when images are
    added. Here each image has its own independent counts, a function of seed and position only:
    later images extend a resample and leave what it was. The size of a resample is therefore
    random; AP is a ratio, so that hardly adds to its spread.

    Returns:
        (images, resamples) float32, whole numbers.
    """
    weights = np.empty((images, resamples), np.float32)
    for position in range(images):
        weights[position] = np.random.default_rng([seed, position]).poisson(1, resamples)
    return weights


class ResampledImages:
    """Images, the objects in them, and how often each image counts in each of R resamples.

    All architectures share it, so what they reach in a resample is paired.

    Args:
        ground_truth: the annotations of the data set.
        contiguous_ids: ``thing_dataset_id_to_contiguous_id`` of Detectron2's metadata: from
            category ids in the ground truth to those of detections.
        image_ids: I different ones.
        weights: (I, R), whole numbers. 1 everywhere is the AP of the images as they are.
        iou_type: "bbox" for box AP, "segm" for mask AP.

    Raises:
        ValueError: an image is given twice or is not in the ground truth, or the weights or the
            IoU type are not as described.
    """

    def __init__(
        self,
        ground_truth: COCO,
        contiguous_ids: Mapping[int, int],
        image_ids: Sequence[int],
        weights: np.ndarray,
        iou_type: str = "bbox",
    ):
        if iou_type not in ("bbox", "segm"):
            raise ValueError(f"IoU type {iou_type!r}; expected 'bbox' or 'segm'")
        if len(weights) != len(image_ids) or np.any(weights < 0) or np.any(weights % 1):
            raise ValueError(
                f"weights of shape {weights.shape}; expected a row of whole numbers from 0 for "
                f"each of {len(image_ids)} images"
            )
        self.iou_type = iou_type
        self.image_ids = id_array(image_ids)
        self.positions = {image_id: position for position, image_id in enumerate(image_ids)}
        if len(self.positions) < len(image_ids):
            raise ValueError(f"{len(image_ids)} images, but {len(self.positions)} different ones")
        unknown = [i for i in image_ids if i not in ground_truth.imgs]
        if unknown:
            raise ValueError(f"images {unknown[:5]} are not in the ground truth")
        self.weights = np.asarray(weights, np.float32)
        self.num_categories = len(contiguous_ids)
        self.objects = [ImageObjects(ground_truth, i, contiguous_ids, iou_type) for i in image_ids]


class BootstrapAP:
    """AP of one architecture on the images that it has seen so far, in each of R resamples.

    COCO's "AP": the mean over the IoU thresholds 0.50, 0.55, ..., 0.95 and over categories that
    have objects; any size of object, at most 100 detections for each image and category. An image
    of weight w counts as w copies of it that follow each other, so with all weights 1 this is what
    pycocotools computes. The one thing that differs from real copies is the order of detections
    of the same image and category that have the same score.

    AP is no mean over images, so it is computed anew for each resample. Matching does not depend
    on the weights: it is done once, when images are added, and 20 bytes are kept of a detection.
    Sums are exact up to 2^24 detections and annotations of a category, counted with weights.
    """

    def __init__(self, images: ResampledImages):
        self._images = images
        self._seen = np.zeros(len(images.image_ids), bool)
        self._matches = [np.empty(0, MATCH)]

    def add(self, image_ids: Sequence[int], detections: Detections) -> None:
        """Match the detections in images that were not there before.

        Raises:
            ValueError: an image is unknown or was added before, a detection is in another image
                or of an unknown category, or masks are needed and missing.
        """
        known = self._images.positions
        unknown = [i for i in image_ids if i not in known]
        if unknown:
            raise ValueError(f"images {unknown[:5]} are not among the {len(known)} resampled ones")
        slice_ids, times = np.unique(id_array(image_ids), return_counts=True)
        positions = np.array([known[i] for i in slice_ids.tolist()], int)
        again = slice_ids[self._seen[positions] | (times > 1)]
        if len(again):
            raise ValueError(f"images {again[:5].tolist()} are added a second time")
        foreign = set(detections.image_ids.tolist()).difference(image_ids)
        if foreign:
            raise ValueError(f"detections in images {sorted(foreign)[:5]}, which are not added")
        categories = self._images.num_categories
        if len(detections) and not (
            0 <= detections.categories.min() and detections.categories.max() < categories
        ):
            raise ValueError(
                f"detections of categories {np.unique(detections.categories).tolist()}; expected "
                f"0 to {categories - 1}"
            )
        if self._images.iou_type == "segm" and len(detections.masks) != len(detections):
            raise ValueError("mask AP needs masks, and the detections have none")
        self._seen[positions] = True
        images = np.array([known[i] for i in detections.image_ids.tolist()], int)
        self._matches.append(match(detections, images, self._images.objects))

    def ap(self) -> np.ndarray:
        """AP in percent.

        Returns:
            (R,) float64. NaN in a resample without objects.
        """
        images = self._images
        matches = np.concatenate(self._matches)
        # Of equal scores the smaller image id first, then in the order given, as in pycocotools.
        matches = matches[
            np.lexsort((images.image_ids[matches["image"]], -matches["score"], matches["category"]))
        ]
        bounds = np.searchsorted(matches["category"], np.arange(images.num_categories + 1))
        objects = self._objects_by_category()
        sums = np.zeros(images.weights.shape[1])
        present = np.zeros(len(sums), int)
        for category, of_category in enumerate(objects):
            found = matches[bounds[category] : bounds[category + 1]]
            rows = np.count_nonzero(found["true"])
            columns = max(1, MAX_ELEMENTS // max(1, rows))
            for start in range(0, len(sums), columns):
                block = slice(start, start + columns)
                weights = np.ascontiguousarray(images.weights[:, block])
                num_objects = _running_weight(weights, of_category, np.array([len(of_category)]))[0]
                sums[block] += _average_precision(found, weights, num_objects)
                present[block] += num_objects > 0
        return np.divide(100 * sums, present, out=np.full(len(sums), np.nan), where=present > 0)

    def _objects_by_category(self) -> list[np.ndarray]:
        """For each category the images seen of its objects that are no crowd, one for each."""
        positions = np.flatnonzero(self._seen)
        seen = [self._images.objects[position] for position in positions]
        image = np.repeat(positions, [len(objects.crowd) for objects in seen])
        category = np.concatenate([np.empty(0, int), *(objects.categories for objects in seen)])
        crowd = np.concatenate([np.empty(0, bool), *(objects.crowd for objects in seen)])
        return [image[(category == index) & ~crowd] for index in range(self._images.num_categories)]


def _average_precision(
    matches: np.ndarray, weights: np.ndarray, num_objects: np.ndarray
) -> np.ndarray:
    """AP of one category, from 0 to 1: the mean over IoU thresholds and recalls 0, 0.01, ..., 1.

    Args:
        matches: (D,), best score first.
        weights: (I, R).
        num_objects: (R,).

    Returns:
        (R,); 0 where there are no objects.
    """
    sums = np.zeros(len(num_objects))
    found = np.flatnonzero(matches["true"])  # at all others precision falls and recall stays
    if len(found) == 0:
        return sums
    counted = _running_weight(weights, matches["image"], found + 1)
    num_objects = np.maximum(num_objects, 1)
    for bit in BITS:
        true = np.flatnonzero(matches["true"] & bit)
        ignored = np.flatnonzero(matches["ignored"] & bit)
        if len(true) == 0:
            continue
        hits = weights[matches["image"][true]].astype(float)
        _accumulate(np.add, hits)
        precision = counted[np.searchsorted(found, true)]
        if len(ignored):
            ends = np.searchsorted(ignored, true)
            precision -= _running_weight(weights, matches["image"][ignored], ends)
        np.divide(hits, np.maximum(precision, 1, out=precision), out=precision)
        _accumulate(np.maximum, precision[::-1])  # the best one at this recall or a higher one
        hits /= num_objects
        passed = _recall_thresholds_passed(hits)
        passed[1:] -= passed[:-1].copy()
        sums += np.einsum("ur,ur->r", precision, passed)
    return sums / (len(BITS) * NUM_RECALLS)


def _running_weight(weights: np.ndarray, images: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The sum of weights[images[:e]] for each of the rising ends e: (len(ends), R) float64."""
    parts = embedding_bag(
        torch.from_numpy(images[: ends[-1]].astype(np.int64)),
        torch.from_numpy(weights),
        torch.from_numpy(np.append(0, ends)),
        mode="sum",
        include_last_offset=True,
    )
    sums = parts.numpy().astype(float)
    _accumulate(np.add, sums)
    return sums


def _accumulate(ufunc: np.ufunc, rows: np.ndarray) -> None:
    """``ufunc.accumulate(rows, 0, out=rows)``, but several times faster, as rows are contiguous."""
    for before, row in zip(rows, rows[1:]):
        ufunc(before, row, out=row)


def _recall_thresholds_passed(recall: np.ndarray) -> np.ndarray:
    """How many of COCO's recall thresholds are at most ``recall``, a fraction of whole numbers.

    Threshold k is 0.01 k in floating point, for some k a little more than k / 100. Fractions that
    are not equal differ by much more, so only the threshold next to the recall is compared with it.
    """
    passed = np.floor(recall * 100 + 1e-7)
    passed += recall >= 0.01 * passed
    return passed
