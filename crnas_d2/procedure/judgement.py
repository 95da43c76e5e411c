"""The outcome of a recipe, from the trainings of both networks and the results of the searches."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from ..architecture import format_code
from ..data.shared_images import image_files
from ..engine.coco_evaluator import RESULTS_FILE
from ..evaluation.paired_comparison import PairedComparison, compare_pairs, same_network
from ..evaluation.rank_agreement import agree_in_rung
from ..evaluation.resampled_ap import resampled_ap
from ..files import read_json
from ..search.ranking import is_complete
from ..search.result import RESULT_FILE
from ..search.shortlist_result import ShortlistResult
from .checkpoint_agreement import read_taus
from .networks import Network, final_steps, networks_of
from .outcome import (
    BASELINE,
    FOUND,
    DataStatement,
    HandedOver,
    Outcome,
    SearchRanking,
    TrainedNetwork,
)
from .steps import Kind, Step

if TYPE_CHECKING:
    from .procedure import Procedure

# in percent, the tolerance between a test's AP and the one recomputed from its detections
SAME_AP = 0.01


def judge(procedure: Procedure, budget: str = "") -> Outcome | None:
    """Get the outcome under a budget, on the main process.

    Returns:
        The outcome, or None if no final trainings are planned or not all of them have finished.

    Raises:
        OSError, ValueError: a dataset or the result of a search does not exist any more.
    """
    finals = final_steps(procedure, budget)
    if not finals or not all(procedure.look()[step.name].done for step in finals):
        return None
    networks = networks_of(procedure, budget)
    steps = procedure.steps_of(budget)
    searches = [step for step in steps if step.searches]
    metric = procedure.config(searches[-1]).SEARCH.METRIC
    trained = [_trained(network, metric, procedure.folder(budget)) for network in networks]
    aps = [network.aps for network in trained if is_complete(network.aps)]
    comparison, not_resampled = None, "there is no AP to compare"
    if len(aps) == len(trained):
        comparison, not_resampled = _compare(networks, aps, metric)
    results = {s: read_json(procedure.path(s.name, RESULT_FILE)) for s in searches}
    return Outcome(
        budget=budget,
        cost=_cost(results, trained),
        metric=metric,
        baseline=trained[0],
        found=trained[1],
        comparison=comparison,
        handed_over=_hand_over(
            comparison,
            is_baseline=trained[0].architecture == trained[1].architecture,
            take_found=procedure.recipe.cfg.SEARCH.RECIPE.TAKE_FOUND,
        ),
        ranking=tuple(
            _ranking(procedure, steps, search, result) for search, result in results.items()
        ),
        data=_state_data(procedure, steps, networks[0].cfg, results.values(), not_resampled),
    )


def _trained(network: Network, metric: str, folder: str) -> TrainedNetwork:
    task, name = metric.split("/", 1)
    cost = network.cost
    return TrainedNetwork(
        architecture=network.architecture,
        gmacs=cost.macs / 1e9 if cost else None,
        parameters=cost.parameters / 1e6 if cost else None,
        seeds=tuple(training.seed for training in network.trainings),
        folders=tuple(os.path.relpath(t.folder, folder) for t in network.trainings),
        aps=network.values(task, name),
    )


def _cost(
    results: Mapping[Step, Mapping[str, Any]], trained: Sequence[TrainedNetwork]
) -> dict[str, dict[str, float | None]]:
    """Get the costs of both stage codes in the unit of the budget, as counted by the stage search."""
    limits = next((r["limits"] for r in results.values() if r.get("limits")), None)
    if limits is None:
        return {}
    codes = (format_code(network.architecture.stage_code) for network in trained)
    return {limits["unit"]: dict(zip((BASELINE, FOUND), map(limits["costs"].get, codes)))}


def _compare(
    networks: Sequence[Network], aps: Sequence[Sequence[float]], metric: str
) -> tuple[PairedComparison, str]:
    """Compare the networks.

    Args:
        networks: baseline and found.
        aps: for each network, the AP of each training in percent.
        metric: name of the metric.

    Returns:
        The comparison, and why it lacks resamples of the test images. The latter is empty if it has
        them.
    """
    try:
        resampled = {
            training.folder: _resample(networks[0].cfg, training.folder, metric, ap)
            for network, of_network in zip(networks, aps)
            for training, ap in zip(network.trainings, of_network)
        }
    except (OSError, ValueError) as error:
        resampled, why = {}, str(error)
    else:
        why = ""
    samples = [
        (
            np.stack([resampled[training.folder] for training in network.trainings])
            if resampled
            else None
        )
        for network in networks
    ]
    baseline, found = networks
    if baseline.architecture == found.architecture:
        return same_network(aps[0], samples[0]), why
    return compare_pairs(aps[1], aps[0], samples[1], samples[0]), why


def _resample(cfg: CfgNode, folder: str, metric: str, ap: float) -> np.ndarray:
    """Compute the metric of a training on R resamples of the test images, with shape (R,).

    Raises:
        OSError, ValueError: why it cannot be computed.
    """
    test, *others = cfg.DATASETS.TEST
    meta, (task, name) = MetadataCatalog.get(test), metric.split("/", 1)
    kind = meta.get("evaluator_type")
    if kind != "coco":
        raise ValueError(f"{test} is scored as {kind!r}, and only what COCO scores is resampled")
    if others:
        raise ValueError(f"the detections on {test} are not kept where there are more test sets")
    file = os.path.join(folder, "inference", RESULTS_FILE)
    scored = resampled_ap(file, os.fspath(meta.json_file), task, metric=name)
    if abs(scored.ap - ap) > SAME_AP:
        raise ValueError(
            f"{os.path.relpath(file, os.path.dirname(folder))} has {metric} {scored.ap:.2f}, and its "
            f"test had {ap:.2f}: it is of another test"
        )
    return scored.resampled


def _hand_over(
    comparison: PairedComparison | None, *, is_baseline: bool, take_found: bool
) -> HandedOver:
    if is_baseline:
        return HandedOver(BASELINE, "final.yaml is the baseline.")
    if comparison and comparison.verdict == "better":
        return HandedOver(FOUND, "final.yaml is the network that was found.")
    key = "SEARCH.RECIPE.TAKE_FOUND"
    if take_found:
        return HandedOver(
            FOUND, f"final.yaml is the network that was found all the same, as {key} is True."
        )
    return HandedOver(
        BASELINE, f"final.yaml is the baseline; with {key} True it is the network that was found."
    )


def _ranking(
    procedure: Procedure, steps: Sequence[Step], search: Step, result: Mapping[str, Any]
) -> SearchRanking:
    """Get the quality of a search's ranking, measured also by its short list under the budget."""
    shortlists = [
        it for it in steps if it.kind is Kind.SHORTLIST and it.architecture == search.name
    ]
    folders = [procedure.path(shortlist.name) for shortlist in shortlists]
    rankings = result["rankings"]
    ranking = rankings.get(steps[-1].budget) or next(iter(rankings.values()))
    return SearchRanking(
        step=search.name,
        codes=len(ranking["ranking"]),
        undistinguished=ranking["undistinguished"],
        alone=tuple(itertools.chain(*map(_agreements, folders))),
        checkpoints=tuple(map(tuple, itertools.chain(*map(read_taus, folders)))),
    )


def _agreements(folder: str) -> Iterator[dict[str, Any]]:
    """Iterate over the rungs of a short list in which codes with a supernet score were trained."""
    result = ShortlistResult.read(folder)
    for rung in result.rungs:
        if agreement := agree_in_rung(result, rung):
            yield {"iterations": rung.iterations, **agreement.as_json()}


def _state_data(
    procedure: Procedure,
    steps: Sequence[Step],
    final: CfgNode,
    results: Iterable[Mapping[str, Any]],
    not_resampled: str,
) -> DataStatement:
    cfgs = {step: procedure.config(step) for step in steps}
    detectors = [c for c in cfgs.values() if c.MODEL.META_ARCHITECTURE != "ImageClassifier"]
    copies = {
        f"{pair['part']} in {pair['other']}": pair["with_copy"]
        for result in results
        for pair in result["searched"]["near_copies"]
    }
    tested = final.DATASETS.TEST
    trainings = [
        procedure.config(step)
        for step in steps
        if step.kind is Kind.TRAINING and not procedure.look()[step.name].folder
    ]
    return DataStatement(
        trained=_count(detectors, "TRAIN"),
        chose=_count([cfg for step, cfg in cfgs.items() if step.searches], "TEST"),
        tested=_count([final], "TEST"),
        looks=sum(tests_of(cfg) for cfg in trainings if tested[0] in cfg.DATASETS.TEST),
        near_copies=copies,
        not_resampled=not_resampled,
    )


def _count(cfgs: Sequence[CfgNode], part: str) -> dict[str, int]:
    """Count the images of each dataset."""
    data = {name: cfg.DATASETS for cfg in cfgs for name in cfg.DATASETS[part]}
    return {name: len(image_files(name, datasets)) for name, datasets in data.items()}


def tests_of(cfg: CfgNode) -> int:
    """Count the tests in an uninterrupted training.

    It tests every ``TEST.EVAL_PERIOD`` iterations, at the end, and then again with test-time
    augmentation if that is enabled.
    """
    period = cfg.TEST.EVAL_PERIOD
    before_the_end = (cfg.SOLVER.MAX_ITER - 1) // period if period > 0 else 0
    return before_the_end + 1 + cfg.TEST.AUG.ENABLED
