"""Scores of architectures, each one evaluated once."""

from __future__ import annotations

import datetime
import logging
import time
from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.utils import comm

from .evaluation import Code, Evaluation, format_code
from .evaluator import ArchitectureEvaluator
from .ledger import Ledger
from .ranking import find_leader

logger = logging.getLogger(__name__)


class Evaluations:
    """What a strategy calls to score architectures: it takes them from the ledger, or has them
    evaluated, group after group, and records them.

    Every process calls it alike and gets the same scores.

    Attributes:
        expected: how many architectures the search will evaluate.
        done: all evaluations so far.
    """

    def __init__(
        self,
        cfg: CfgNode,
        evaluator: ArchitectureEvaluator,
        ledger: Ledger | None,
        expected: int,
    ):
        """
        Args:
            cfg: of the search.
            evaluator: of the same config.
            ledger: on the main process; None on the others.
            expected: see above.
        """
        self.expected = expected
        self.done: dict[Code, Evaluation] = {}
        self._search = cfg.SEARCH
        self._evaluator = evaluator
        self._ledger = ledger
        self._known = comm.all_gather(ledger.evaluations if ledger else None)[0]
        self._evaluated, self._seconds = 0, 0.0

    def __call__(self, codes: Sequence[Code]) -> list[float | None]:
        """The metric of each architecture; None for one that failed or was dropped."""
        self.done.update((code, self._known[code]) for code in codes if code in self._known)
        missing = [code for code in codes if code not in self.done]
        for start in range(0, len(missing), self._search.GROUP_SIZE):
            group = missing[start : start + self._search.GROUP_SIZE]
            began = time.perf_counter()
            evaluations = self._evaluator.evaluate(group)
            self._record(evaluations, time.perf_counter() - began)
        return [self._score(self.done[code]) for code in codes]

    def _record(self, evaluations: Sequence[Evaluation], seconds: float) -> None:
        for evaluation in evaluations:
            if self._ledger:
                self._ledger.record(evaluation, seconds / len(evaluations))
            self.done[evaluation.code] = evaluation
        self._evaluated += len(evaluations)
        self._seconds += seconds
        self._log_progress()

    def _score(self, evaluation: Evaluation) -> float | None:
        return evaluation.metrics[self._search.METRIC] if evaluation.status == "done" else None

    def _log_progress(self) -> None:
        left = (self.expected - len(self.done)) * self._seconds / self._evaluated
        longest = max(map(len, self.done))
        scores = {code: self._score(e) for code, e in self.done.items() if len(code) == longest}
        scores = {code: score for code, score in scores.items() if score is not None}
        leading = "no leader"
        if scores:
            leader = find_leader(scores)
            leading = f"leader {format_code(leader)} {scores[leader]:.2f}"
        logger.info(
            f"{len(self.done)} of {self.expected} evaluated, "
            f"eta {datetime.timedelta(seconds=round(left))}, {leading}"
        )
