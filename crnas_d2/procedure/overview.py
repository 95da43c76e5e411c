"""The steps of a procedure at a glance: their sizes, their cost, and how far they have come."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from detectron2.config import CfgNode
from tabulate import tabulate
from tqdm import tqdm

from ..config_files import config_name
from ..data.copies import foretell_copies
from ..data.parts import count_images, describe_parts, table_of_parts
from ..data.split_table import SplitTable
from ..engine.forecast import Work
from .measurement import Measurement, format_time, measure, remarks_of, sum_of
from .supernet_search import describe_limits, planned_evaluations, settled

if TYPE_CHECKING:
    from .procedure import Procedure


@dataclass(frozen=True)
class StepOverview:
    """A step of a procedure, before it has run or after.

    Attributes:
        name: of the step.
        folder: of its products.
        config: file of its config.
        searches: or else it trains.
        size: iterations and images of a training, architectures and images of a search.
        image_passes: images that pass through a network, and in which direction.
        work: what it has to do, for a forecast of its time.
        done: whether it has ended.
        seconds: that its last run took; None before the end.
        results: what was measured at its end.
    """

    name: str
    folder: str
    config: str
    searches: bool
    size: str
    image_passes: str
    done: bool
    work: Work = Work()
    seconds: float | None = None
    results: Mapping[str, Any] = field(default_factory=dict)


def describe(procedure: Procedure, times: Mapping[str, Measurement] | None = None) -> str:
    """A table of the steps, their sizes, their cost in images that pass through a network, and
    which of them are done.

    Args:
        times: from :func:`measure_steps`, which are shown too.

    Raises:
        ValueError: the number of a search's architectures cannot be told.
    """
    rows = [
        [r.name, r.config, r.size, r.image_passes, "done" if r.done else "open"]
        for r in overview(procedure)
    ]
    headers = ["step", "config", "size", "image passes", "state"]
    notes = [f"{name} {s.why}" for name, s in procedure.look().items() if s.why]
    notes += filter(None, procedure.look_at_searches(describe_limits))
    notes += [*procedure.start, *map(describe_parts, split_tables(procedure, makes=False))]
    notes += filter(None, procedure.look_at_searches(foretell_copies))
    if times is None:
        return "\n".join([tabulate(rows, headers, "simple"), *notes])
    for row in rows:
        row.append(format_time(times.get(row[0])))
    table = tabulate([*rows, sum_of(times)], [*headers, "time"], "simple")
    return "\n".join([table, *remarks_of(times), *notes])


def measure_steps(procedure: Procedure, processes: int = 1) -> dict[str, Measurement]:
    """How long each step that is open will take on this machine, by some of its mini-batches.
    It writes nothing.

    Args:
        processes: that share the work; one of them is timed.
    """
    pairs = [(s, r) for s, r in zip(procedure.steps, overview(procedure)) if not r.done]
    return {
        step.name: measure(
            procedure.config(step),
            record.work,
            procedure.final_config(),
            searches=step.searches,
            processes=processes,
        )
        for step, record in tqdm(pairs, "measuring", leave=False, disable=None)
    }


def overview(procedure: Procedure) -> list[StepOverview]:
    """The steps in order, with what is known of each one before it has run, or after."""
    overviews = []
    for step in procedure.steps:
        standing = procedure.look()[step.name]
        cfg = procedure.config(step)
        codes, images = None, 0
        if step.searches:
            cfg = settled(cfg)
            codes = planned_evaluations(cfg, procedure.final_config())
            images = count_images(cfg)
            size = f"{'?' if codes is None else f'{codes:,}'} architectures x {images:,} images"
            passes = "?" if codes is None else f"{codes * images:,} forward"
            codes = codes or 0
        else:
            batch = cfg.SOLVER.IMS_PER_BATCH
            size = f"{cfg.SOLVER.MAX_ITER:,} iterations x {batch:,} images"
            passes = f"{cfg.SOLVER.MAX_ITER * batch:,} forward and backward"
        overviews.append(
            StepOverview(
                name=step.name,
                folder=cfg.OUTPUT_DIR,
                config=config_name(step.config),
                searches=step.searches,
                size=size,
                image_passes=passes,
                done=standing.done,
                work=work_of(cfg, codes, images),
                seconds=standing.seconds,
                results=standing.results,
            )
        )
    return overviews


def split_tables(procedure: Procedure, *, makes: bool) -> list[SplitTable]:
    """What the parts have of each class; mostly one for all searches.

    Args:
        makes: whether data sets that are generated when they are first used may be.
    """
    return list(
        filter(None, procedure.look_at_searches(functools.partial(table_of_parts, makes=makes)))
    )


def work_of(cfg: CfgNode, evaluations: int | None, images: int = 0) -> Work:
    """What a step has to do.

    Args:
        cfg: of the step; of a search, :func:`~crnas_d2.procedure.supernet_search.settled`.
        evaluations: how many architectures it evaluates; None of a training.
        images: of archval, on which each of them is evaluated.
    """
    if evaluations is None:
        images = cfg.SOLVER.MAX_ITER * cfg.SOLVER.IMS_PER_BATCH
        return Work(backward=images, pixels=_pixels(cfg, cfg.INPUT.MIN_SIZE_TRAIN))
    norms = cfg.SEARCH.BN
    if norms.MODE == "recalibrate":
        images += norms.BATCHES * norms.IMAGES_PER_BATCH
    return Work(forward=evaluations * images, pixels=_pixels(cfg, [cfg.INPUT.MIN_SIZE_TEST]))


def _pixels(cfg: CfgNode, shorter_sides: Sequence[int]) -> float:
    """Of an input, about: those of detectors are taken to be a third longer than high."""
    if cfg.MODEL.META_ARCHITECTURE == "ImageClassifier":
        return float(cfg.INPUT.CLASSIFICATION.CROP_SIZE**2)
    side = sum(shorter_sides) / len(shorter_sides) or 480.0  # 0 is the image as it is
    return side * side * 4 / 3
