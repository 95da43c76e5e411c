"""Processes many files in threads with a progress bar, without losing results."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from tqdm import tqdm

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_COMMITS = 2.0
SECONDS_BEFORE_BAR = 1.0
SECONDS_BETWEEN_LINES = 30.0  # if the output is not a terminal
T = TypeVar("T")
R = TypeVar("R")


def work_through(
    title: str,
    work: Callable[[T], R],
    items: Sequence[T],
    keep: Callable[[dict[T, R]], None],
    threads: int,
    at_once: int,
) -> dict[T, R]:
    """Process all items in threads, and return the results by item.

    Args:
        title: title of the progress bar and of log lines, such as "Looking at images".
        work: computes the result of an item.
        items: the items.
        keep: called with new results every few seconds, and if the work is interrupted.
        threads: number of threads.
        at_once: number of items that a thread takes at a time.
    """
    if not items:
        return {}
    done: dict[T, R] = {}
    new: dict[T, R] = {}
    began = kept = told = time.monotonic()
    with _Bar(
        total=len(items), desc=title, leave=False, disable=None, delay=SECONDS_BEFORE_BAR
    ) as bar:
        try:
            for item, result in in_threads(work, items, threads, at_once):
                done[item] = new[item] = result
                bar.update()
                now = time.monotonic()
                if now > kept + SECONDS_BETWEEN_COMMITS:
                    keep(new)
                    new, kept = {}, now
                if bar.disable and now > told + SECONDS_BETWEEN_LINES:
                    logger.info(f"{title}: {len(done):,} of {len(items):,}")
                    told = now
        finally:
            keep(new)
    seconds = time.monotonic() - began
    level = logging.INFO if seconds > SECONDS_BEFORE_BAR else logging.DEBUG
    logger.log(level, f"{title}: all {len(items):,}, in {seconds:.1f} s")
    return done


def in_threads(
    work: Callable[[T], R], items: Sequence[T], threads: int, at_once: int
) -> Iterator[tuple[T, R]]:
    """Process items in threads, and iterate over items and results in order."""
    batches = [items[start : start + at_once] for start in range(0, len(items), at_once)]
    pool = ThreadPoolExecutor(threads)
    try:
        results = pool.map(lambda batch: [work(item) for item in batch], batches)
        for batch, result in zip(batches, results):
            yield from zip(batch, result)
    finally:
        pool.shutdown(cancel_futures=True)


class _Bar(tqdm):
    monitor_interval = 0  # no monitor thread, next to which loaders would be forked
