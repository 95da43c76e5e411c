"""Search an architecture over a trained supernet, or run the whole procedure of a recipe.

crnas search --config-file Search/R_50.yaml --num-gpus 8 OUTPUT_DIR output/search
crnas search --config-file Search/R_50.yaml --dry-run --measure
crnas search --config-file Supernet/stage_supernet_R_50_FPN.yaml --num-gpus 8 \\
    MODEL.WEIGHTS output/supernet/model_final.pth OUTPUT_DIR output/stage_search

Stopped at any moment, the same command goes on. OUTPUT_DIR/report/index.html shows the search.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.utils import comm

from ..config import read_config
from ..data.copies import copies_between_parts, tell_copies
from ..data.image_check import check_images
from ..data.parts import table_of_parts, tell
from ..engine import launch, terminal
from ..engine.setup import prepare
from ..main_process import decided_by_main
from ..procedure import Procedure, Recipe, is_recipe, run_search
from ..procedure.checks import check_before_search
from ..procedure.dry_run import examine_recipe, examine_search
from ..procedure.final_config import NOT_COMPARED, read_baseline, write_final
from ..procedure.outputs import report_if_possible
from ..procedure.overview import describe, measure_steps
from .command_line import command, end_dry_run, parse_run, run_parser


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = run_parser(__doc__)
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print the steps, their sizes and costs, and all that is to be mended; nothing is run",
    )
    parser.add_argument(
        "--measure",
        action="store_true",
        help="with --dry-run: run some mini-batches of each step, and tell how long it will take",
    )
    # of the supernet, as there is nothing to train or to resume
    parser.set_defaults(eval_only=True)
    args = parse_run(parser, argv)
    if args.measure and not args.dry_run:
        parser.error("--measure is for --dry-run")
    if args.dry_run:
        dry_run(args)
    else:
        launch(search, args)


def dry_run(args: argparse.Namespace) -> None:
    """Print the steps of a recipe or the size of a search, and all faults.

    With ``measure``, the time of each step of a recipe is estimated too.
    """
    if is_recipe(read_config(args.config_file, args.opts)):
        procedure, found = examine_recipe(
            Recipe(args.config_file, args.opts), args.num_gpus * args.num_machines
        )
        table = procedure and found.check(describe_steps, procedure, args)
    elif args.measure:
        raise ValueError(f"{args.config_file} names no steps; --measure is for a recipe")
    else:
        table, found = examine_search(args)
    if table:
        print(table)
    end_dry_run(found)


def describe_steps(procedure: Procedure, args: argparse.Namespace) -> str:
    """Describe the steps of a recipe, with their times if these are to be measured."""
    if not args.measure:
        return describe(procedure)
    terminal.open_terminal()
    logging.getLogger("crnas_d2").setLevel(logging.ERROR)  # warnings are shown at the end
    return describe(procedure, measure_steps(procedure, args.num_gpus * args.num_machines))


def search(args: argparse.Namespace) -> None:
    """Run the procedure of a recipe, or one search, in each process of the job."""
    from ..report import report_procedure  # not for a dry run, which draws nothing

    terminal.open_terminal(getattr(args, "verbose", False))
    cfg = read_config(args.config_file, args.opts)
    if is_recipe(cfg):
        procedure = Procedure(Recipe(args.config_file, args.opts))
        table = procedure.run(report=lambda changed: report_procedure(procedure, changed))
    else:
        table = search_supernet(args)
    if comm.is_main_process():
        print(table)


def search_supernet(args: argparse.Namespace) -> str:
    """Search over one trained supernet, and describe the result."""
    from ..report import report_search

    check_before_search(args)
    cfg = prepare(read_config(args.config_file, args.opts), args)
    check_images(cfg)  # the norms use images of DATASETS.TRAIN
    final_cfg = read_baseline(cfg, args.config_file, args.opts)
    decided_by_main(lambda: tell_of_data(cfg, final_cfg))
    with terminal.step("search"):
        result = run_search(cfg, final_cfg)
    if comm.is_main_process():
        if final_cfg:
            write_final(cfg.OUTPUT_DIR, final_cfg, result.architecture)
        with report_if_possible():
            report_search(cfg, args.config_file, final_cfg, result)
    return f"{result.table()}\n\nThe first one is in architecture.yaml. {NOT_COMPARED}"


def tell_of_data(cfg: CfgNode, final_cfg: CfgNode | None) -> None:
    """Log the class counts of each part, and near-duplicates between the parts."""
    table = table_of_parts(cfg, final_cfg)
    if table:
        tell(table)
    tell_copies(copies_between_parts(cfg, final_cfg), cfg.OUTPUT_DIR)
