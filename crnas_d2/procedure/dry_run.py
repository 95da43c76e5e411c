"""A dry run of a search, which reports all faults without running anything."""

from __future__ import annotations

import argparse

from detectron2.config import CfgNode

from ..config import read_config
from ..data.copies import foretell_copies
from ..data.parts import count_images, describe_parts, table_of_parts
from ..data.splits import passing_draws
from ..engine.examination import Examination
from .checks import check_procedure, check_search
from .procedure import Procedure
from .recipe import Recipe
from .search_extent import describe_limits, planned_evaluations
from .search_keys import settled


def examine_recipe(recipe: Recipe, processes: int = 1) -> tuple[Procedure | None, Examination]:
    """Check the configs, weights and datasets of a recipe.

    Nothing is written except the cached results of the checks.

    Args:
        recipe: the recipe.
        processes: number of processes that would share the work.

    Returns:
        The procedure of the recipe, or None if its configs do not fit together, and the findings of
        all checks.
    """
    found = Examination()
    for path in filter(None, recipe.names.values()):
        cfg = found.check(recipe.config, path)
        if cfg is not None:
            found.examine_data(cfg)
    procedure = found.check(Procedure, recipe, processes)
    if procedure:
        with passing_draws() as folder:
            check_procedure(procedure, found.check, makes=False, splits=folder)
    return procedure, found


def examine_search(args: argparse.Namespace) -> tuple[str | None, Examination]:
    """Check a search over one supernet.

    Args:
        args: arguments of the command.

    Returns:
        A description of the search's size, or None if it cannot be determined, and the findings of
        all checks, as in :func:`examine_recipe`.
    """
    cfg = read_config(args.config_file, args.opts)
    found = Examination()
    found.examine_data(cfg)
    with passing_draws() as folder:
        cfg, final_cfg = check_search(args, found.check, makes=False, splits=folder)
    return found.check(_describe, cfg, final_cfg), found


def _describe(cfg: CfgNode, final_cfg: CfgNode | None) -> str:
    count = planned_evaluations(settled(cfg), final_cfg)
    size = f"{'?' if count is None else f'{count:,}'} architectures x {count_images(cfg):,} images"
    limits = describe_limits(cfg, final_cfg)
    table = table_of_parts(cfg, final_cfg, makes=False)
    parts = describe_parts(table) if table else ""
    return "\n".join(filter(None, [size, limits, parts, foretell_copies(cfg, final_cfg)]))
