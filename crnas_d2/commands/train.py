"""Train or evaluate a detector with a CR backbone, as Detectron2's own tools/train_net.py does.

crnas train --config-file COCO-Detection/faster_rcnn_CR_R_50_FPN_1x.yaml --num-gpus 8
crnas train --config-file ... --eval-only MODEL.WEIGHTS output/model_final.pth
torchrun --nproc-per-node 8 -m crnas_d2 train --config-file ...

On SIGTERM it saves the iteration that it has just finished and ends with exit code 143; the same
command with --resume goes on from there.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence

from detectron2.evaluation import verify_results
from detectron2.utils import comm

from ..checkpoint.checkpointer import find_checkpoint
from ..checkpoint.trained import load_trained
from ..engine import CRTrainer, launch, setup, terminal
from .command_line import command, parse_run, run_parser

logger = logging.getLogger(__name__)


@command
def main(argv: Sequence[str] | None = None) -> None:
    launch(train, parse_run(run_parser(__doc__), argv))


def train(args: argparse.Namespace) -> dict | None:
    """Train or evaluate, in each process of the job. Returns the results of the last test."""
    cfg = setup(args)

    if args.eval_only:
        model = CRTrainer.build_model(cfg)
        checkpoint = find_checkpoint(cfg.OUTPUT_DIR) if args.resume else None
        load_trained(model, cfg, checkpoint or cfg.MODEL.WEIGHTS, part=model)
        with terminal.step("test"):
            results = CRTrainer.evaluate(cfg, model)
        logger.info(f"The detections and log.txt are in {cfg.OUTPUT_DIR}")
        if comm.is_main_process():
            verify_results(cfg, results)
        return results

    trainer = CRTrainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    with terminal.step("training"):
        results = trainer.train()
    logger.info(f"Weights, metrics, TensorBoard's events and log.txt are in {cfg.OUTPUT_DIR}")
    return results
