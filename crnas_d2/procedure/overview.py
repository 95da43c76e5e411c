"""An overview of the steps of a procedure: their size, cost and progress."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
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
from .search_extent import describe_limits, planned_evaluations
from .search_keys import settled
from .shortlist_plan import ShortlistPlan
from .steps import Kind, Step
from .work import images_of, work_of_search, work_of_training

if TYPE_CHECKING:
    from .procedure import Procedure


@dataclass(frozen=True)
class StepOverview:
    """A step of a procedure, before or after it has run.

    Attributes:
        name: name of the step.
        folder: folder of its products.
        config: file of its config.
        searches: whether it searches. Otherwise it trains.
        size: iterations and images of a training, architectures and images of a search, or codes,
            seeds and rungs of a short list.
        image_passes: number of images that pass through a network, and in which direction.
        done: whether it has finished.
        work: its work, for an estimate of the time.
        seconds: duration of its last run. None before it has finished.
        results: results that were measured at its end.
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
    """Format a table of the steps with their sizes, costs in image passes, and states.

    Args:
        procedure: the procedure.
        times: results of :func:`measure_steps`, which are shown if given.

    Raises:
        ValueError: the number of architectures of a search cannot be determined.
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
    """Measure the time of each open step on this machine with some of its mini-batches.

    Nothing is written.

    Args:
        procedure: the procedure.
        processes: number of processes that share the work, one of which is timed.
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


def overview(procedure: Procedure, steps: Sequence[Step] | None = None) -> list[StepOverview]:
    """List the given steps, by default all of them in order, with everything known of each."""
    overviews = []
    for step in procedure.steps if steps is None else steps:
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
    """Get the size and image passes of a step as text, and its work."""
    cfg = procedure.config(step)
    if step.searches:
        cfg = settled(cfg)
        codes, images = planned_evaluations(cfg, procedure.final_config()), count_images(cfg)
        if codes is None:  # latencies that determine it are not measured yet
            return f"? architectures x {images:,} images", "?", work_of_search(cfg, 0, images)
        size = f"{codes:,} architectures x {images:,} images"
        return size, f"{codes * images:,} forward", work_of_search(cfg, codes, images)
    if step.kind is Kind.SHORTLIST:
        shortlist = ShortlistPlan.of_step(procedure, step)
        return shortlist.size, shortlist.image_passes, shortlist.work
    size = f"{cfg.SOLVER.MAX_ITER:,} iterations x {cfg.SOLVER.IMS_PER_BATCH:,} images"
    return size, f"{images_of(cfg):,} forward and backward", work_of_training(cfg)


def split_tables(procedure: Procedure, *, makes: bool) -> list[SplitTable]:
    """Get the distinct tables of the classes in each part, mostly one for all searches.

    Args:
        procedure: the procedure.
        makes: whether datasets that are generated on first use may be generated.
    """
    return list(
        filter(None, procedure.look_at_searches(functools.partial(table_of_parts, makes=makes)))
    )
