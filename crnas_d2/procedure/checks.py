"""The checks of a procedure: every fault of a later step is found before the first one runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from detectron2.config import CfgNode
from detectron2.utils import comm

from ..engine.examination import call
from ..engine.setup import check_data_sets, check_network
from ..evaluation.metric import check_metric
from .data_use import DataUse, check_data
from .outputs import check_outputs, files_read
from .supernet_search import settled

if TYPE_CHECKING:
    from .procedure import Procedure


def check_procedure(
    procedure: Procedure, check: Callable[..., Any] = call, *, makes: bool = True, splits: str = ""
) -> None:
    """Find every fault of a later step before the first one runs.

    Args:
        check: runs each check, also where an earlier one has found something.
        makes: data sets that are made at first use, or else they are not checked.
        splits: folder of archtrain and archval; empty is the config's.

    Raises:
        ValueError, FileNotFoundError: the first fault; or what ``check`` does instead.
    """
    check(_check_outputs, procedure)
    for step in procedure.steps:
        cfg = check(procedure.config, step)
        if cfg is None:
            continue
        cfg.DATASETS.ARCHVAL.DIR = splits or cfg.DATASETS.ARCHVAL.DIR
        check_network(cfg, training=not step.searches, has_weights=not step.weights, check=check)
        if step.searches:
            check(settled, cfg)
        check(_check_data, cfg, searches=step.searches, makes=makes)
    check(_check_begun, procedure)
    if comm.is_main_process():
        check_data(check(_uses_of_data, procedure) or [], check, makes=makes)
    comm.synchronize()  # as the next thing is that files are written


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
    folders = [step.name for step in open_steps]
    check_outputs(procedure.output, folders, files_read(configs, cfgs))


def _check_begun(procedure: Procedure) -> None:
    """Refuse a step that was begun with something else, if all that it starts from is there."""
    for standing in procedure.look().values():
        standing.refuse_changes()


def _check_data(cfg: CfgNode, *, searches: bool, makes: bool) -> None:
    """Of a step, and that a search can rank by them."""
    check_data_sets(cfg, training=not searches, makes=makes)
    if searches:
        check_metric(settled(cfg))


def _uses_of_data(procedure: Procedure) -> list[DataUse]:
    """Of every step; of the final detector also where it is not trained here."""
    uses = [
        DataUse(step.name, procedure.config(step), searches=step.searches)
        for step in procedure.steps
    ]
    final = procedure.final_config()
    return [*uses, DataUse("SEARCH.FINAL", final, tests=True)] if final else uses
