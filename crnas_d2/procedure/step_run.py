"""The execution of a step, with the files that every step leaves in its folder."""

from __future__ import annotations

import argparse
import gc
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from detectron2.config import CfgNode
from detectron2.utils import comm

from ..config import default_config
from ..engine import CRTrainer
from ..engine.setup import prepare
from ..main_process import decided_by_main
from .identity import Identity, product_sha256
from .state import DONE, StepState


def run_in_folder(
    folder: str,
    identify: Callable[[], Identity],
    products: Sequence[str],
    work: Callable[[], Mapping[str, Any]],
) -> None:
    """Run or resume a step. Every rank has to call this function.

    Args:
        folder: folder of the step.
        identify: gets the identity of the step. It is called on the main process only.
        products: names of the files that later steps read.
        work: runs the step, and returns the results that were measured at its end.
    """
    if comm.is_main_process():
        identity = identify()
        before = StepState.read(folder)
        if before:
            before.set_changes_aside(folder)
        StepState(identity).write(folder)
    comm.synchronize()
    began = time.perf_counter()
    results = work()
    gc.collect()
    torch.cuda.empty_cache()

    def end() -> None:
        hashes = {name: product_sha256(os.path.join(folder, name)) for name in products}
        seconds = time.perf_counter() - began
        StepState(identity, DONE, results, seconds, hashes).write(folder)

    decided_by_main(end)


def start_from(cfg: CfgNode, weights: str) -> None:
    """Make a training start from the weights of an earlier step, without any conversion."""
    settings = cfg.MODEL.INIT.SETTINGS
    cfg.MODEL.WEIGHTS, cfg.MODEL.INIT = weights, default_config().MODEL.INIT
    cfg.MODEL.INIT.SETTINGS = settings


def train(cfg: CfgNode, config: str) -> Mapping[str, Any]:
    """Train a detector or a classifier, resuming an interrupted run.

    Args:
        cfg: config whose ``OUTPUT_DIR`` is the folder of the step.
        config: file of the config.

    Returns:
        The results of the test at the end.
    """
    args = argparse.Namespace(resume=True, eval_only=False, config_file=config)
    trainer = CRTrainer(prepare(cfg, args))
    trainer.resume_or_load(resume=True)
    trainer.train()
    return getattr(trainer, "_last_eval_results", {})
