#!/usr/bin/env python3
"""Bytes that a rank sends in a training step of a supernet, against those of the path's gradients.

gradient_traffic.py --config-file Supernet/stage_supernet_R_50_FPN.yaml --steps 5

Two processes train the whole detector with gloo. All tensors that a rank passes to collectives are
counted: gradients, the message of a step, statistics of norms, losses, signals. "DDP" is the same
step with DistributedDataParallel(find_unused_parameters=True) instead of the reduction of active
gradients. Images are tiny, as their size does not affect that of a gradient.
"""

from __future__ import annotations

import argparse
import itertools
import os
from collections.abc import Sequence

import torch.distributed as dist
from synthetic import load_config, make_batch
from tabulate import tabulate
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from crnas_d2.engine.hooks import (
    ActiveGradientReduction,
    StopOnSignal,
    UniformPathSampling,
    find_supernet,
)
from crnas_d2.engine.shared_statistics import SharedStatistics
from crnas_d2.engine.step import Step

from detectron2.engine import HookBase, launch
from detectron2.modeling import build_model
from detectron2.solver import build_optimizer
from detectron2.utils import comm

MB = 10**6
HEADER = ["path", "active MB", "ours MB", "ours / active", "DDP MB", "DDP / active"]


class Traffic:
    """Counts the bytes of the tensors that this rank passes to torch's collectives."""

    def __init__(self):
        self._bytes = 0
        for name, position in (
            ("all_reduce", 0),
            ("broadcast", 0),
            ("gather", 0),
            ("all_gather", 1),
        ):
            self._count(name, position)

    def _count(self, name: str, position: int) -> None:
        collective = getattr(dist, name)

        def counted(*args, **kwargs):
            self._bytes += args[position].nbytes
            return collective(*args, **kwargs)

        for module in (dist, dist.distributed_c10d):  # the latter for collectives of objects
            setattr(module, name, counted)

    def take(self) -> int:
        """Get the number of bytes since the last call."""
        taken, self._bytes = self._bytes, 0
        return taken


class Recorder(HookBase):
    """Records the path, the bytes of its gradients, and the traffic of each step."""

    def __init__(self, traffic: Traffic):
        self._traffic = traffic
        self.steps: list[tuple[str, int, int]] = []

    def before_train(self) -> None:
        self._traffic.take()

    def after_step(self) -> None:
        gradients = [p.grad for p in self.trainer.model.parameters() if p.grad is not None]
        path = "-".join(map(str, find_supernet(self.trainer.model).path))
        self.steps.append((path, sum(g.nbytes for g in gradients), self._traffic.take()))


def train(args: argparse.Namespace, traffic: Traffic, by_ddp: bool) -> list[tuple[str, int, int]]:
    """Train, and return the records."""
    cfg = load_config(args.config_file, args.opts)
    model = build_model(cfg)
    sampling = UniformPathSampling(find_supernet(model), seed=0)
    optimizer = build_optimizer(cfg, model)
    if by_ddp:
        model = DistributedDataParallel(model, find_unused_parameters=True)
        model.register_comm_hook(None, allreduce_hook)  # its default behavior, but in Python
    trainer = Step(model, itertools.repeat(make_batch(cfg, 1, 64, 64)), optimizer)
    reduction = None if by_ddp else ActiveGradientReduction(model)
    recorder = Recorder(traffic)
    trainer.register_hooks(
        [sampling, reduction, SharedStatistics(model), StopOnSignal(trainer.message), recorder]
    )
    trainer.train(0, args.steps)
    return recorder.steps


def compare(args: argparse.Namespace) -> None:
    """Run in each process. The first one prints."""
    traffic = Traffic()
    rows = []
    for (path, active, ours), (same_path, same_active, ddp) in zip(
        train(args, traffic, by_ddp=False), train(args, traffic, by_ddp=True), strict=True
    ):
        assert (path, active) == (same_path, same_active)
        rows.append([path, active / MB, ours / MB, ours / active, ddp / MB, ddp / active])
    if comm.is_main_process():
        print(tabulate(rows, HEADER, tablefmt="github", floatfmt=".4f"))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config-file", metavar="FILE", default="Supernet/stage_supernet_R_50_FPN.yaml"
    )
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="config keys, values")
    args = parser.parse_args(argv)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    launch(compare, 2, dist_url="auto", args=(args,))


if __name__ == "__main__":
    main()
