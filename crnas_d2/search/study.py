"""Scores of architectures, each one evaluated once."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.utils import comm

from ..architecture import Code
from .trial import Trial
from ..evaluation.evaluator import ArchitectureEvaluator
from .ledger import Ledger
from .progress import Progress


class Study:
    """What a strategy calls to score architectures: it takes them from the ledger, or has them
    evaluated, and records each as soon as it is scored.

    Every process calls it alike and gets the same scores.

    Attributes:
        done: all evaluations so far.
    """

    def __init__(
        self,
        cfg: CfgNode,
        evaluator: ArchitectureEvaluator,
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
        self._known = comm.all_gather(ledger.evaluations if ledger else None)[0]
        progress.begin(len(self._known))

    def __call__(self, codes: Sequence[Code]) -> list[float | None]:
        """The metric of each architecture; None for one that failed or was dropped."""
        self.done.update((code, self._known[code]) for code in codes if code in self._known)
        missing = [code for code in codes if code not in self.done]
        for trial in self._evaluator.evaluate(missing):
            self._record([trial], trial.seconds)
        return [self._score(self.done[code]) for code in codes]

    def _record(self, evaluations: Sequence[Trial], seconds: float) -> None:
        for evaluation in evaluations:
            if self._ledger:
                self._ledger.record(evaluation, seconds / len(evaluations))
            self.done[evaluation.code] = evaluation
        self._progress.update(evaluations, seconds, self.done)

    def _score(self, evaluation: Trial) -> float | None:
        return evaluation.metrics[self._search.METRIC] if evaluation.status == "done" else None
