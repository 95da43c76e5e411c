#!/usr/bin/env python3
"""Search an architecture over a trained supernet, or run the whole procedure of a recipe.

search_net.py --config-file configs/Search/R_50.yaml --num-gpus 8 OUTPUT_DIR output/search
search_net.py --config-file configs/Search/R_50.yaml --dry-run
search_net.py --config-file configs/Supernet/stage_supernet_R_50_FPN.yaml --num-gpus 8 \\
    MODEL.WEIGHTS output/supernet/model_final.pth OUTPUT_DIR output/stage_search

Stopped at any moment, the same command goes on. OUTPUT_DIR/report/index.html shows the search.
"""

import argparse

from crnas_d2.config import read_config
from crnas_d2.engine import launch, setup
from crnas_d2.report import report_procedure, report_search
from crnas_d2.search import Procedure, Recipe, is_recipe, run_search
from crnas_d2.search.recipe import find_config
from crnas_d2.search.result import write_final
from detectron2.engine import default_argument_parser
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger


def main(args: argparse.Namespace) -> None:
    cfg = read_config(args.config_file, args.opts)
    if is_recipe(cfg):
        setup_logger(distributed_rank=comm.get_rank(), name="crnas_d2")
        procedure = Procedure(Recipe(args.config_file, args.opts))
        table = procedure.run(report=lambda: report_procedure(procedure))
    else:
        table = search(args)
    if comm.is_main_process():
        print(table)


def search(args: argparse.Namespace) -> str:
    """Search over one trained supernet."""
    cfg = setup(args)
    final_cfg = None
    if cfg.SEARCH.FINAL:
        final = find_config("SEARCH.FINAL", cfg.SEARCH.FINAL, args.config_file)
        final_cfg = read_config(final)
    result = run_search(cfg, final_cfg)
    if comm.is_main_process():
        if final_cfg:
            write_final(cfg.OUTPUT_DIR, final, final_cfg, result.architecture)
        report_search(cfg, args.config_file, final_cfg, result)
    return result.table()


if __name__ == "__main__":
    parser = default_argument_parser()
    parser.add_argument(
        "--dry-run", action="store_true", help="print the steps of a recipe, their sizes and costs"
    )
    parser.set_defaults(eval_only=True)  # of the supernet; there is nothing to train or to resume
    args = parser.parse_args()
    if not args.config_file:
        parser.error("--config-file is missing")
    if args.dry_run:
        print(Procedure(Recipe(args.config_file, args.opts)).describe())
    else:
        launch(main, args)
