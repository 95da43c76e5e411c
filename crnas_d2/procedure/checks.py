"""Checks of a procedure, which find every fault of a later step before the first one runs."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm

from ..config import read_config
from ..data.labels import is_labeled
from ..data.parts import count_images
from ..data.shared_images import is_made_at_first_use
from ..engine.config_check import check_network
from ..engine.examination import NotYet, call, telling_places
from ..engine.model_check import check_model
from ..engine.setup import check_apart, check_datasets, check_run
from ..evaluation.metric import check_counted, check_metric, check_metric_name
from ..main_process import decided_by_main
from ..search.result import RESULT_FILE
from ..search.study import find_rungs
from .data_use import DataUse, check_data
from .final_config import read_baseline
from .latency import check_latencies
from .networks import final_steps
from .outputs import OF_A_RECIPE, check_outputs, check_search_outputs, files_read
from .readme import README_FILE
from .recipe import find_config, folder_of
from .search_extent import get_space, planned_evaluations
from .search_keys import settled
from .shortlist_plan import configs_of
from .steps import Kind, Step

if TYPE_CHECKING:
    from .procedure import Procedure


def check_before_run(procedure: Procedure) -> None:
    """Check a procedure, then register its datasets, which splits archtrain and archval.

    Nothing is written for a procedure that is refused.

    Raises:
        ValueError, FileNotFoundError: the first fault.
    """
    cfgs = list(map(procedure.config, procedure.steps))
    check_apart(cfgs, lambda folder: check_procedure(procedure, splits=folder))
    check_procedure(procedure)
    comm.synchronize()  # files are written from here on


def check_procedure(
    procedure: Procedure, check: Callable[..., Any] = call, *, makes: bool = True, splits: str = ""
) -> None:
    """Find every fault of a later step before the first one runs.

    Args:
        procedure: the procedure to check.
        check: runs each check, even if an earlier one has found something.
        makes: whether datasets that are generated on first use may be generated. If not, they are
            not checked.
        splits: folder of archtrain and archval. By default that of the config.

    Raises:
        ValueError, FileNotFoundError: the first fault, unless ``check`` handles it otherwise.
    """
    check(_check_outputs, procedure)
    recipe, final = procedure.recipe, check(procedure.final_config)
    for step in procedure.steps:
        check_step = telling_places(check, step.config, recipe.opts, [recipe.path])
        for file, cfg, has_weights in check_step(configs_of, procedure, step) or []:
            check_here = telling_places(check, file, recipe.opts, [recipe.path])
            cfg.DATASETS.ARCHVAL.DIR = splits or cfg.DATASETS.ARCHVAL.DIR
            taken = check_network(
                cfg, training=not step.searches, has_weights=has_weights, check=check_here
            )
            if taken is None:
                continue
            if step.searches:
                check_here(check_space, cfg, final, is_known=not step.architecture)
            else:
                check_here(check_model, cfg)  # a search builds the model of its supernet
            check_here(_check_data, cfg, step, makes=makes)
    if final:
        check_final = telling_places(check, recipe.names["FINAL"], recipe.opts, [recipe.path])
        if final_steps(procedure, recipe.budgets[0]):
            check_final(_check_compared, procedure, final, makes=makes)
        elif all(step.config != recipe.names["FINAL"] for step in procedure.steps):
            _check_untrained(final, check_final)
    check(_check_begun, procedure)
    if comm.is_main_process():
        check_data(check(_uses_of_data, procedure) or [], check, makes=makes)


def check_before_search(args: argparse.Namespace) -> None:
    """Same as :func:`check_before_run`, for a search over one supernet.

    Args:
        args: arguments of the command.
    """
    cfg = read_config(args.config_file, args.opts)
    check_apart([cfg], lambda folder: check_search(args, splits=folder))
    check_search(args)
    comm.synchronize()  # files are written from here on


def check_search(
    args: argparse.Namespace,
    check: Callable[..., Any] = call,
    *,
    makes: bool = True,
    splits: str = "",
) -> tuple[CfgNode, CfgNode | None]:
    """Same as :func:`check_procedure`, for a search over one supernet.

    Returns:
        The config of the search, and that of the final detector if there is one without a fault.
    """
    cfg = read_config(args.config_file, args.opts)
    cfg.DATASETS.ARCHVAL.DIR = splits or cfg.DATASETS.ARCHVAL.DIR
    check(check_search_outputs, cfg, args.config_file)
    decide = call if splits else decided_by_main  # only the main process makes a temporary split
    check_run(cfg, args, check, makes=makes, decide=decide)
    final = check(read_baseline, cfg, args.config_file, args.opts)
    check_here = telling_places(check, args.config_file, args.opts)
    check_here(check_space, cfg, final)
    if all(name in DatasetCatalog for name in cfg.DATASETS.TEST):
        check_here(_check_scores, cfg)
    if final:
        file = find_config("SEARCH.FINAL", cfg.SEARCH.FINAL, args.config_file)
        _check_untrained(final, telling_places(check, file, args.opts))
        if comm.is_main_process():
            uses = [
                DataUse("the search", cfg, searches=True),
                DataUse("SEARCH.FINAL", final, tests=True),
            ]
            check_data(uses, check, makes=makes)
    return cfg, final


def _check_untrained(cfg: CfgNode, check: Callable[..., Any]) -> None:
    """Check a final detector that is not trained here, except for its weights and images."""
    if check_network(cfg, training=True, has_weights=False, check=check) is not None:
        check(check_model, cfg)


def _check_compared(procedure: Procedure, final: CfgNode, *, makes: bool) -> None:
    """Check that the test of the final detectors yields the metric by which they are compared.

    A test set that has no annotations or that COCO does not score is accepted, although little or
    nothing can be compared on it.
    """
    if not final.DATASETS.TEST:
        raise ValueError(
            "DATASETS.TEST is empty; expected a test set, on which the final detectors are compared"
        )
    final = final.clone()
    final.SEARCH.METRIC = procedure.config(procedure.searches[-1]).SEARCH.METRIC
    check_metric_name(final)
    test = final.DATASETS.TEST[0]
    if not makes and is_made_at_first_use(test):
        raise NotYet(f"the dataset {test!r}, which is made when it is first used")
    if test in DatasetCatalog and MetadataCatalog.get(test).get("evaluator_type") == "coco":
        if os.path.isfile(MetadataCatalog.get(test).json_file) and is_labeled(test):
            check_counted(final)


def check_space(cfg: CfgNode, final_cfg: CfgNode | None = None, *, is_known: bool = True) -> None:
    """Check all settings of what a search evaluates.

    Args:
        cfg, final_cfg: as in :func:`~crnas_d2.procedure.supernet_search.run_search`.
        is_known: whether the stage code of an operation search is known. Otherwise an earlier step
            finds it.

    Raises:
        ValueError: a setting is invalid. The message names the key.
    """
    cfg = settled(cfg)
    check_latencies(cfg, final_cfg, get_space(cfg))
    planned_evaluations(cfg, final_cfg)
    most, wanted = get_space(cfg).size, cfg.SEARCH.EVALUATIONS
    if wanted > most and cfg.SEARCH.STRATEGY != "greedy" and is_known:
        raise ValueError(
            f"SEARCH.EVALUATIONS is {wanted}; expected at most {most}, which is all of the space"
        )


def _check_outputs(procedure: Procedure) -> None:
    recipe, standings = procedure.recipe, procedure.look()
    open_steps = [step for step in procedure.steps if not standings[step.name].done]
    cfgs = []
    for step in open_steps:
        cfgs.append(recipe.config(step.config))
        if step.weights:
            cfgs[-1].MODEL.WEIGHTS = ""
        elif recipe.seed:
            recipe.seed.put_into(cfgs[-1])
    configs = [recipe.path, *filter(None, recipe.names.values())]
    written = [step.name for step in open_steps]
    written += [
        README_FILE,
        RESULT_FILE,
        *(folder_of(b) + name for b in recipe.budgets for name in OF_A_RECIPE),
    ]
    check_outputs(procedure.output, written, files_read(configs, cfgs))


def _check_begun(procedure: Procedure) -> None:
    """Refuse a step that was begun with other settings, if all of its inputs exist."""
    for standing in procedure.look().values():
        standing.refuse_changes()


def _check_data(cfg: CfgNode, step: Step, *, makes: bool) -> None:
    """Check the datasets of a step."""
    check_datasets(cfg, training=not step.searches, makes=makes)
    if step.searches:
        _check_scores(cfg)
    elif step.kind is Kind.SHORTLIST and cfg.DATASETS.TEST:
        check_metric(cfg)


def _check_scores(cfg: CfgNode) -> None:
    """Check that a search can compare architectures on its archval, which is registered."""
    cfg = settled(cfg)
    check_metric(cfg)
    find_rungs(cfg, count_images(cfg))


def _uses_of_data(procedure: Procedure) -> list[DataUse]:
    """List the uses of data of all steps, and of the final detector even if not trained here."""
    uses = [
        DataUse(step.name, cfg, searches=step.finds)
        for step in procedure.steps
        for _, cfg, _ in configs_of(procedure, step)
    ]
    final = procedure.final_config()
    return [*uses, DataUse("SEARCH.FINAL", final, tests=True)] if final else uses
