"""Scores of architectures that race over archval, most of which are dropped on the way."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import cached_property

from detectron2.utils import comm

from ..evaluation.detections import Detections
from ..evaluation.evaluator import together
from ..architecture import Code
from .trial import Trial
from .study import Study
from .racing import race


class RacedStudy(Study):
    """Like :class:`Study`, with ``SEARCH.RACING``.

    The ledger keeps what each architecture has found on each slice of archval, so that a race that
    was stopped takes the same decisions again and goes on.
    """

    @cached_property
    def _slices(self) -> list[range]:
        """The mini-batches of each slice."""
        batches = self._evaluator.mini_batches
        count = min(self._search.RACING.SLICES, batches)
        ends = [batches * i // count for i in range(count + 1)]
        return [range(first, last) for first, last in zip(ends, ends[1:])]

    def __call__(self, codes: Sequence[Code]) -> list[float | None]:
        if comm.is_main_process():
            self._race(codes)
            self._share(None)
        else:
            while (task := self._share(None)) is not None:
                comm.gather(self._evaluator.detect(*task))
        self.done = comm.all_gather(self.done)[0]
        return [self._score(self.done[code]) for code in codes]

    def _race(self, codes: Sequence[Code]) -> None:
        began = time.perf_counter()
        seen = race(
            codes,
            [self._evaluator.image_ids(batches) for batches in self._slices],
            self._detect,
            self._evaluator.scorer.ground_truth,
            self._evaluator.scorer.contiguous_ids,
            confidence=self._search.RACING.CONFIDENCE,
            resamples=self._search.RACING.RESAMPLES,
            seed=self._search.SEED,
            iou_type=self._search.METRIC.split("/")[0],
        )
        self.done |= {code: self._known[code] for code in codes if code in self._known}
        finished = [self._finish(code, seen[code]) for code in codes if code not in self.done]
        if finished:
            self._record(finished, time.perf_counter() - began)

    def _detect(self, codes: Sequence[Code], index: int) -> Mapping[Code, Detections]:
        """What architectures find on a slice; those that fail are recorded and left out."""
        recorded = self._ledger.detections(index)
        failed = {code for code, trial in self._known.items() if trial.status == "failed"}
        missing = [code for code in codes if code not in recorded and code not in failed]
        for start in range(0, len(missing), self._search.GROUP_SIZE):
            group = missing[start : start + self._search.GROUP_SIZE]
            own = self._evaluator.detect(*self._share((group, self._slices[index])))
            found = [together(parts) for parts in zip(*comm.gather(own))]
            whole = {c: d.to_bytes() for c, d in zip(group, found) if isinstance(d, Detections)}
            for code, reason in zip(group, found):
                if code not in whole:
                    self._known[code] = self._evaluator.score(code, reason)
                    self._ledger.record(self._known[code], 0.0)
            self._ledger.record_slice(index, whole)
            recorded |= whole
        return {code: Detections.from_bytes(recorded[code]) for code in codes if code in recorded}

    def _finish(self, code: Code, slices: int) -> Trial:
        found = map(Detections.from_bytes, self._ledger.detections_of(code)[:slices])
        detections = Detections.concatenate(found)
        if slices == len(self._slices):
            return self._evaluator.score(code, detections)
        image_ids = self._evaluator.image_ids(range(self._slices[slices - 1].stop))
        return self._evaluator.score(code, detections, image_ids)

    def _share(self, task: tuple[Sequence[Code], range] | None) -> tuple | None:
        """The main process tells all others what to run next; None is the end."""
        return comm.all_gather(task)[0]
