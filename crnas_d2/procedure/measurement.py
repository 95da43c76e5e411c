"""The time that a step takes on this machine, estimated from some of its mini-batches."""

from __future__ import annotations

import datetime
import itertools
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.utils.events import EventStorage

from ..data import setup_datasets
from ..data.digits import is_missing
from ..data.splits import passing_draws
from ..engine import CRTrainer
from ..engine.averaging import WeightAveraging
from ..engine.config_check import check_network
from ..engine.forecast import BACKWARD_COST, Work
from ..engine.hooks import UniformPathSampling
from ..engine.sync_bn import without_sync_bn
from ..evaluation.evaluator import ArchitectureEvaluator
from .made_images import use_made_images
from .search_extent import example_codes
from .search_keys import settled

WARM_UP, FEWEST, MOST = 1, 3, 10  # numbers of mini-batches
ENOUGH_S = 20.0
CODES = 8  # evaluated on a mini-batch


@dataclass(frozen=True)
class Measurement:
    """An estimate of a step's time.

    Attributes:
        seconds: time that the step will take. None if it could not be measured.
        remark: why it could not be measured, or what it was measured on instead of its data.
    """

    seconds: float | None
    remark: str = ""


def measure(
    cfg: CfgNode,
    work: Work,
    final_cfg: CfgNode | None = None,
    *,
    searches: bool,
    processes: int = 1,
) -> Measurement:
    """Build the model of a step with random weights and time it, leaving nothing on the disk.

    Communication between processes, the tests of a training, and the scoring in a search are not
    included. Testing an image in a short list is taken to need a third of the time of training on
    it.

    Args:
        cfg: config of the step.
        work: work of the step.
        final_cfg: as in :func:`~crnas_d2.procedure.supernet_search.run_search`.
        searches: whether the step searches. Otherwise it trains.
        processes: number of processes that share the work, one of which is timed.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS = ""
    remark = ""
    with passing_draws() as folder:
        cfg.OUTPUT_DIR = cfg.DATASETS.ARCHVAL.DIR = folder
        try:
            try:
                rate = _time(cfg, final_cfg, processes, searches=searches)
            except FileNotFoundError as error:
                remark = f"on made images: {error}"
                use_made_images(cfg, folder)
                rate = _time(cfg, final_cfg, processes, searches=searches)
        except Exception as error:  # other steps can still be measured
            return Measurement(None, f"{type(error).__name__}: {error}")
    images = work.forward if searches else work.backward + work.forward / BACKWARD_COST
    return Measurement(images * rate / processes, remark)


def _time(cfg: CfgNode, final_cfg: CfgNode | None, processes: int, *, searches: bool) -> float:
    """Measure the seconds that an image takes in one process.

    Raises:
        FileNotFoundError: the data do not exist.
    """
    cfg = cfg.clone()
    names = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
    for name in filter(is_missing, names):
        raise FileNotFoundError(f"the dataset {name!r} is not generated yet")
    check_network(cfg, training=not searches, has_weights=False)
    setup_datasets(cfg)
    return _time_search(cfg, final_cfg) if searches else _time_training(cfg, processes)


class _Trainer(CRTrainer):
    """A trainer with only those hooks that belong to an iteration."""

    def build_hooks(self) -> list[HookBase]:
        kinds = (UniformPathSampling, WeightAveraging)
        return [hook for hook in super().build_hooks() if isinstance(hook, kinds)]


def _time_training(cfg: CfgNode, processes: int) -> float:
    cfg.SOLVER.IMS_PER_BATCH = max(1, cfg.SOLVER.IMS_PER_BATCH // processes)
    trainer = _Trainer(cfg)
    trainer.iter = 0

    def run() -> int:
        trainer.before_step()
        trainer.run_step()
        trainer.after_step()
        trainer.iter += 1
        return cfg.SOLVER.IMS_PER_BATCH

    with EventStorage() as trainer.storage:
        return _median(run)


def _time_search(cfg: CfgNode, final_cfg: CfgNode | None) -> float:
    cfg.DATALOADER.NUM_WORKERS = 0  # workers would start anew with each mini-batch
    cfg = settled(cfg)
    codes = example_codes(cfg, final_cfg, min(CODES, cfg.SEARCH.GROUP_SIZE))
    cfg.defrost()
    cfg.SEARCH.BN.MODE = "running"
    model = CRTrainer.build_model(without_sync_bn(cfg, "an evaluation needs no other"))
    evaluator = ArchitectureEvaluator(cfg, model)
    batches = itertools.cycle(range(evaluator.mini_batches))

    def run() -> int:
        batch = next(batches)
        own = range(batch, batch + 1)
        evaluator.detect(codes, own)
        return len(codes) * len(evaluator.image_ids(own))

    return _median(run)


def _median(run: Callable[[], int]) -> float:
    """Measure the median seconds for an image.

    Args:
        run: processes a mini-batch, and returns its number of images.
    """
    began = time.perf_counter()
    times: list[float] = []
    while len(times) < WARM_UP + FEWEST or (
        len(times) < WARM_UP + MOST and time.perf_counter() < began + ENOUGH_S
    ):
        start = time.perf_counter()
        images = run()
        times.append((time.perf_counter() - start) / images)
    return statistics.median(times[WARM_UP:])


def format_time(measurement: Measurement | None) -> str:
    """Format a time such as "~0:12:30", or "?" if it is unknown. Empty if not attempted."""
    if measurement is None:
        return ""
    if measurement.seconds is None:
        return "?"
    return f"~{datetime.timedelta(seconds=round(measurement.seconds))}"


def sum_of(measurements: Mapping[str, Measurement]) -> list[str]:
    """Get the last row of a table of steps, with the total of their times."""
    seconds = [m.seconds for m in measurements.values()]
    known = Measurement(sum(s for s in seconds if s is not None))
    more = " and more" if None in seconds else ""
    return ["together", "", "", "", "", format_time(known) + more]


def remarks_of(measurements: Mapping[str, Measurement]) -> list[str]:
    """List the distinct remarks, each after the names of the steps that it applies to."""
    names: dict[str, list[str]] = {}
    for name, measurement in measurements.items():
        if measurement.remark:
            names.setdefault(measurement.remark, []).append(name)
    return [f"{', '.join(steps)}: {remark}" for remark, steps in names.items()]
