"""When a process is in a collective, and when it scores."""

from __future__ import annotations

import contextlib
import functools
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from unittest import mock

import torch.distributed as dist

from crnas_d2.evaluation.scorer import Scorer

COLLECTIVES = (
    *("all_reduce", "all_gather", "gather", "broadcast", "reduce", "scatter", "barrier"),
    *("all_gather_into_tensor", "monitored_barrier", "send", "recv"),
)
OBJECT_COLLECTIVES = (
    *("all_gather_object", "gather_object", "broadcast_object_list", "scatter_object_list"),
    *("send_object_list", "recv_object_list"),
)
Interval = tuple[float, float]


class Timeline:
    """Records when this process was in a collective or scored, and counts calls by function."""

    def __init__(self):
        self.waits: list[Interval] = []
        self.scores: list[Interval] = []
        self.counts: Counter[str] = Counter()
        self._inside = False

    def note(self, intervals: list[Interval], function: Callable) -> Callable:
        @functools.wraps(function)
        def noted(*args, **kwargs):
            if self._inside:
                return function(*args, **kwargs)
            self._inside, start = True, time.monotonic()
            try:
                return function(*args, **kwargs)
            finally:
                self._inside = False
                intervals.append((start, time.monotonic()))
                self.counts[getattr(function, "__name__", "")] += 1

        return noted

    @contextlib.contextmanager
    def running(self, score: Callable | None = None) -> Iterator[None]:
        """Record within a ``with`` block.

        Args:
            score: replacement for the scorer's work.
        """
        with contextlib.ExitStack() as stack:
            for name in (*COLLECTIVES, *OBJECT_COLLECTIVES):
                noted = self.note(self.waits, getattr(dist, name))
                stack.enter_context(mock.patch.object(dist, name, noted))
            noted = self.note(self.scores, score or Scorer.__call__)
            stack.enter_context(mock.patch.object(Scorer, "__call__", noted))
            yield


def overlap(intervals: Sequence[Interval], others: Sequence[Interval]) -> float:
    """Compute the seconds in which both one of the intervals and one of the others are active.

    Intervals of the same list do not overlap.
    """
    return sum(
        max(0.0, min(end, other_end) - max(start, other_start))
        for start, end in intervals
        for other_start, other_end in others
    )


def union(intervals: Sequence[Interval]) -> list[Interval]:
    merged: list[Interval] = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged
