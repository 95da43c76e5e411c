#!/usr/bin/env python3
"""Iterations per second of the whole training loop, and its share of waiting for data.

training_loop.py --config-file configs/Digits/stage_supernet_R_18_FPN.yaml --workers 0 2
training_loop.py --config-file ... --iterations 200 --opts SOLVER.IMS_PER_BATCH 4

Runs the trainer of train_net.py, including hooks and logs, but without evaluation and checkpoints,
once for each number of data workers. Its output goes to a folder that is removed at the end.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence

import torch
from tabulate import tabulate

from crnas_d2.engine import CRTrainer, setup

from detectron2.engine import default_argument_parser
from detectron2.engine.hooks import CallbackHook

HEADER = ["workers", "iterations / s", "images / s", "s / iteration", "waiting for data"]


def measure(args: argparse.Namespace, workers: int) -> list:
    """Get a row of the table."""
    with tempfile.TemporaryDirectory() as output:
        opts = [
            *args.opts,
            *("DATALOADER.NUM_WORKERS", str(workers), "OUTPUT_DIR", output),
            *("SOLVER.MAX_ITER", str(args.warmup + args.iterations), "SOLVER.STEPS", "()"),
            *("TEST.EVAL_PERIOD", "0", "DATASETS.TEST", "()"),
        ]
        train_net_args = ["--config-file", args.config_file, *opts]
        cfg = setup(default_argument_parser().parse_args(train_net_args))
        trainer = CRTrainer(cfg)
        ends = []
        trainer.register_hooks(
            [CallbackHook(after_step=lambda _: ends.append(time.perf_counter()))]
        )
        trainer.train()
        waited = [seconds for seconds, _ in trainer.storage.history("data_time").values()]
    seconds = ends[-1] - ends[args.warmup - 1]
    return [
        workers,
        args.iterations / seconds,
        args.iterations * cfg.SOLVER.IMS_PER_BATCH / seconds,
        seconds / args.iterations,
        f"{sum(waited[args.warmup :]) / seconds:.1%}",
    ]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", metavar="FILE", required=True)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--iterations", type=int, default=50, help="timed (default: 50)")
    parser.add_argument("--warmup", type=int, default=5, help="not timed (default: 5)")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="config keys, values")
    args = parser.parse_args(argv)
    rows = [measure(args, workers) for workers in args.workers]
    print(f"{torch.get_num_threads()} thread(s), torch {torch.__version__}")
    print(tabulate(rows, HEADER, tablefmt="github", floatfmt=".3f"))


if __name__ == "__main__":
    main()
