"""A study of architectures, which evaluates each of them once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Protocol

from detectron2.config import CfgNode
from detectron2.utils import comm

from ..architecture import Code
from .halving import keep_best, rungs
from .ledger import Ledger
from .progress import Progress
from .trial import Trial


class Evaluator(Protocol):
    """The part of :class:`crnas_d2.evaluation.evaluator.ArchitectureEvaluator` that a study needs."""

    @property
    def mini_batches(self) -> int: ...

    def evaluate(self, codes: Sequence[Code], batches: range) -> Iterable[Trial]: ...

    def image_ids(self, batches: range) -> Sequence[int | str]: ...


class Study:
    """The evaluation function of a strategy, backed by a ledger.

    It takes scores from the ledger or has architectures evaluated, and records each score at once.
    With ``SEARCH.HALVING`` all architectures are evaluated on some images, the best of them on
    more, and so on. Every rank has to call it in the same way and gets the same scores.

    Attributes:
        done: all trials so far. Of each architecture, the one on the most images.
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
            cfg: config of the search.
            evaluator: evaluator of the same config.
            ledger: the ledger on the main process, None on the others.
            progress: receives a report of all new evaluations.
        """
        self.done: dict[Code, Trial] = {}
        self._search = cfg.SEARCH
        self._evaluator = evaluator
        self._ledger = ledger
        self._progress = progress
        recorded = comm.all_gather(ledger.recorded if ledger else [])[0]
        self._known = {(trial.code, trial.images): trial for trial in recorded}
        images = len(evaluator.image_ids(range(evaluator.mini_batches)))
        self._rungs = find_rungs(cfg, images)
        progress.begin(len({trial.code for trial in recorded}))

    def __call__(self, codes: Sequence[Code]) -> list[float | None]:
        """Get the metric of each architecture. None for one that failed or was dropped."""
        left = list(codes)
        for batches in self._rungs[:-1]:
            scores = self._evaluate(left, batches)
            ran = [code for code in left if self.done[code].status != "failed"]
            # If these images have no object that the metric counts, they decide nothing.
            left = keep_best(left, scores, self._search.HALVING.FACTOR) or ran
        last = dict(zip(left, self._evaluate(left, self._rungs[-1])))
        return [last.get(code) for code in codes]

    def _evaluate(self, codes: Sequence[Code], batches: range) -> list[float | None]:
        """Get the metric of each architecture on some mini-batches of archval."""
        images = len(self._evaluator.image_ids(batches))
        known = (self._known.get((code, images)) for code in codes)
        self.done |= {trial.code: trial for trial in known if trial and self._is_complete(trial)}
        missing = [c for c in codes if c not in self.done or self.done[c].images != images]
        for trial in self._evaluator.evaluate(missing, batches):
            if self._ledger:
                self._ledger.record(trial)
            self.done[trial.code] = trial
            self._progress.update(trial, self.done)
        return [self.done[code].metrics.get(self._search.METRIC) for code in codes]

    def _is_complete(self, trial: Trial) -> bool:
        """Whether the trial has the task that is scored now. Masks may not have been scored before."""
        task = self._search.METRIC.partition("/")[0]
        return trial.status == "failed" or any(n.startswith(f"{task}/") for n in trial.metrics)


def find_rungs(cfg: CfgNode, images: int) -> list[range]:
    """Get the mini-batches of archval for each round of comparisons, in order.

    Args:
        cfg: config of the search, after :func:`~crnas_d2.procedure.search_keys.settled`.
        images: number of images in archval.

    Raises:
        ValueError: archval has too few images for ``SEARCH.HALVING``.
    """
    size, halving = cfg.SEARCH.IMAGES_PER_BATCH, cfg.SEARCH.HALVING
    batches = math.ceil(images / size)
    if not halving.ENABLED:
        return [range(batches)]
    found = rungs(batches, math.ceil(halving.MIN_IMAGES / size), halving.FACTOR)
    if len(found) == 1:
        raise ValueError(
            f"SEARCH.HALVING.MIN_IMAGES is {halving.MIN_IMAGES}; expected at most "
            f"{images // halving.FACTOR}, as archval has {images} images"
        )
    return found
