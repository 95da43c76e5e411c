#!/usr/bin/env python3
"""Training step of a supernet on one path, against the final network of that path built alone.

supernet_step.py --config-file Supernet/stage_supernet_R_50_FPN.yaml
supernet_step.py --config-file A.yaml B.yaml --images 2 --size 800 1088 --amp

Both have the same weights, images and random numbers, and alternate their steps. A step is what the
trainer does: forward, backward, check of the losses, SGD, and setting the path of the supernet.
Time is the median over the steps, of CPU time if there is no GPU, which other programs affect less.
The ratio is the median over pairs of neighboring steps. Memory is the peak of a step beyond the
parameters and their momentum.
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
from collections.abc import Callable, Sequence
from random import Random
from statistics import median

import torch
from synthetic import final_config, load_config, make_batch
from tabulate import tabulate

from crnas_d2.checkpoint import inherit_subnet
from crnas_d2.engine.hooks import find_supernet
from crnas_d2.engine.loader import seed_from
from crnas_d2.engine.step import AMPStep, Step

from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.solver import build_optimizer
from detectron2.utils.events import EventStorage

MIB = 2**20
HEADER = [
    "supernet",
    "supernet ms",
    "alone ms",
    "ratio",
    "peak MiB",
    "alone MiB",
    "ratio",
    "set_path ms",
    "same loss",
]


class Contestant:
    """A detector that trains on one batch."""

    def __init__(self, cfg: CfgNode, batch: list[dict], amp: bool):
        self.model = build_model(cfg)
        optimizer = build_optimizer(cfg, self.model)
        self.step = (AMPStep if amp else Step)(self.model, itertools.repeat(batch), optimizer)
        self.before_step: Callable[[], None] = lambda: None

    def run(self, iteration: int) -> float:
        """Take a step.

        Returns:
            Its time in seconds.
        """
        seed_from(iteration)
        start = self._seconds()
        self.before_step()
        self.step.iter = iteration
        self.step.run_step()
        return self._seconds() - start

    def _seconds(self) -> float:
        if self.model.device.type == "cpu":
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    def peak_memory(self, iteration: int) -> int:
        """Measure the peak memory of a step in bytes, beyond the parameters and their momentum."""
        self.step.optimizer.zero_grad()
        if self.model.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            self.run(iteration)
            return torch.cuda.max_memory_allocated() - before
        with torch.profiler.profile(profile_memory=True) as profile:
            self.run(iteration)
        events = profile.profiler.kineto_results.events()
        changes = [(e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"]
        return max(itertools.accumulate(nbytes for _, nbytes in sorted(changes)))


def compare(config_file: str, args: argparse.Namespace) -> list:
    """Get a row of the table."""
    cfg = load_config(config_file, args.opts)
    batch = make_batch(cfg, args.images, *args.size)
    supernet = Contestant(cfg, batch, args.amp)
    backbone = find_supernet(supernet.model)
    if backbone is None:
        raise ValueError(f"{config_file}: {cfg.MODEL.BACKBONE.NAME} builds no supernet")
    path = args.path or backbone.space.sample(Random(0))
    supernet.before_step = lambda: backbone.set_path(path)
    alone = Contestant(final_config(cfg, path), batch, args.amp)
    alone.model.load_state_dict(inherit_subnet(supernet.model.state_dict(), path))

    times = {supernet: [], alone: []}
    with EventStorage() as storage:
        for iteration in range(args.warmup + args.iterations):
            losses = []
            for contestant in (supernet, alone) if iteration % 2 else (alone, supernet):
                seconds = contestant.run(iteration)
                losses.append(storage.latest()["total_loss"][0])
                if iteration >= args.warmup:
                    times[contestant].append(seconds)
            same_loss = losses[0] == losses[1]
        peaks = [contestant.peak_memory(iteration) for contestant in (supernet, alone)]

    switches = []
    rng = Random(0)
    for _ in range(100):
        other = backbone.space.sample(rng)
        start = time.perf_counter()
        backbone.set_path(other)
        switches.append(time.perf_counter() - start)
    return [
        f"{os.path.basename(config_file).removesuffix('.yaml')}, {'-'.join(map(str, path))}",
        1000 * median(times[supernet]),
        1000 * median(times[alone]),
        median(a / b for a, b in zip(times[supernet], times[alone])),
        peaks[0] / MIB,
        peaks[1] / MIB,
        peaks[0] / peaks[1],
        1000 * median(switches),
        same_loss,
    ]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config-file",
        nargs="+",
        metavar="FILE",
        default=[f"Supernet/stage_supernet_{network}_FPN.yaml" for network in ("R_18", "R_50")]
        + [f"Supernet/dilation_supernet_SCR_{network}_FPN.yaml" for network in ("R_18", "R_50")],
        help="below configs/ (default: both supernets of ResNet18 and ResNet50)",
    )
    parser.add_argument("--path", type=int, nargs="+", help="default: a random one")
    parser.add_argument("--images", type=int, default=2, help="in a batch (default: 2)")
    parser.add_argument(
        "--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), default=(256, 384)
    )
    parser.add_argument("--iterations", type=int, default=10, help="timed (default: 10)")
    parser.add_argument("--warmup", type=int, default=2, help="not timed (default: 2)")
    parser.add_argument("--amp", action="store_true", help="mixed precision; needs a GPU")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="config keys, values")
    args = parser.parse_args(argv)

    height, width = args.size
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    precision = "mixed precision" if args.amp else "single precision"
    print(
        f"{device}, {torch.get_num_threads()} thread(s), torch {torch.__version__}, {precision}, "
        f"{args.images} images of {height} x {width}, median of {args.iterations} steps"
    )
    rows = [compare(config_file, args) for config_file in args.config_file]
    print(tabulate(rows, HEADER, tablefmt="github", floatfmt=".3f"))


if __name__ == "__main__":
    main()
