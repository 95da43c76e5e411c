"""Scores of architectures, each one evaluated once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from detectron2.config import CfgNode
from detectron2.utils import comm

from ..architecture import Code
from .ledger import Ledger
from .progress import Progress
from .trial import Trial


class Evaluator(Protocol):
    """What a study needs of :class:`crnas_d2.evaluation.evaluator.ArchitectureEvaluator`."""

    def evaluate(self, codes: Sequence[Code]) -> Iterable[Trial]: ...


class Study:
    """What a strategy calls to score architectures: it takes them from the ledger, or has them
    evaluated, and records each as soon as it is scored.

    Every process calls it alike and gets the same scores.

    Attributes:
        done: all trials so far.
    """

    def __init__(
        self,
        cfg: CfgNode,
        evaluator: Evaluator,
        ledger: Ledger | None,
        progress: Progress,
    ):
        """
        Args:
            cfg: of the search.
            evaluator: of the same config.
            ledger: on the main process; None on the others.
            progress: is told of all that is evaluated now.
        """
        self.done: dict[Code, Trial] = {}
        self._search = cfg.SEARCH
        self._evaluator = evaluator
        self._ledger = ledger
        self._progress = progress
        self._known = comm.all_gather(ledger.trials if ledger else None)[0]
        progress.begin(len(self._known))

    def __call__(self, codes: Sequence[Code]) -> list[float | None]:
        """The metric of each architecture; None for one that failed or was dropped."""
        known = {code: self._known[code] for code in codes if code in self._known}
        self.done |= {code: trial for code, trial in known.items() if self._is_complete(trial)}
        missing = [code for code in codes if code not in self.done]
        for trial in self._evaluator.evaluate(missing):
            self._record([trial], trial.seconds)
        return [self._score(self.done[code]) for code in codes]

    def _record(self, trials: Sequence[Trial], seconds: float) -> None:
        for trial in trials:
            if self._ledger:
                self._ledger.record(trial, seconds / len(trials))
            self.done[trial.code] = trial
        self._progress.update(trials, seconds, self.done)

    def _is_complete(self, trial: Trial) -> bool:
        """Whether it has what is asked for now; masks may not have been."""
        return trial.status == "failed" or self._search.METRIC in trial.metrics

    def _score(self, trial: Trial) -> float | None:
        return trial.metrics[self._search.METRIC] if trial.status == "done" else None
