"""The latencies of a search, measured before it begins or read from the table of another device."""

from __future__ import annotations

import contextlib
import datetime
import gc
import logging
import os
import statistics
import time
from random import Random
from typing import TypeGuard

import torch

from detectron2.config import CfgNode

from ..analysis.latency import Latency, Timing, describe_device, measure_latency
from ..analysis.latency_table import LatencyTable
from ..architecture import Architecture, Code
from ..config import default_config, flatten_config, set_architecture
from ..config_effects import Effect, with_effect
from ..data import setup_datasets
from ..engine.sync_bn import without_sync_bn
from ..lock import folder_lock
from ..main_process import decided_by_main
from ..search.cost import plain_detector
from ..search.latencies import Latencies, NotMeasured, latency_file
from ..spaces import PathSpace, StageSpace

GROUP = 64  # stage codes that are measured alternately, including the baseline's
SPREAD = 0.1  # relative interquartile range above which something else seems to run on the machine
PATIENCE_S = 120
DRIFT = 0.05  # share by which the baseline may drift from its latency in the first group

# Keys that affect a detector's weights or scores but not its latency, or that vary within a table
OTHERWISE = (
    *("MODEL.INIT.", "MODEL.SUPERNET.", "MODEL.CLASS_NAMES", "MODEL.PIXEL_"),
    *("MODEL.CR.STAGE_CODE", "MODEL.CR.OPERATION_CODE"),
)

logger = logging.getLogger(__name__)


def detector_of(cfg: CfgNode, final_cfg: CfgNode | None) -> CfgNode:
    """Get the config of the detector whose latency is the cost, unfrozen, with its classes set.

    Args:
        cfg: config of a stage search.
        final_cfg: config of the detector that it is for. By default that of the supernet.

    Raises:
        ValueError, FileNotFoundError: the datasets have a fault.
    """
    detector = plain_detector(without_sync_bn(final_cfg or cfg, "an evaluation needs no other"))
    detector.MODEL.DEVICE = cfg.MODEL.DEVICE
    detector.DATASETS.ARCHVAL.DIR = cfg.DATASETS.ARCHVAL.DIR
    setup_datasets(detector)
    return detector


def measure_if_cost(cfg: CfgNode, final_cfg: CfgNode | None, space: PathSpace) -> None:
    """Measure missing latencies on the main process if latency is the cost of a search.

    Every rank has to call this function.

    Args:
        cfg, final_cfg: as in :func:`~.supernet_search.run_search`.
        space: space of the search.

    Raises:
        ValueError, FileNotFoundError: as :func:`check_latencies` and :func:`measure_latencies`.
    """
    if not is_cost(space, cfg):
        return
    path = latency_file(cfg)
    check_latencies(cfg, final_cfg, space)

    def measure() -> None:
        with folder_lock(cfg.OUTPUT_DIR):
            measure_latencies(cfg, space, detector_of(cfg, final_cfg), path)

    if not cfg.SEARCH.LATENCY.FILE:
        decided_by_main(measure)
        _wait_for_latencies(cfg, space)


def is_cost(space: PathSpace, cfg: CfgNode) -> TypeGuard[StageSpace]:
    """Whether latency is the cost of a search in a space. Operation codes have no cost."""
    return cfg.SEARCH.COST == "latency" and isinstance(space, StageSpace)


def check_latencies(cfg: CfgNode, final_cfg: CfgNode | None, space: PathSpace) -> None:
    """Check an existing latency table if latency is the cost of a search.

    A table from another device has to be complete for the budgets. The arguments and errors are
    those of :func:`measure_if_cost`.
    """
    if not is_cost(space, cfg):
        return
    file, path = cfg.SEARCH.LATENCY.FILE, latency_file(cfg)
    if os.path.isfile(path):
        read_table(cfg, detector_of(cfg, final_cfg), path)
    elif file:
        raise FileNotFoundError(f"SEARCH.LATENCY.FILE is {file!r}; there is no such file")
    try:
        Latencies.read(cfg, space)
    except NotMeasured as missing:
        if file:
            raise ValueError(
                f"SEARCH.LATENCY.FILE is {file!r}, which has not got {missing}; go on with crnas "
                "latency on the device where it was measured, with this config"
            ) from None


def _wait_for_latencies(cfg: CfgNode, space: StageSpace) -> None:
    """Wait until this machine sees the table, which a network file system may show with a delay."""
    for _ in range(PATIENCE_S):
        with contextlib.suppress(NotMeasured):
            Latencies.read(cfg, space)
            return
        time.sleep(1)


def measure_latencies(cfg: CfgNode, space: StageSpace, detector: CfgNode, path: str) -> None:
    """Measure the latencies that the budgets of a search need and its table lacks.

    Args:
        cfg: config of the search.
        space: space of its stage codes.
        detector: see :func:`detector_of`.
        path: path of the table. It is written after each group of codes, so that an interrupted run
            resumes with the next one.

    Raises:
        ValueError: the table was made under other conditions, or there are too many codes to
            measure.
    """
    timing, here = timing_of(cfg), conditions_here(cfg, detector)
    table = read_table(cfg, detector, path) or LatencyTable(here)
    while True:
        latencies = Latencies.of(cfg, space, table.rows)
        if not latencies.missing:
            return
        table.check_conditions(path, here, _defaults())
        logger.info(
            f"Measuring {latencies.describe_missing()}, on {here['device']} (torch {here['torch']}, "
            f"{here['threads']} threads): batch {timing.batch}, {timing.precision}, "
            f"{timing.input_size[0]} x {timing.input_size[1]}, {timing.runs} runs of each after "
            f"{timing.warm_up} to warm up"
        )
        _measure_missing(latencies, detector, timing, table, path)


def _measure_missing(
    latencies: Latencies, detector: CfgNode, timing: Timing, table: LatencyTable, path: str
) -> None:
    """Measure codes in random groups.

    The baseline's code is measured in each group, which shows by how much the machine has become
    slower or faster. The latencies of a group are divided by that, so that all are as in the first.
    """
    baseline, began = latencies.baseline, time.perf_counter()
    codes = Random(0).sample(latencies.missing, len(latencies.missing))
    codes.sort(key=lambda code: code != baseline)
    for start in range(0, len(codes), GROUP):
        group = list(dict.fromkeys([baseline, *codes[start : start + GROUP]]))
        found = measure_latency({code: _variant(detector, code) for code in group}, timing)
        gc.collect()
        torch.cuda.empty_cache()
        before = table.rows.get(baseline)
        if before:
            _tell_drift(before, found[baseline])
            factor = before.median / found[baseline].median
            found = {code: latency.scaled(factor) for code, latency in found.items()}
            found[baseline] = before
        table.rows.update(found)
        table.write(path)
        done = min(start + GROUP, len(codes))
        left = (time.perf_counter() - began) / done * (len(codes) - done)
        spread = statistics.median(latency.spread for latency in found.values())
        log = logger.warning if spread > SPREAD else logger.info
        log(
            f"{done:,} of {len(codes):,} measured, about {datetime.timedelta(seconds=round(left))} "
            f"left; half of the runs of a code are within {spread:.1%} of each other"
        )


def _variant(detector: CfgNode, code: Code) -> CfgNode:
    variant = detector.clone()
    set_architecture(variant, Architecture(code))
    return variant


def _tell_drift(before: Latency, now: Latency) -> None:
    drift = now.median / before.median - 1
    log = logger.warning if abs(drift) > DRIFT else logger.info
    log(
        f"The baseline takes {now.median:.4g} ms, and took {before.median:.4g} ms in the first group "
        f"({drift:+.1%})"
    )


def read_table(cfg: CfgNode, detector: CfgNode, path: str) -> LatencyTable | None:
    """Read the table of a search. None if it does not exist.

    Args:
        cfg, detector, path: as in :func:`measure_latencies`.

    Raises:
        ValueError: the table belongs to another detector, or to other settings of how it runs. The
            device may differ.
    """
    if not os.path.isfile(path):
        return None
    table = LatencyTable.read(path)
    table.check_conditions(path, _conditions(cfg, detector), _defaults())
    return table


def timing_of(cfg: CfgNode) -> Timing:
    """Get the timing options of a search."""
    size, latency = tuple(cfg.SEARCH.COST_SIZE), cfg.SEARCH.LATENCY
    return Timing(size, latency.BATCH, latency.PRECISION, latency.RUNS, latency.WARM_UP)


def conditions_here(cfg: CfgNode, detector: CfgNode) -> dict[str, str]:
    """Get everything that a measurement on this machine depends on."""
    latency = cfg.SEARCH.LATENCY
    runs = {"runs": str(latency.RUNS), "warm-up": str(latency.WARM_UP)}
    return describe_device(detector.MODEL.DEVICE) | runs | _conditions(cfg, detector)


def _conditions(cfg: CfgNode, detector: CfgNode) -> dict[str, str]:
    """Get the conditions of a latency apart from the device.

    They are how the detector is run, and those of its keys that are not at their defaults.
    """
    search, defaults = flatten_config(cfg.SEARCH, "SEARCH."), _defaults()
    keys = ("SEARCH.COST_SIZE", "SEARCH.LATENCY.BATCH", "SEARCH.LATENCY.PRECISION")
    network = flatten_config(detector.MODEL, "MODEL.")
    network["TEST.DETECTIONS_PER_IMAGE"] = str(detector.TEST.DETECTIONS_PER_IMAGE)
    changes = {
        key: value
        for key, value in with_effect(network, Effect.WEIGHTS, Effect.SCORES).items()
        if value != defaults.get(key) and not key.startswith(OTHERWISE)
    }
    return {key: search[key] for key in keys} | changes


def _defaults() -> dict[str, str]:
    return flatten_config(default_config())
