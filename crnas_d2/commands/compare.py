"""Compare the detections of two trained detectors on one data set.

crnas compare output/search/baseline output/search/final
crnas compare a/coco_instances_results.json b/coco_instances_results.json --ground-truth val.json

Prints COCO's metrics of both by pycocotools, and between which values the difference of their AP
lies in 95 % of resamples of the images, drawn for both alike. That is the chance of the images
alone: trained again with another seed, each detector would have another AP.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tabulate import tabulate

from detectron2.data import MetadataCatalog

from ..config import read_config
from ..data import setup_datasets
from ..files import read_json, real_path
from ..report.pictures import RESULTS, check_tested_classes
from ..evaluation.bootstrap import ResampledImages, poisson_weights
from ..evaluation.detections import Detections
from ..evaluation.resampled_ap import contiguous_ids, index_quietly
from .command_line import command, command_parser

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")  # the first of COCOeval's stats
RESAMPLES = 1000
INTERVAL = (2.5, 97.5)  # percent
TASKS = {"bbox": "boxes", "segm": "masks"}


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = command_parser(__doc__)
    for name in ("A", "B"):
        parser.add_argument(
            name, help=f"folder of a training, or {os.path.basename(RESULTS)} of one"
        )
    parser.add_argument(
        "--ground-truth",
        metavar="JSON",
        help="annotations in COCO's format; by default those of the test set of the trainings",
    )
    args = parser.parse_args(argv)
    paths = [args.A, args.B]
    truth_file = args.ground_truth or find_ground_truth(paths)
    truth = index_quietly(read_json(truth_file))
    if not truth.anns:
        raise ValueError(f"{truth_file} has no annotations, so there is nothing to compare by")
    results = [read_results(path, truth) for path in paths]
    print(f"A: {args.A}\nB: {args.B}\n{len(truth.imgs)} images of {truth_file}\n")
    rows, sentences = [], []
    for task, things in TASKS.items():
        if task == "segm" and not all("segmentation" in r for part in results for r in part):
            continue
        a, b = (evaluate(truth, part, task) for part in results)
        for name, *values in zip(METRICS, a, b, b - a):
            rows.append([things, name, *(None if np.isnan(value) else value for value in values)])
        low, high = interval_of_difference(truth, results, task)
        sentences.append(
            f"AP of {things}, B - A: {b[0] - a[0]:+.2f}; from {low:+.2f} to {high:+.2f} in 95 % of "
            f"{RESAMPLES:,} resamples of the images"
        )
    headers = ["", "", "A", "B", "B - A"]
    print(tabulate(rows, headers, "github", floatfmt=".2f", missingval="-"), end="\n\n")
    print(*sentences, "This is the chance of the images alone, not that of training.", sep="\n")


def find_ground_truth(folders: Sequence[str]) -> str:
    """The annotations of the data set that trainings were tested on.

    Raises:
        FileNotFoundError: one of them is no folder of a training.
        ValueError: they were tested on several sets, or on none in COCO's format.
    """
    files = []
    for folder in folders:
        cfg = read_config(os.path.join(folder, "config.yaml"))
        setup_datasets(cfg)
        file = MetadataCatalog.get(cfg.DATASETS.TEST[0]).get("json_file")
        if not file:
            raise ValueError(
                f"{folder}: DATASETS.TEST is {cfg.DATASETS.TEST}; expected COCO's format"
            )
        files.append(os.fspath(file))
    if real_path(files[0]) != real_path(files[1]):
        raise ValueError(f"tested on {files[0]} and on {files[1]}; expected one data set")
    return files[0]


def read_results(path: str, truth: COCO) -> list[dict[str, Any]]:
    """
    Args:
        path: of a file of results, or of the folder of the training that has left it.

    Raises:
        OSError: there is no such file.
        ValueError: it has no detections, or some that are not of the data set, or of other classes.
    """
    if os.path.isdir(path):
        path = os.path.join(path, RESULTS)
    results = read_json(path)
    keys = {"image_id", "category_id", "bbox", "score"}
    if not results or not isinstance(results, list) or not all(keys <= set(r) for r in results):
        raise ValueError(f"{path}: expected a list of detections that each have {sorted(keys)}")
    for key, known in (("image_id", truth.imgs), ("category_id", truth.cats)):
        foreign = next((r[key] for r in results if r[key] not in known), None)
        if foreign is not None:
            raise ValueError(f"{path}: {key} {foreign!r} is not in the ground truth")
    check_tested_classes(path, [truth.cats[id].get("name") for id in sorted(truth.cats)])
    return results


def evaluate(truth: COCO, results: Sequence[Mapping[str, Any]], task: str) -> np.ndarray:
    """:data:`METRICS` by pycocotools, in percent; NaN where there are no such objects."""
    kept = {"image_id", "category_id", "score", "bbox" if task == "bbox" else "segmentation"}
    found = [{key: r[key] for key in kept} for r in results]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(truth, truth.loadRes(found), task)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    stats = evaluation.stats[: len(METRICS)]
    return np.where(stats < 0, np.nan, 100 * stats)


def interval_of_difference(
    truth: COCO, results: Sequence[Sequence[Mapping[str, Any]]], task: str
) -> tuple[float, float]:
    """Between which values the second AP less the first lies in 95 % of resamples of the images."""
    index = contiguous_ids(truth)
    weights = poisson_weights(len(truth.imgs), RESAMPLES, seed=0)
    images = ResampledImages(truth, index, weights, task)
    aps = []
    for part in results:
        numbered = [{**r, "category_id": index[r["category_id"]]} for r in part]
        aps.append(images.ap(Detections.from_json(numbered)))
    low, high = np.nanpercentile(aps[1] - aps[0], INTERVAL)
    return float(low), float(high)
