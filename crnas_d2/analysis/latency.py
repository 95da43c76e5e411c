"""The latency of detectors for a mini-batch, on the device on which they are to run."""

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
    """The latency for a mini-batch in milliseconds.

    Attributes:
        median: median of the runs.
        lower, upper: quartiles of the runs.
        runs: number of runs, not counting those for warm-up.
    """

    median: float
    lower: float
    upper: float
    runs: int

    @property
    def spread(self) -> float:
        """The interquartile range as a share of the median."""
        return (self.upper - self.lower) / self.median

    def scaled(self, factor: float) -> Latency:
        """Get the latency on a machine that takes ``factor`` times as long."""
        return Latency(factor * self.median, factor * self.lower, factor * self.upper, self.runs)

    @classmethod
    def of(cls, seconds: list[float]) -> Latency:
        lower, median, upper = (1e3 * float(s) for s in np.quantile(seconds, QUARTILES))
        return cls(median, lower, upper, len(seconds))


@dataclass(frozen=True)
class Timing:
    """How latency is measured.

    Attributes:
        input_size: height and width of the images in pixels, before the model pads them.
        batch: number of images in a batch.
        precision: one of :data:`PRECISIONS`. All but "float32" use autocast.
        runs: number of timed runs of each detector.
        warm_up: number of untimed runs of each detector before those.
    """

    input_size: tuple[int, int]
    batch: int = 1
    precision: str = "float32"
    runs: int = 20
    warm_up: int = 3


def measure_latency(
    cfgs: Mapping[Code, CfgNode], timing: Timing, clock: Callable[[], float] = time.perf_counter
) -> dict[Code, Latency]:
    """Time whole detectors in evaluation, from images in memory to boxes.

    This includes normalization, padding and the transfer to the device by the model itself.

    Weights are random, as the time of dense layers does not depend on them. It does depend on the
    number of boxes, which :func:`~.made_outputs.replace_outputs` makes equal. Detectors share
    weights with the same name, so that many of them fit into memory.

    Args:
        cfgs: configs of the detectors, all on one device. Their weights are not read.
        timing: how to measure.
        clock: returns the time in seconds.

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
    """Time passes in turns, each of which runs all of them once in a new random order.

    So a temporary slowdown of the machine affects all of them alike.

    Args:
        passes: functions that return when their pass has finished.
        runs: number of timed runs of each pass.
        warm_up: number of untimed runs of each pass before those.
        clock: returns the time in seconds.
        seed: seed of the orders.

    Returns:
        The seconds of each timed run.
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
    """Build the detectors in evaluation mode with seeded weights, leaving torch's generators alone."""
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
    """Describe what latency depends on apart from the detector: device, torch version, and threads.

    Args:
        name: name of the device, as in ``MODEL.DEVICE``.
    """
    device = torch.device(name)
    if device.type == "cuda":
        model = torch.cuda.get_device_name(device)
    else:
        model = _processor()
    threads = str(torch.get_num_threads())
    return {"device": f"{device.type}, {model}", "torch": torch.__version__, "threads": threads}


def _processor() -> str:
    """Get the name of the processor from the Linux kernel, or else from Python."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as f:
            names = [line.partition(":")[2].strip() for line in f if line.startswith("model name")]
    except FileNotFoundError:
        names = []
    return next(iter(names), platform.processor() or platform.machine())
