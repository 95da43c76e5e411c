"""What a search tells while it runs."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Mapping

from torch.utils.tensorboard import SummaryWriter

from detectron2.utils import comm

from ..architecture import Code, format_code
from ..engine.terminal import report
from .ranking import find_leader
from .trial import Trial

logger = logging.getLogger(__name__)


class Progress(contextlib.AbstractContextManager):
    """Tells the terminal where the search is, writes a line into the log for each
    architecture, and TensorBoard's events into the folder of the search: the metric of each
    architecture and of the leader over the number of architectures evaluated so far, their codes as
    texts, and the throughput.

    Args:
        folder: of the search; its main process alone writes there.
        metric: that is maximized, such as "bbox/AP".
        expected: how many architectures the search will evaluate.
        images: that pass through the network of each of them.
    """

    def __init__(self, folder: str, metric: str, expected: int, images: int):
        self._folder = folder
        self._metric = metric
        self._expected = expected
        self._images = images
        self._resources = contextlib.ExitStack()

    def __exit__(self, *_) -> None:
        self._resources.close()

    @functools.cached_property
    def _writer(self) -> SummaryWriter:
        """Made when there is something to write: a search that has ended leaves no second file."""
        return self._resources.enter_context(SummaryWriter(self._folder))

    def begin(self, known: int) -> None:
        """
        Args:
            known: how many architectures were evaluated before.
        """
        self._report(known)

    def update(self, trial: Trial, done: Mapping[Code, Trial]) -> None:
        """
        Args:
            trial: that has just ended.
            done: all of the search so far, this one included.
        """
        leader = self._find_leader(done)
        leading = f"leader {leader[0]} {leader[1]:.2f}" if leader else "no leader"
        self._report(len(done), leading)
        logger.debug(f"{len(done)} of {self._expected} evaluated, {leading}")
        if comm.is_main_process():
            self._write(trial, len(done), leader)

    def _report(self, done: int, leading: str = "") -> None:
        expected = max(done, self._expected)
        report("architecture", done, expected, self._images, detail=leading)

    def _find_leader(self, done: Mapping[Code, Trial]) -> tuple[str, float] | None:
        """The best of the longest codes, which are the last step of a greedy search."""
        longest = max(map(len, done))
        scores = {
            code: trial.metrics[self._metric]
            for code, trial in done.items()
            if trial.status == "done" and len(code) == longest and self._metric in trial.metrics
        }
        if not scores:
            return None
        leader = find_leader(scores)
        return format_code(leader), scores[leader]

    def _write(self, trial: Trial, step: int, leader: tuple[str, float] | None) -> None:
        text = f"{format_code(trial.code)}: {trial.status}"
        score = trial.metrics.get(self._metric)  # not there without an object that it counts
        if score is not None:
            self._writer.add_scalar(f"search/{self._metric}", score, step)
            text += f", {score:.2f}"
        elif trial.reason:
            text += f", {trial.reason}"
        self._writer.add_text("search/architecture", text, step)
        if leader:
            self._writer.add_scalar(f"search/leader/{self._metric}", leader[1], step)
            self._writer.add_text("search/leader", leader[0], step)
        if trial.seconds:
            self._writer.add_scalar("search/architectures_per_minute", 60 / trial.seconds, step)
        self._writer.flush()
