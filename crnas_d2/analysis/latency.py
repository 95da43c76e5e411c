"""Latency: how long detectors take for a mini-batch, on the device on which they are to run."""

from __future__ import annotations

import logging
import platform
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from detectron2.config import CfgNode
from detectron2.modeling import build_model

from ..architecture import Code
from ..files import no_garbage_collection
from .made_outputs import replace_outputs

PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
QUARTILES = (0.25, 0.5, 0.75)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Latency:
    """Milliseconds for a mini-batch.

    Attributes:
        median: of the runs.
        lower, upper: their quartiles.
        runs: how many there were, those to warm up not counted.
    """

    median: float
    lower: float
    upper: float
    runs: int

    @property
    def spread(self) -> float:
        """Between the quartiles, as a share of the median."""
        return (self.upper - self.lower) / self.median

    @classmethod
    def of(cls, seconds: list[float]) -> Latency:
        lower, median, upper = (1e3 * float(s) for s in np.quantile(seconds, QUARTILES))
        return cls(median, lower, upper, len(seconds))


@dataclass(frozen=True)
class Timing:
    """How latency is measured.

    Attributes:
        input_size: height and width of the images, in pixels, before the model pads them.
        batch: images that pass through together.
        precision: of :data:`PRECISIONS`; all but "float32" by autocast.
        runs: of each detector, that count.
        warm_up: runs of each detector before those.
    """

    input_size: tuple[int, int]
    batch: int = 1
    precision: str = "float32"
    runs: int = 20
    warm_up: int = 3


def measure_latency(
    cfgs: Mapping[Code, CfgNode], timing: Timing, clock: Callable[[], float] = time.perf_counter
) -> dict[Code, Latency]:
    """Time whole detectors, from images in memory to boxes, as they run in evaluation: normalized,
    padded and moved to the device by the model itself.

    Weights are random, on which dense layers do not depend; how many boxes go on does, and is made
    equal by :func:`~.made_outputs.replace_outputs`. Detectors share the weights that have the same
    name, so many of them fit into memory.

    Args:
        cfgs: of the detectors, on one device. Their weights are not read.
        clock: gives the time, in seconds.

    Raises:
        ValueError: the number of boxes of a detector cannot be fixed.
    """
    device = torch.device(next(iter(cfgs.values())).MODEL.DEVICE)
    synchronize = getattr(torch, device.type).synchronize
    image = torch.randint(256, (3, *timing.input_size), generator=torch.Generator().manual_seed(0))
    height, width = timing.input_size
    inputs = [{"image": image.byte(), "height": height, "width": width}] * timing.batch
    dtype = PRECISIONS[timing.precision]

    def passing(model: nn.Module) -> Callable[[], None]:
        def run() -> None:
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                model(inputs)
            synchronize()

        return run

    passes = {code: passing(model) for code, model in _build(cfgs, device).items()}
    with torch.inference_mode():
        times = time_in_turn(passes, timing.runs, timing.warm_up, clock)
    return {code: Latency.of(seconds) for code, seconds in times.items()}


def time_in_turn(
    passes: Mapping[Code, Callable[[], None]],
    runs: int,
    warm_up: int,
    clock: Callable[[], float],
    seed: int = 0,
) -> dict[Code, list[float]]:
    """Run all once, in an order by chance, and again in another one, so that what makes a machine
    slower for a while meets all alike.

    Args:
        passes: return when they have ended.
        runs: of each one that are timed.
        warm_up: runs of each one before those.
        seed: of the orders.

    Returns:
        Seconds of each timed run.
    """
    rng, began = random.Random(seed), time.perf_counter()
    times: dict[Code, list[float]] = {code: [] for code in passes}
    for turn in range(warm_up + runs):
        with no_garbage_collection():
            for code in rng.sample(list(passes), len(passes)):
                start = clock()
                passes[code]()
                if turn >= warm_up:
                    times[code].append(clock() - start)
        if turn == 0:
            seconds = time.perf_counter() - began
            logger.info(f"The first of {warm_up + runs} turns took {seconds:.1f} s")
    return times


def _build(cfgs: Mapping[Code, CfgNode], device: torch.device) -> dict[Code, nn.Module]:
    """The detectors, in evaluation mode, with weights of a seed. Torch's own generators stay as they
    are."""
    shared: dict[str, torch.Tensor] = {}
    models = {}
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices), device:
        torch.manual_seed(0)
        for code, cfg in cfgs.items():
            models[code] = model = build_model(cfg).eval()
            state = model.state_dict()
            for name, tensor in state.items():
                state[name] = shared.setdefault(name, tensor)
            model.load_state_dict(state, assign=True)
            replace_outputs(model)
    return models


def describe_device(name: str) -> dict[str, str]:
    """What latency depends on beside the detector: device, version of torch, and threads.

    Args:
        name: as in ``MODEL.DEVICE``.
    """
    device = torch.device(name)
    if device.type == "cuda":
        model = torch.cuda.get_device_name(device)
    else:
        model = _processor()
    threads = str(torch.get_num_threads())
    return {"device": f"{device.type}, {model}", "torch": torch.__version__, "threads": threads}


def _processor() -> str:
    """As the kernel of Linux names it, or else as Python knows it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as f:
            names = [line.partition(":")[2].strip() for line in f if line.startswith("model name")]
    except FileNotFoundError:
        names = []
    return next(iter(names), platform.processor() or platform.machine())
