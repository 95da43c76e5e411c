"""Measures the time of the sections of an evaluation."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any
from unittest import mock

import numpy as np
import torch
from tabulate import tabulate

from detectron2.modeling import GeneralizedRCNN

CLOCKS = {"wall": time.perf_counter, "CPU": time.process_time}


class Stopwatch:
    """Counts seconds by section and clock. A nested section counts as part of the outer one.

    Attributes:
        seconds: seconds of each clock by section, in the order in which they were first entered.
        total: total within :meth:`running`.
    """

    def __init__(self, device: str):
        self.seconds = defaultdict(lambda: np.zeros(len(CLOCKS)))
        self.total = np.zeros(len(CLOCKS))
        self._on_gpu = device != "cpu"
        self._inside = False

    @contextlib.contextmanager
    def section(self, name: str) -> Iterator[None]:
        if self._inside:
            yield
            return
        self._inside, start = True, self._now()
        yield
        self.seconds[name] += self._now() - start
        self._inside = False

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Measure the total around all sections. Normalizing and padding count as the forward pass."""
        preprocess = self.section("forward")(GeneralizedRCNN.preprocess_image)
        start = self._now()
        with mock.patch.object(GeneralizedRCNN, "preprocess_image", preprocess):
            yield
        self.total += self._now() - start

    def _now(self) -> np.ndarray:
        if self._on_gpu:
            torch.cuda.synchronize()
        return np.array([clock() for clock in CLOCKS.values()])


class TimedLoader:
    """A loader whose steps are in the section "decoding"."""

    def __init__(self, loader: torch.utils.data.DataLoader, watch: Stopwatch):
        self._loader, self._watch = loader, watch

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        with self._watch.section("decoding"):
            batches = iter(self._loader)
        for _ in range(len(self)):
            with self._watch.section("decoding"):
                batch = next(batches)
            yield batch


def time_tables(watches: Mapping[str, Stopwatch], images: int) -> str:
    """Format a table for each clock, with seconds and shares. For two watches, add the speedup.

    Args:
        watches: one or two with the same sections, by name.
        images: number of images that passed through a network, for the throughput in the last row.
    """
    sections = list(next(iter(watches.values())).seconds)
    tables = []
    for index, clock in enumerate(CLOCKS):
        header, columns, seconds = [f"{clock} seconds"], [], []
        for name, watch in watches.items():
            total = watch.total[index]
            parts = [watch.seconds[section][index] for section in sections]
            seconds.append(np.array([*parts, total - sum(parts), total]))
            header += [name, "share"]
            columns += [[*seconds[-1], images / total], [f"{s / total:.1%}" for s in seconds[-1]]]
        if len(watches) == 2:
            header.append("times faster")
            columns.append(seconds[0] / seconds[1])
        rows = itertools.zip_longest([*sections, "all else", "total", "images / s"], *columns)
        tables.append(tabulate(rows, header, "github", floatfmt=".2f"))
    return "\n\n".join(tables)
