"""Is detector B better than detector A? Both as they were trained with several seeds, or with one.

A and B are each the OUTPUT_DIR of a training, with the detections of its test, or a folder that has
one such folder for each seed. Any detector of Detectron2 will do. Of files of detections, or a folder
of them, give the --annotations too. The OUTPUT_DIR of a recipe alone stands for its baseline and
what it found.

crnas compare output/search/baseline output/search/final
crnas compare output/search --output comparison.json
crnas compare a.json b.json --annotations val.json

Prints COCO's metrics of both as pycocotools has them, the AP of each seed, and a verdict with
intervals for other seeds and for other test images. docs/verdict.md has the rule.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tabulate import tabulate

from ..evaluation.bootstrap import METRICS, ResampledImages
from ..evaluation.paired_comparison import PairedComparison, compare_pairs
from ..evaluation.resampled_ap import (
    REGION,
    class_names,
    contiguous_ids,
    once_and_resampled,
    read_detections,
    read_ground_truth,
)
from ..files import write_json
from ..paths import check_not_read
from ..procedure.outcome_text import describe_comparison, fill
from ..report.compared_images import RESULTS, check_tested_classes
from ..report.runs import read_run
from ..report.trained_detectors import (
    TrainedDetector,
    find_scored_on,
    find_trained,
    pair,
    trained_by_recipe,
)
from .command_line import command, command_parser

RESAMPLES = 1000
TASKS = {"bbox": "boxes", "segm": "masks"}
VERDICTS = {
    "better": "B is better than A",
    "not shown": "B is not shown to be better than A",
    "worse": "B is worse than A",
}


@dataclass(frozen=True)
class Score:
    """The score of one detector.

    Attributes:
        metrics: metrics in percent by COCO's names. NaN if there are no such objects.
        resampled: AP on R resamples of the test images, with shape (R,). None if it is unknown.
    """

    metrics: dict[str, float]
    resampled: np.ndarray | None = None


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = command_parser(__doc__)
    parser.add_argument("A", help=f"folder of one training or of several, or {RESULTS} of one")
    parser.add_argument("B", nargs="?", help="the same; if left out, A is the folder of a recipe")
    parser.add_argument(
        "--annotations",
        metavar="JSON",
        help="of the test images, in COCO's format; by default those of the trainings' test set",
    )
    parser.add_argument("--output", metavar="JSON", help="write all numbers to this file")
    args = parser.parse_args(argv)
    sides = [find_trained(args.A), find_trained(args.B)] if args.B else trained_by_recipe(args.A)
    labels, pairs, paired = pair(*sides)
    detectors = [detector for of_pair in pairs for detector in of_pair]
    annotations, test, not_resampled = args.annotations, args.annotations, ""
    if not annotations:
        scored_on = find_scored_on(detectors)
        annotations, test = scored_on.json_file, scored_on.describe()
        if not annotations:
            not_resampled = f"only what COCO scores is resampled, not {scored_on.kind!r}"
    if args.output:
        check_not_read(args.output, filter(None, [annotations, *(d.results for d in detectors)]))
    scores = score_all(detectors, annotations) if annotations else read_scores(detectors)
    comparisons = {task: compare(of_task) for task, of_task in scores.items()}

    for name, side in zip("AB", zip(*pairs)):
        print(f"{name}: {', '.join(detector.path for detector in side)}")
    print(f"Tested on {test}; {paired}.")
    for task, comparison in comparisons.items():
        print(f"\n{metrics_table(TASKS[task], scores[task])}")
        if len(pairs) > 1:
            print(f"\n{seeds_table(TASKS[task], labels, comparison)}")
        print(
            f"\nAP of {TASKS[task]}, B - A: {comparison.mean:+.2f}. {VERDICTS[comparison.verdict]}."
        )
        told = [comparison.reason, *describe_comparison(comparison, "B", not_resampled)]
        same = all(a.path == b.path for a, b in pairs)
        print(
            fill(["A and B are the same trainings: there is nothing to compare."] if same else told)
        )
    if args.output:
        content = {
            **{name: [d.path for d in side] for name, side in zip("AB", zip(*pairs))},
            "pairs": labels,
            "test": test,
            "resamples": RESAMPLES if annotations else 0,
            "metrics": {task: mean_metrics(of_task) for task, of_task in scores.items()},
            "comparisons": {task: of_task.as_json() for task, of_task in comparisons.items()},
        }
        write_json(args.output, content)


def score_all(detectors: Sequence[TrainedDetector], annotations: str) -> dict[str, list[Score]]:
    """Score the detections of each detector, on resamples of the images that all share.

    Returns:
        Scores by task: of boxes, and of masks if all detectors and the annotations have them.

    Raises:
        OSError, ValueError: a file does not exist, or does not belong to this dataset.
    """
    truth = read_ground_truth(annotations, "bbox")
    names = class_names(truth)
    for detector in detectors:
        if not os.path.isfile(detector.results):
            raise FileNotFoundError(
                f"{detector.results}: no such file; expected what a test of Detectron2 leaves there"
            )
        check_tested_classes(detector.results, names)
    has_masks = all(annotation.get(REGION["segm"]) for annotation in truth.anns.values())
    weights = once_and_resampled(len(truth.imgs), RESAMPLES)
    images = {
        task: {
            metric: ResampledImages(
                truth,
                contiguous_ids(truth),
                weights if metric == "AP" else weights[:, :1],
                task,
                metric,
            )
            for metric in METRICS
        }
        for task in list(TASKS)[: 1 + has_masks]
    }
    scores: dict[str, list[Score]] = {task: [] for task in images}
    for detector in detectors:
        detections = read_detections(detector.results, truth)
        if len(detections.masks) < len(detections):
            scores.pop("segm", None)
        for task, of_task in scores.items():
            found = {metric: of.ap(detections) for metric, of in images[task].items()}
            metrics = {metric: float(values[0]) for metric, values in found.items()}
            of_task.append(Score(metrics, found["AP"][1:]))
    return scores


def read_scores(detectors: Sequence[TrainedDetector]) -> dict[str, list[Score]]:
    """Read the last test in the metrics of each training, whichever evaluator has scored it.

    Raises:
        OSError, ValueError: a training has none.
    """
    scores = []
    for detector in detectors:
        run = read_run(detector.path)
        run.metric("bbox/AP")
        known = {metric: run.metrics.get(f"bbox/{metric}", np.nan) for metric in METRICS}
        scores.append(Score(known))
    return {"bbox": scores}


def compare(scores: Sequence[Score]) -> PairedComparison:
    """Compare detectors.

    Args:
        scores: alternating scores of A and B, one pair after the other.
    """
    aps = [score.metrics["AP"] for score in scores]
    resampled = [score.resampled for score in scores if score.resampled is not None]
    if not resampled:
        return compare_pairs(aps[1::2], aps[::2])
    return compare_pairs(aps[1::2], aps[::2], np.stack(resampled[1::2]), np.stack(resampled[::2]))


def mean_metrics(scores: Sequence[Score]) -> dict[str, tuple[float, float]]:
    """Average the metrics of A and of B over the seeds."""

    def mean(side: Sequence[Score], metric: str) -> float:
        return float(np.mean([score.metrics[metric] for score in side]))

    return {metric: (mean(scores[::2], metric), mean(scores[1::2], metric)) for metric in METRICS}


def metrics_table(things: str, scores: Sequence[Score]) -> str:
    means = mean_metrics(scores)
    rows = [[metric, a, b, b - a] for metric, (a, b) in means.items() if not np.isnan(a + b)]
    head = [things if len(scores) == 2 else f"{things}, mean", "A", "B", "B - A"]
    return _table(rows, head)


def seeds_table(things: str, labels: Sequence[str], comparison: PairedComparison) -> str:
    columns = comparison.baseline, comparison.found, comparison.differences
    rows: list[Sequence[object]] = [
        *zip(labels, *columns),
        ["mean", comparison.baseline_mean, comparison.found_mean, comparison.mean],
        ["standard deviation", comparison.baseline_sd, comparison.found_sd, None],
    ]
    return _table(rows, [f"AP of {things}", "A", "B", "B - A"])


def _table(rows: Sequence[Sequence[object]], head: Sequence[str]) -> str:
    return tabulate(rows, head, "github", floatfmt=("", ".2f", ".2f", "+.2f"), missingval="-")
