"""A search over one supernet, for the stage code (equation 1) or the operation code (Algorithm 1)."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.utils import comm

from ..architecture import Architecture, Code
from ..checkpoint.trained import load_trained
from ..data.cache import state_of
from ..data.copies import copies_between_parts
from ..data.parts import table_of_parts
from ..engine import CRTrainer
from ..engine.sync_bn import without_sync_bn
from ..evaluation.evaluator import ArchitectureEvaluator
from ..evaluation.metric import check_metric
from ..evaluation.rank_agreement import count_level
from ..files import file_sha256
from ..lock import folder_lock
from ..search.evolutionary_search import evolutionary_search
from ..search.ledger import Ledger
from ..search.limits import Limits
from ..search.operation_search import greedy_operation_search
from ..search.progress import Progress
from ..search.random_search import random_search
from ..search.ranking import AllFailedError, Ranking
from ..search.result import SearchResult
from ..search.stage_search import stage_search
from ..search.study import Study
from ..spaces import OperationSpace, StageSpace
from .identity import evaluation_settings
from .latency import measure_if_cost
from .search_extent import count_evaluations, get_limits, get_space
from .search_keys import settled


def run_search(
    cfg: CfgNode,
    final_cfg: CfgNode | None = None,
    seed_weights: Mapping[str, str] | None = None,
) -> SearchResult:
    """Search the space of a trained supernet.

    A stage supernet is searched for the stage code, a dilation supernet for the operation code.
    ``OUTPUT_DIR/ledger.sqlite`` records every evaluation, so that the same search resumes where it
    was interrupted. A search with other settings is refused.

    Args:
        cfg: config of the supernet detector, see :func:`crnas_d2.engine.setup`.
        final_cfg: config of the detector whose cost is counted if the budgets depend on it. By
            default that of the supernet, which has fewer channels in the ResNet series.
        seed_weights: name and SHA-256 of the weights that the supernet was trained from, to be
            recorded in the result. None if they are unknown.

    Returns:
        The result, on every rank. It is also written to ``OUTPUT_DIR``.

    Raises:
        ValueError: a value in the config is invalid here, or the ledger was created with other
            settings.
        AllFailedError: every architecture failed.
    """
    cfg = settled(cfg)
    space = get_space(cfg)
    check_metric(cfg)
    measure_if_cost(cfg, final_cfg, space)
    weights = state_of(cfg.MODEL.WEIGHTS)
    sha256 = file_sha256(cfg.MODEL.WEIGHTS) if comm.is_main_process() else ""
    model = CRTrainer.build_model(without_sync_bn(cfg, "an evaluation needs no other"))
    load_trained(model, cfg, cfg.MODEL.WEIGHTS, part=model)
    if state_of(cfg.MODEL.WEIGHTS) != weights:
        raise RuntimeError(f"{cfg.MODEL.WEIGHTS} was replaced while it was read; start again")
    evaluator = ArchitectureEvaluator(cfg, model)
    limits = get_limits(cfg, final_cfg, space)
    expected = count_evaluations(cfg, space, limits)
    with contextlib.ExitStack() as stack:
        ledger = None
        if comm.is_main_process():
            stack.enter_context(folder_lock(cfg.OUTPUT_DIR))
            path = os.path.join(cfg.OUTPUT_DIR, "ledger.sqlite")
            settings = evaluation_settings(cfg, sha256)
            ledger = stack.enter_context(Ledger(path, settings))
        progress = Progress(cfg.OUTPUT_DIR, cfg.SEARCH.METRIC, expected, evaluator.image_passes)
        study = Study(cfg, evaluator, ledger, stack.enter_context(progress))
        try:
            if limits:
                result = _search_stages(cfg, limits, study)
            else:
                assert isinstance(space, OperationSpace)  # which alone has no limits
                result = _search_operations(cfg, space, study, expected)
        except AllFailedError as error:
            reasons = Counter(trial.reason for trial in study.done.values() if trial.reason)
            told = ", ".join(f"{reason} ({count})" for reason, count in reasons.items())
            raise AllFailedError(f"{error}: {told}") from None
        if comm.is_main_process():
            searched = _searched(cfg, model, space, seed_weights)
            table = table_of_parts(cfg, final_cfg)
            searched["classes"] = table and table.as_json()
            copies = copies_between_parts(cfg, final_cfg)
            searched["near_copies"] = [comparison.as_json() for comparison in copies]
            result.write(cfg.OUTPUT_DIR, searched)
    comm.synchronize()
    return result


def _searched(
    cfg: CfgNode,
    model: nn.Module,
    space: StageSpace | OperationSpace,
    seed_weights: Mapping[str, str] | None,
) -> dict[str, Any]:
    """Describe what the architectures were chosen from, with which weights, and on what data."""
    archval = cfg.DATASETS.TEST[0]
    if isinstance(space, StageSpace):
        choices: dict[str, Any] = {"stage_choices": space.choices}
    else:
        choices = {"stage_code": space.stage_code, "operations": space.operations}
    return {
        "supernet": {
            "backbone": cfg.MODEL.BACKBONE.NAME,
            "sha256": tensors_sha256(model),
            "seed_weights": seed_weights,
        },
        "space": {"family": cfg.MODEL.CR.FAMILY, **choices},
        "archval": {"name": archval, "sha256": file_sha256(MetadataCatalog.get(archval).json_file)},
    }


def tensors_sha256(model: nn.Module) -> str:
    """Compute the SHA-256 of the names and bytes of a model's tensors, sorted by name.

    Unlike that of a checkpoint file, it does not depend on how the training got there.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _search_stages(cfg: CfgNode, limits: Limits, study: Study) -> SearchResult:
    rankings = stage_search(
        limits.space, limits.budgets, study, limits.tolerance, limits.cost, limits.at_most
    )
    best = next(iter(rankings.values())).best
    named = {str(budget): ranking for budget, ranking in rankings.items()}
    return _result(cfg, "stage", Architecture(best), named, study, limits=limits)


def _search_operations(
    cfg: CfgNode, space: OperationSpace, study: Study, count: int
) -> SearchResult:
    search = cfg.SEARCH
    survivors: Sequence[Sequence[tuple[Code, float]]] = ()
    if search.STRATEGY == "greedy":
        found = greedy_operation_search(space, study, search.SURVIVORS)
        ranking, survivors = found.ranking, found.survivors
    elif search.STRATEGY == "random":
        ranking = random_search(space, study, count, search.SEED)
    else:
        ranking = evolutionary_search(space, study, count, search.SEED)
    architecture = Architecture(space.stage_code, ranking.best)
    return _result(cfg, "operation", architecture, {"all": ranking}, study, survivors)


def _result(
    cfg: CfgNode,
    step: str,
    architecture: Architecture,
    rankings: dict[str, Ranking],
    study: Study,
    survivors: Sequence[Sequence[tuple[Code, float]]] = (),
    limits: Limits | None = None,
) -> SearchResult:
    metric = cfg.SEARCH.METRIC
    return SearchResult(
        step=step,
        metric=metric,
        architecture=architecture,
        rankings=rankings,
        undistinguished={
            name: count_level(ranking, study.done, metric) for name, ranking in rankings.items()
        },
        survivors=survivors,
        statuses={code: trial.status for code, trial in study.done.items()},
        limits=limits,
    )
