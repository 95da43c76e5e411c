"""Train or evaluate a detector with a CR backbone, as Detectron2's own tools/train_net.py does.

crnas train --config-file COCO-Detection/faster_rcnn_CR_R_50_FPN_1x.yaml --num-gpus 8
crnas train --config-file ... --dry-run
crnas train --config-file ... --eval-only MODEL.WEIGHTS output/model_final.pth
torchrun --nproc-per-node 8 -m crnas_d2 train --config-file ...

With --dry-run nothing is trained or written: all checks of a run are made, and all that is to be
mended is listed, with exit code 1, or it says that all is ready.

On SIGTERM it saves the iteration that it has just finished and ends with exit code 143; the same
command with --resume goes on from there.
"""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.evaluation import verify_results
from detectron2.utils import comm

from ..checkpoint.checkpointer import find_checkpoint
from ..checkpoint.trained import load_trained
from ..checkpoint.weights_file import read_checkpoint
from ..config import read_config
from ..data.catalog import warn_of_shared_images
from ..data.splits import passing_draws
from ..engine import CRTrainer, launch, setup, terminal
from ..engine.examination import Examination
from ..engine.setup import check_run
from ..main_process import decided_by_main
from ..paths import is_remote
from .command_line import command, end_dry_run, parse_run, run_parser

logger = logging.getLogger(__name__)


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = run_parser(__doc__)
    parser.add_argument(
        "--dry-run", action="store_true", help="check the config, the weights and the data, and end"
    )
    args = parse_run(parser, argv)
    if args.dry_run:
        dry_run(args)
    else:
        launch(train, args)


def dry_run(args: argparse.Namespace) -> None:
    """Print all faults that would stop a training or evaluation, or that there are none."""
    cfg = read_config(args.config_file, args.opts)
    found = Examination()
    found.examine_data(cfg)
    with passing_draws() as folder:
        cfg.DATASETS.ARCHVAL.DIR = folder
        check_run(cfg, args, found.check, makes=False)
        if found.is_ready and not args.eval_only:
            found.check(warn_of_shared_images, cfg)
    end_dry_run(found)


def train(args: argparse.Namespace) -> dict | None:
    """Train or evaluate in each process of the job, and return the results of the last test."""
    cfg = setup(args)

    if args.eval_only:
        model = CRTrainer.build_model(cfg)
        weights = cfg.MODEL.WEIGHTS
        if args.resume:
            weights = decided_by_main(lambda: find_checkpoint(cfg.OUTPUT_DIR)) or weights
        load_trained(model, cfg, weights, part=model)
        with terminal.step("test"):
            results = CRTrainer.evaluate(cfg, model)
        logger.info(f"The detections and log.txt are in {cfg.OUTPUT_DIR}")
        if comm.is_main_process():
            verify_results(cfg, results)
        return results

    if args.resume and decided_by_main(lambda: is_over_for_good(cfg)):
        logger.info(f"The training in {cfg.OUTPUT_DIR} is done, and nothing can be written there")
        return None
    trainer = CRTrainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    with terminal.step("training"):
        last_results = trainer.train()
    logger.info(f"Weights, metrics, TensorBoard's events and log.txt are in {cfg.OUTPUT_DIR}")
    return last_results


def is_over_for_good(cfg: CfgNode) -> bool:
    """Whether the training is finished in a folder to which no test could write its results."""
    if os.access(cfg.OUTPUT_DIR, os.W_OK) or is_remote(cfg.OUTPUT_DIR):
        return False
    checkpoint = find_checkpoint(cfg.OUTPUT_DIR, cfg.SOLVER.MAX_ITER)
    if checkpoint is None:
        return False
    return read_checkpoint(checkpoint)["iteration"] + 1 >= cfg.SOLVER.MAX_ITER
