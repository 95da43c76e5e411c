"""COCO metrics of many architectures on the same images."""

from __future__ import annotations

import contextlib
import io
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator

from ..data.class_names import tell_apart
from ..data.coco_json import SCORED_KEYS
from .bootstrap import ResampledImages, metric_and_category, poisson_weights
from .detections import Detections, id_array

try:
    import hotcoco
except ImportError:
    hotcoco = None  # type: ignore[assignment]  # pycocotools stands in

# The part of the ground truth that evaluation reads. hotcoco is strict about all other keys that it
# knows, such as the license of an image.
READ_KEYS = {
    "images": ("id", "height", "width"),
    "categories": ("id", "name"),
    "annotations": ("id", "image_id", "category_id", "bbox", "segmentation", *SCORED_KEYS),
}

PYCOCOTOOLS_S = 0.02  # for an image
SLOW_S = 10  # the user is told of anything longer

# Names of the references to images and categories in annotations
REFERENCES = {"images": "image_id", "categories": "category_id"}


class Scorer(COCOEvaluator):
    """Detectron2's COCOEvaluator for one architecture after another, silent and in one process.

    The ground truth is loaded once. Every metric equals exactly that of a COCOEvaluator created for
    the architecture, with pycocotools' evaluation (``use_fast_impl=False``). hotcoco evaluates in
    the same way, but tens of times faster: it matches, sorts and sums in the order of pycocotools,
    so its results are equal to the last digit.

    Args:
        dataset_name: name of a registered dataset in COCO format.
        fast: use hotcoco if it is installed.
        masks: score masks too for an architecture that found nothing.

    Attributes:
        implementation: name of the package that evaluates.
        contiguous_ids: map from the dataset's category ids to 0, 1, ...

    Raises:
        KeyError: no dataset of this name is registered.
        ValueError: the dataset is not in COCO format, or an annotation lacks what evaluation
            reads.
    """

    def __init__(self, dataset_name: str, *, fast: bool = True, masks: bool = False):
        metadata = MetadataCatalog.get(dataset_name)
        if not metadata.get("thing_classes"):
            DatasetCatalog.get(dataset_name)  # its categories are only known once it is loaded
        if not metadata.get("json_file"):
            raise ValueError(f"cannot score on {dataset_name!r}: it is not in COCO format")
        super().__init__(dataset_name, distributed=False, use_fast_impl=False)
        self._logger = logging.getLogger(f"{__name__}.tables")
        self._logger.disabled = True

        self._images = set(self._coco_api.getImgIds())
        self._class_names = tell_apart(metadata.thing_classes)
        self.contiguous_ids: dict[int, int] = metadata.get("thing_dataset_id_to_contiguous_id") or {
            index: index for index in range(len(self._class_names))
        }
        self._category_ids = np.array(
            sorted(self.contiguous_ids, key=self.contiguous_ids.__getitem__)
        )
        self._require("bbox", *SCORED_KEYS)

        self._masks = masks
        self._fast = fast and hotcoco is not None and _has_plain_ids(self._coco_api.dataset)
        self.implementation = "hotcoco" if self._fast else "pycocotools"
        if self._fast:
            self._texts = {kind: _texts(self._coco_api.dataset[kind]) for kind in REFERENCES}
            self._ground_truth, self._coco_eval = hotcoco.COCO(self._read_part()), hotcoco.COCOeval
        else:
            self._ground_truth, self._coco_eval = self._coco_api, COCOeval
        log, what = (
            logging.getLogger(__name__),
            f"{self.implementation} scores the architectures on",
        )
        seconds = 0 if self._fast else len(self._images) * PYCOCOTOOLS_S * (1 + masks)
        if seconds < SLOW_S:
            log.debug(f"{what} {dataset_name}")
        else:
            why = "hotcoco is not installed" if hotcoco is None else "hotcoco cannot read its ids"
            log.warning(
                f"{what} {dataset_name}, about {seconds:,.0f} s for each of them, as {why}; a search "
                "scores as many at a time as it has processes"
            )

    def resample(self, metric: str, resamples: int) -> ResampledImages:
        """Resample the images, in the same way for every architecture.

        Args:
            metric: metric such as "bbox/AP50" or "segm/AP-person".
            resamples: number of resamples.

        Raises:
            ValueError: the metric needs masks that the ground truth lacks.
        """
        task, name = metric.split("/", 1)
        if task == "segm":
            self._require("segmentation")
        name, category = metric_and_category(name, self._class_names)
        weights = poisson_weights(len(self._images), resamples, seed=0)
        return ResampledImages(self._coco_api, self.contiguous_ids, weights, task, name, category)

    def __call__(
        self, detections: Detections, image_ids: Sequence[int] | None = None
    ) -> dict[str, float]:
        """Score the detections of one architecture.

        Args:
            detections: its detections, with contiguous categories from 0.
            image_ids: ids of the only images to count. By default all.

        Returns:
            Metrics in percent, such as "bbox/AP", "bbox/AP50" and, if there are two categories or
            more, "bbox/AP-person". For detections with masks also "segm/AP" and so on. A metric is
            NaN if it has no ground truth, or if a box or a score is not finite. It is 0 if there is
            ground truth but nothing was detected.

        Raises:
            ValueError: an image or a category is not in the dataset, ``image_ids`` is empty or
                names an image twice, or the ground truth lacks masks.
        """
        self._check(detections, image_ids)
        has_masks = self._masks or len(detections.masks) > 0
        if has_masks:
            self._require("segmentation")
        metrics: dict[str, float] = {}
        for task in ("bbox", "segm") if has_masks else ("bbox",):
            coco_eval = None
            if detections.is_finite():
                with contextlib.redirect_stdout(io.StringIO()):
                    coco_eval = self._run(detections, task, image_ids)
            results = self._derive_coco_results(coco_eval, task, self._class_names)
            metrics |= {f"{task}/{name}": value for name, value in results.items()}
        return metrics

    def _run(self, detections: Detections, task: str, image_ids: Sequence[int] | None) -> Any:
        if self._fast or len(detections):
            found = self._ground_truth.loadRes(self._results(detections, task))
        else:  # loadRes of pycocotools does not accept it
            found = COCO()
            found.dataset = {**self._coco_api.dataset, "annotations": []}
            found.createIndex()
        coco_eval = self._coco_eval(self._ground_truth, found, task)
        if image_ids is not None:
            coco_eval.params.imgIds = self._numbers("images", id_array(image_ids)).tolist()
        coco_eval.evaluate()
        coco_eval.accumulate()
        coco_eval.summarize()
        return coco_eval

    def _results(self, detections: Detections, task: str) -> np.ndarray | list[dict[str, Any]]:
        """Convert detections to the input of ``loadRes``."""
        image_ids = self._numbers("images", detections.image_ids)
        category_ids = self._numbers("categories", self._category_ids)[detections.categories]
        if task == "bbox" and self._fast:
            return np.column_stack([image_ids, detections.boxes, detections.scores, category_ids])
        results = replace(detections, image_ids=image_ids, categories=category_ids).to_json()
        if task == "segm":
            for result in results:
                del result["bbox"]  # its area would be taken for the mask's
        return results

    def _read_part(self) -> dict[str, list[dict[str, Any]]]:
        part = {
            kind: [
                {key: entry[key] for key in keys if key in entry}
                for entry in self._coco_api.dataset[kind]
            ]
            for kind, keys in READ_KEYS.items()
        }
        for kind, reference in REFERENCES.items():
            for entries, key in ((part[kind], "id"), (part["annotations"], reference)):
                numbers = self._numbers(kind, id_array(entry[key] for entry in entries))
                for entry, number in zip(entries, numbers.tolist()):
                    entry[key] = number
        return part

    def _numbers(self, kind: str, ids: np.ndarray) -> np.ndarray:
        """Convert ids of images or categories for the package that evaluates.

        hotcoco only takes integers, so strings are numbered in their order.
        """
        texts = self._texts[kind] if self._fast else ()
        return np.searchsorted(texts, ids) if len(texts) and len(ids) else ids

    def _require(self, *keys: str) -> None:
        """Raise a ValueError if an annotation lacks one of these keys."""
        json_file = os.fspath(self._metadata.json_file)
        if not self._do_evaluation:
            raise ValueError(
                f"cannot score on {self._metadata.name!r}: {json_file} has no annotations"
            )
        for annotation in self._coco_api.dataset["annotations"]:
            for key in keys:
                if annotation.get(key) in (None, []):
                    raise ValueError(
                        f"cannot score on {self._metadata.name!r}: annotation {annotation['id']} of "
                        f"{json_file} has no {key!r}"
                    )

    def _check(self, detections: Detections, image_ids: Sequence[int] | None) -> None:
        name, categories = self._metadata.name, detections.categories
        images = set(detections.image_ids.tolist())
        if image_ids is not None:
            if not 0 < len(set(image_ids)) == len(image_ids):
                raise ValueError(
                    f"image_ids has {len(image_ids)} entries of {len(set(image_ids))} images; "
                    f"expected one or more images of {name!r}, each once"
                )
            images.update(image_ids)
        strays = images - self._images
        if strays:
            raise ValueError(f"{len(strays)} images are not in {name!r}; such as {min(strays)}")
        count = len(self._category_ids)
        if len(detections) > 0 and not 0 <= categories.min() <= categories.max() < count:
            raise ValueError(
                f"detections have the categories {categories.min()} to {categories.max()}; "
                f"expected 0 to {count - 1}, those of {name!r}"
            )


def _has_plain_ids(dataset: Mapping[str, list[dict[str, Any]]]) -> bool:
    """Whether hotcoco treats the ids as pycocotools does.

    hotcoco refuses negative ids. pycocotools counts a detection that matches annotation 0 as a
    false positive. Ids of images and categories pass through float64.
    """
    lowest = {"images": 0, "categories": 0, "annotations": 1}
    return all(
        low <= entry["id"] < 2**53
        for kind, low in lowest.items()
        if not len(_texts(dataset[kind]))
        for entry in dataset[kind]
    )


def _texts(entries: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Get the sorted ids if they are strings, otherwise an empty array."""
    if entries and isinstance(entries[0]["id"], str):
        return np.unique([entry["id"] for entry in entries])
    return np.empty(0, str)
