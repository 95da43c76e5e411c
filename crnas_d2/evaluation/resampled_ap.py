"""The AP of a trained detector on its test images and on resamples of them."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools.coco import COCO

from ..data.class_names import tell_apart
from ..data.coco_json import SCORED_KEYS
from ..files import read_json
from .bootstrap import ResampledImages, metric_and_category, poisson_weights
from .detections import Detections

# key of the region of an object or a detection, by task
REGION = {"bbox": "bbox", "segm": "segmentation"}


@dataclass(frozen=True, eq=False)
class ResampledAP:
    """An AP in percent, with its resamples.

    Attributes:
        ap: AP on the original images, equal to that of pycocotools.
        resampled: AP on each resample of the images, as float64 of shape (R,). NaN for one without
            objects.
    """

    ap: float
    resampled: np.ndarray


def resampled_ap(
    results_json: str,
    gt_json: str,
    task: str = "bbox",
    resamples: int = 1000,
    seed: int = 0,
    metric: str = "AP",
) -> ResampledAP:
    """Score a detector's results, see :class:`~crnas_d2.evaluation.bootstrap.ResampledImages`.

    The resamples depend only on the number of images, ``resamples`` and ``seed``, so those of
    several detectors on one test set are paired.

    Args:
        results_json: ``coco_instances_results.json`` of Detectron2's ``COCOEvaluator``.
        gt_json: annotations of its test set in COCO format.
        task: "bbox" or "segm".
        resamples: number of resamples.
        seed: seed of the resamples.
        metric: Detectron2's name of the metric, such as "AP50" or, for a class, "AP-person".

    Raises:
        OSError: a file cannot be read.
        ValueError: the annotations are invalid or have nothing that the metric counts, or the
            results are not a list of detections with boxes and, for "segm", masks, or belong to
            another dataset.
    """
    truth = read_ground_truth(gt_json, task)
    detections = read_detections(results_json, truth, task)
    weights = once_and_resampled(len(truth.imgs), resamples, seed)
    of = metric_and_category(metric, class_names(truth))
    images = ResampledImages(truth, contiguous_ids(truth), weights, task, *of)
    ap, *resampled = images.ap(detections)
    if np.isnan(ap):
        raise ValueError(f"{gt_json} has no object that {task}/{metric} counts")
    return ResampledAP(float(ap), np.array(resampled))


def once_and_resampled(images: int, resamples: int, seed: int = 0) -> np.ndarray:
    """Get weights of shape (images, 1 + resamples): first the original images, then each resample."""
    drawn = poisson_weights(images, resamples, seed)
    return np.hstack([np.ones((images, 1), np.float32), drawn])


def read_ground_truth(path: str, task: str) -> COCO:
    """Read the annotations of a test set.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file has no annotations in COCO format, or one lacks what the task needs.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not (content.get("images") and content.get("categories")):
        raise ValueError(f"{path}: expected COCO's format, with images, categories, annotations")
    if not content.get("annotations"):
        raise ValueError(f"{path} has no annotations, so there is nothing to compare by")
    for annotation in content["annotations"]:
        for key in (REGION[task], *SCORED_KEYS):
            if annotation.get(key) in (None, []):
                raise ValueError(f"{path}: annotation {annotation.get('id')!r} has no {key!r}")
    if all(annotation["iscrowd"] for annotation in content["annotations"]):
        raise ValueError(f"{path}: every object is a crowd, so there is nothing to score")
    return index_quietly(content)


def index_quietly(content: Mapping[str, Any]) -> COCO:
    """Index annotations with pycocotools, suppressing what it prints."""
    coco = COCO()
    coco.dataset = dict(content)
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def contiguous_ids(truth: COCO) -> dict[int, int]:
    """Map the ids of categories to 0, 1, ..., as Detectron2 does."""
    return {category_id: index for index, category_id in enumerate(sorted(truth.cats))}


def class_names(truth: COCO) -> list[str]:
    """Get distinct names of the classes, in the order of :func:`contiguous_ids`."""
    return tell_apart(truth.cats[key].get("name", str(key)) for key in sorted(truth.cats))


def read_detections(path: str, truth: COCO, task: str | None = None) -> Detections:
    """Read a detector's results, with contiguous categories from 0.

    Args:
        path: path of the results.
        truth: annotations of the test set.
        task: "bbox" or "segm", which needs masks. None reads masks if all results have one.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is not a list of detections with what the task needs, a detection is
            not finite, or its image or category is not in the ground truth.
    """
    results = read_json(path)
    keys = {"image_id", "category_id", "score", "bbox", REGION[task or "bbox"]}
    if not isinstance(results, list) or not all(
        isinstance(result, dict) and keys <= result.keys() for result in results
    ):
        raise ValueError(f"{path}: expected a list of detections that each have {sorted(keys)}")
    for key, known in (("image_id", truth.imgs), ("category_id", truth.cats)):
        foreign = next((result[key] for result in results if result[key] not in known), None)
        if foreign is not None:
            raise ValueError(f"{path}: {key} {foreign!r} is not in the ground truth")
    index = contiguous_ids(truth)
    with_masks = task != "bbox" and all(REGION["segm"] in result for result in results)
    for result in results:
        result["category_id"] = index[result["category_id"]]
        if not with_masks:
            result.pop(REGION["segm"], None)
    detections = Detections.from_json(results)
    if not detections.is_finite():
        raise ValueError(f"{path}: a box or a score is not finite")
    return detections
