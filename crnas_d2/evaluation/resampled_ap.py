"""AP of a trained detector as its images are, and with its images drawn anew many times."""

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

REGION = {"bbox": "bbox", "segm": "segmentation"}  # of an object or a detection, by task


@dataclass(frozen=True, eq=False)
class ResampledAP:
    """In percent.

    Attributes:
        ap: of the images as they are, that of pycocotools.
        resampled: (R,) float64, in each resample of the images. NaN in one without objects.
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
    """Score what a detector found, see :class:`~crnas_d2.evaluation.bootstrap.ResampledImages`.

    The resamples depend on the number of images, ``resamples`` and ``seed`` alone, so those of
    several detectors on one test set are paired.

    Args:
        results_json: ``coco_instances_results.json`` of Detectron2's ``COCOEvaluator``.
        gt_json: the annotations of its test set, in COCO's format.
        task: "bbox" or "segm".
        metric: as Detectron2 names it, such as "AP50" or, of a class, "AP-person".

    Raises:
        OSError: a file cannot be read.
        ValueError: the annotations are none or have nothing that the metric counts, or the results
            are no list of detections with boxes and, for "segm", masks, or of another data set.
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
    """(images, 1 + resamples) weights: of each image once, and then of each resample."""
    drawn = poisson_weights(images, resamples, seed)
    return np.hstack([np.ones((images, 1), np.float32), drawn])


def read_ground_truth(path: str, task: str) -> COCO:
    """
    Raises:
        OSError: it cannot be read.
        ValueError: it has no annotations in COCO's format, or one lacks what the task needs.
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
    """pycocotools' view of annotations, without what it prints."""
    coco = COCO()
    coco.dataset = dict(content)
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def contiguous_ids(truth: COCO) -> dict[int, int]:
    """From the ids of categories to 0, 1, ..., as Detectron2 counts them."""
    return {category_id: index for index, category_id in enumerate(sorted(truth.cats))}


def class_names(truth: COCO) -> list[str]:
    """In the order of :func:`contiguous_ids`, each once."""
    return tell_apart(truth.cats[key].get("name", str(key)) for key in sorted(truth.cats))


def read_detections(path: str, truth: COCO, task: str | None = None) -> Detections:
    """What a detector found, with the categories counted from 0.

    Args:
        task: "bbox" or "segm", which needs masks; None takes masks where all have one.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no list of detections with what the task needs, one of them is not finite,
            or is in an image or of a category that the ground truth has not.
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
