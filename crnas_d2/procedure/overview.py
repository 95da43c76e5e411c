"""The steps of a procedure at a glance: their sizes, their cost, and how far they have come."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tabulate import tabulate
from tqdm import tqdm

from ..config_files import config_name
from ..data.copies import foretell_copies
from ..data.parts import count_images, describe_parts, table_of_parts
from ..data.split_table import SplitTable
from ..engine.forecast import Work
from .measurement import Measurement, format_time, measure, remarks_of, sum_of
from .shortlist_plan import ShortlistPlan
from .steps import Kind, Step
from .supernet_search import describe_limits, planned_evaluations, settled
from .work import images_of, work_of_search, work_of_training

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
        size: iterations and images of a training, architectures and images of a search, codes,
            seeds and rungs of a short list.
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
        cfg, (size, passes, work) = procedure.config(step), _size_of(procedure, step)
        overviews.append(
            StepOverview(
                name=step.name,
                folder=cfg.OUTPUT_DIR,
                config=config_name(step.config),
                searches=step.searches,
                size=size,
                image_passes=passes,
                done=standing.done,
                work=work,
                seconds=standing.seconds,
                results=standing.results,
            )
        )
    return overviews


def _size_of(procedure: Procedure, step: Step) -> tuple[str, str, Work]:
    """Size and image passes of a step, in words, and its work."""
    cfg = procedure.config(step)
    if step.searches:
        cfg = settled(cfg)
        codes, images = planned_evaluations(cfg, procedure.final_config()), count_images(cfg)
        if codes is None:  # latencies that tell it are not measured yet
            return f"? architectures x {images:,} images", "?", work_of_search(cfg, 0, images)
        size = f"{codes:,} architectures x {images:,} images"
        return size, f"{codes * images:,} forward", work_of_search(cfg, codes, images)
    if step.kind is Kind.SHORTLIST:
        shortlist = ShortlistPlan.of_step(procedure, step)
        return shortlist.size, shortlist.image_passes, shortlist.work
    size = f"{cfg.SOLVER.MAX_ITER:,} iterations x {cfg.SOLVER.IMS_PER_BATCH:,} images"
    return size, f"{images_of(cfg):,} forward and backward", work_of_training(cfg)


def split_tables(procedure: Procedure, *, makes: bool) -> list[SplitTable]:
    """What the parts have of each class; mostly one for all searches.

    Args:
        makes: whether data sets that are generated when they are first used may be.
    """
    return list(
        filter(None, procedure.look_at_searches(functools.partial(table_of_parts, makes=makes)))
    )
