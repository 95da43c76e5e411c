"""Measure on this device the latencies that a search needs if SEARCH.COST is "latency".

A search on another machine can then read them.

crnas latency --config-file Search/R_50.yaml --output jetson.csv \\
    SEARCH.COST latency SEARCH.BUDGETS "[120]" SEARCH.TOLERANCE 0.05
crnas search --config-file Search/R_50.yaml SEARCH.LATENCY.FILE jetson.csv \\
    SEARCH.COST latency SEARCH.BUDGETS "[120]" SEARCH.TOLERANCE 0.05

Stopped at any moment, the same command goes on. The datasets need not be here: without them the
numbers of classes are those of the configs, such as MODEL.ROI_HEADS.NUM_CLASSES.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence

from detectron2.config import CfgNode

from ..config import default_config, read_config
from ..config_files import find_config_file
from ..data import setup_datasets
from ..engine import terminal
from ..engine.config_check import check_network
from ..procedure import Recipe, is_recipe
from ..procedure.final_config import read_final
from ..procedure.latency import detector_of, measure_latencies
from ..procedure.search_extent import describe_limits, get_space
from ..search.latencies import LATENCY_FILE
from ..spaces import StageSpace
from .command_line import command, command_parser

logger = logging.getLogger(__name__)


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = command_parser(__doc__)
    parser.add_argument(
        "--config-file", metavar="FILE", required=True, help="a recipe, or a search's config"
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        help=f"table to write (default: SEARCH.LATENCY.FILE, or {LATENCY_FILE})",
    )
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="config keys and values")
    args = parser.parse_args(argv)
    terminal.open_terminal()

    cfg, final_cfg = read_search(find_config_file(args.config_file), args.opts)
    check_network(cfg, training=False, has_weights=False)
    space = get_space(cfg)
    if cfg.SEARCH.COST != "latency" or not isinstance(space, StageSpace):
        raise ValueError(
            f"SEARCH.COST is {cfg.SEARCH.COST!r}, and the supernet {cfg.MODEL.BACKBONE.NAME!r}; "
            "expected 'latency', and a stage supernet"
        )
    cfg.SEARCH.LATENCY.FILE = args.output or cfg.SEARCH.LATENCY.FILE or LATENCY_FILE
    measure_latencies(cfg, space, detector_of(cfg, final_cfg), cfg.SEARCH.LATENCY.FILE)
    print(describe_limits(cfg, final_cfg))
    print(f"wrote {cfg.SEARCH.LATENCY.FILE}")


def read_search(path: str, opts: Sequence[str]) -> tuple[CfgNode, CfgNode | None]:
    """Read the configs of a stage search and of the detector that it is for.

    Datasets that do not exist here are removed from them.
    """
    cfg = read_config(path, opts)
    if is_recipe(cfg):
        recipe = Recipe(path, opts)
        supernet, final = (recipe.names[key] for key in ("STAGE_SUPERNET", "FINAL"))
        if not supernet:
            raise ValueError(
                f"{path}: SEARCH.RECIPE.STAGE_SUPERNET is ''; expected a stage supernet"
            )
        cfg, final_cfg = recipe.config(supernet), recipe.config(final) if final else None
    else:
        final_cfg = read_final(cfg, path, opts)
    of_classes = final_cfg or cfg
    try:
        setup_datasets(of_classes)
    except FileNotFoundError as error:
        logger.warning(f"{error}. The numbers of classes are those of the config")
        of_classes.DATASETS = default_config().DATASETS
    return cfg, final_cfg
