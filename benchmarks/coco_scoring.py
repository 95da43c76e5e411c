#!/usr/bin/env python3
"""Time to score the detections of one architecture: pycocotools against faster packages.

coco_scoring.py
coco_scoring.py --images 500 --rounds 5
coco_scoring.py --json-file instances_val.json --predictions
OUTPUT_DIR/inference/coco_instances_results.json

Without files, the data are synthetic and of COCO's size, with 100 detections in each image, three
in five of them shifted boxes of the ground truth. pycocotools runs in Detectron2's COCOEvaluator,
hotcoco in the Scorer of the search, and faster-coco-eval on its own. Those that are installed take
turns, with the ground truth loaded before. Each gets the detections as its users have them: the
Scorer as arrays, the others as dicts. "+ resamples" includes the additional work of a search
(SEARCH.RESAMPLES): the AP of boxes on resamples of the images. Time is the median over the rounds.
"differ" counts the metrics that differ from pycocotools' in any digit, and "by" is the largest
difference in percent.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np
from tabulate import tabulate

from crnas_d2.evaluation.detections import Detections
from crnas_d2.evaluation.scorer import Scorer

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.evaluation import COCOEvaluator

try:
    import faster_coco_eval
except ImportError:
    faster_coco_eval = None

NAME = "coco_scoring"
HEADER = ["package", "seconds", "times faster", "metrics", "differ", "by", "bbox/AP"]
SIZE = np.array([640, 480])
OBJECTS = 7  # in each image of the synthetic data


class PlainEvaluator(COCOEvaluator):
    """Detectron2's evaluator after its process() has received all images."""

    title = "pycocotools"

    def __init__(self):
        super().__init__(NAME, distributed=False, use_fast_impl=False)

    def prepare(self, detections: Detections) -> None:
        self.reset()
        self._predictions.append({"instances": detections.to_json()})

    def score(self) -> dict[str, float]:
        return {
            f"{task}/{name}": value
            for task, results in self.evaluate().items()
            for name, value in results.items()
        }


class FasterEvaluator(PlainEvaluator):
    """faster-coco-eval as it is commonly used, with the metrics of Detectron2's evaluator."""

    title = "faster-coco-eval"

    def __init__(self):
        super().__init__()
        self._ground_truth = faster_coco_eval.COCO(self._metadata.json_file)
        self._category_ids = sorted(self._ground_truth.getCatIds())

    def prepare(self, detections: Detections) -> None:
        self._found = detections.to_json()
        for result in self._found:
            result["category_id"] = self._category_ids[result["category_id"]]

    def evaluate(self) -> dict[str, dict[str, float]]:
        return {
            task: self._evaluate_task(task) for task in self._tasks_from_predictions(self._found)
        }

    def _evaluate_task(self, task: str) -> dict[str, float]:
        left_out = "bbox" if task == "segm" else ""
        results = [{k: v for k, v in r.items() if k != left_out} for r in self._found]
        coco_eval = faster_coco_eval.COCOeval_faster(
            self._ground_truth, self._ground_truth.loadRes(results), task
        )
        coco_eval.run()
        return self._derive_coco_results(coco_eval, task, self._metadata.thing_classes)


class ScorerOfTheSearch:
    def __init__(self):
        self._scorer = Scorer(NAME)
        self.title = f"Scorer ({self._scorer.implementation})"

    def prepare(self, detections: Detections) -> None:
        self._found = detections

    def score(self) -> dict[str, float]:
        return self._scorer(self._found)


class ScorerWithResamples(ScorerOfTheSearch):
    def __init__(self, resamples: int):
        super().__init__()
        self.title = f"+ {resamples} resamples"
        self._images = self._scorer.resample("bbox/AP", resamples)

    def score(self) -> dict[str, float]:
        self._images.ap(self._found)
        return super().score()


def draw_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """Draw x, y, width, height of shape (count, 4), log-uniform from 8 pixels to the whole image."""
    wh = np.exp(rng.uniform(np.log(8), np.log(SIZE), (count, 2)))
    return np.concatenate([rng.uniform(0, SIZE - wh), wh], 1)


def make_data(images: int, classes: int, detections: int) -> tuple[dict[str, Any], Detections]:
    """Create detections and a ground truth in COCO format, with one crowd in a hundred objects."""
    rng = np.random.default_rng(0)
    boxes = draw_boxes(rng, images * OBJECTS)
    categories = rng.integers(classes, size=len(boxes))
    crowds = rng.random(len(boxes)) < 0.01
    coco = {
        "images": [{"id": i, "width": 640, "height": 480, "file_name": ""} for i in range(images)],
        "categories": [{"id": k + 1, "name": f"category {k}"} for k in range(classes)],
        "annotations": [
            {
                "id": index + 1,
                "image_id": index // OBJECTS,
                "category_id": int(categories[index]) + 1,
                "bbox": box,
                "area": 0.6 * box[2] * box[3],
                "iscrowd": int(crowds[index]),
            }
            for index, box in enumerate(boxes.tolist())
        ],
    }
    image_ids = np.repeat(np.arange(images), detections)
    near = image_ids * OBJECTS + rng.integers(OBJECTS, size=len(image_ids))
    is_near = rng.random(len(near)) < 0.6
    shift = 0.2 * rng.random(len(near))  # in widths and heights
    moves = shift[:, None] * np.tile(boxes[near, 2:], 2) * rng.standard_normal((len(near), 4))
    found = np.where(is_near[:, None], boxes[near] + moves, draw_boxes(rng, len(near)))
    found[:, 2:] = np.maximum(found[:, 2:], 1)
    found_categories = np.where(is_near, categories[near], rng.integers(classes, size=len(near)))
    scores = rng.beta(np.where(is_near, 3 - 10 * shift, 0.5), 4)
    found, scores = (a.astype(np.float32).astype(float) for a in (found, np.round(scores, 4)))
    return coco, Detections(image_ids, found_categories, found, scores, np.zeros((0, 3), object))


def read_detections(coco: dict[str, Any], predictions: str) -> Detections:
    """Read a file of Detectron2's evaluator, with contiguous categories from 0."""
    with open(predictions) as f:
        detections = Detections.from_json(json.load(f))
    category_ids = sorted(category["id"] for category in coco["categories"])
    return replace(detections, categories=np.searchsorted(category_ids, detections.categories))


def compare(
    coco: dict[str, Any], detections: Detections, rounds: int, resamples: int
) -> list[list]:
    """Get the rows of the table."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        json_file = os.path.join(folder, "instances.json")
        with open(json_file, "w") as f:
            json.dump(coco, f)
        register_coco_instances(NAME, {}, json_file, folder)
        DatasetCatalog.get(NAME)
        contestants = [PlainEvaluator(), ScorerOfTheSearch(), ScorerWithResamples(resamples)]
        if faster_coco_eval is not None:
            contestants.append(FasterEvaluator())
        seconds, metrics = {c: [] for c in contestants}, {}
        for _ in range(rounds):
            for contestant in contestants:
                contestant.prepare(detections)
                start = time.perf_counter()
                metrics[contestant] = contestant.score()
                seconds[contestant].append(time.perf_counter() - start)
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)

    reference, base = metrics[contestants[0]], median(seconds[contestants[0]])
    rows = []
    for contestant in contestants:
        assert metrics[contestant].keys() == reference.keys()
        pairs = [(metrics[contestant][name], reference[name]) for name in reference]
        # NaN counts as equal to NaN
        differences = [abs(a - b) for a, b in pairs if a != b and (a == a or b == b)]
        rows.append(
            [
                contestant.title,
                f"{median(seconds[contestant]):.3f}",
                f"{base / median(seconds[contestant]):.1f}",
                len(pairs),
                len(differences),
                f"{max(differences, default=0):.1e}",
                repr(metrics[contestant]["bbox/AP"]),
            ]
        )
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--detections", type=int, default=100, help="in each image")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--resamples", type=int, default=200)
    parser.add_argument("--json-file", metavar="FILE", help="ground truth (default: made data)")
    parser.add_argument("--predictions", metavar="FILE", help="detections in that ground truth")
    args = parser.parse_args(argv)
    if (args.json_file is None) != (args.predictions is None):
        parser.error("--json-file and --predictions go together")
    if args.json_file is None:
        coco, detections = make_data(args.images, args.classes, args.detections)
    else:
        with open(args.json_file) as f:
            coco = json.load(f)
        detections = read_detections(coco, args.predictions)
    rows = compare(coco, detections, args.rounds, args.resamples)
    print(
        f"{len(coco['images'])} images, {len(coco['annotations'])} objects, "
        f"{len(coco['categories'])} categories, {len(detections)} detections"
    )
    print(tabulate(rows, HEADER, tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    main()
