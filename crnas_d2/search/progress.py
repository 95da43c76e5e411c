"""The progress report of a running search."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from detectron2.utils import comm

from ..architecture import Code, format_code
from ..engine.terminal import report
from .ranking import find_leader
from .trial import Trial

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

logger = logging.getLogger(__name__)


class Progress(contextlib.AbstractContextManager):
    """Reports the progress of a search to the terminal, the log and TensorBoard.

    The log gets a line for each architecture. The TensorBoard events in the folder of the search
    hold the metric of each architecture and of the leader over the number of architectures
    evaluated so far, their codes as texts, and the throughput.

    Args:
        folder: folder of the search, into which only the main process writes.
        metric: metric to maximize, such as "bbox/AP".
        expected: number of architectures that the search will evaluate.
        images: number of images that pass through each of them.
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
        """The writer, created lazily so that resuming a finished search adds no second file."""
        from torch.utils.tensorboard import SummaryWriter  # a dry run needs none of it

        return self._resources.enter_context(SummaryWriter(self._folder))

    def begin(self, known: int) -> None:
        """Report where the search starts.

        Args:
            known: number of architectures that were evaluated before.
        """
        self._report(known)

    def update(self, trial: Trial, done: Mapping[Code, Trial]) -> None:
        """Report a trial.

        Args:
            trial: the trial that has just finished.
            done: all trials of the search so far, including this one.
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
        """Find the best of the longest codes, which belong to the last step of a greedy search."""
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
        score = trial.metrics.get(self._metric)  # None if the images have no object that it counts
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
