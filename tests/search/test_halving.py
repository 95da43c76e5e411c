"""Successive halving: which mini-batches, who stays, and what a study makes of it."""

import contextlib
from dataclasses import replace
from random import Random

import pytest

from crnas_d2.config import default_config
from crnas_d2.search.halving import keep_best, rungs
from crnas_d2.search.ledger import Ledger
from crnas_d2.search.progress import Progress
from crnas_d2.search.study import Study
from crnas_d2.search.trial import Trial

AP = "bbox/AP"
CODES = [(i, j) for i in range(1, 7) for j in range(1, 7)]


@pytest.mark.parametrize(
    "batches, first, factor, sizes",
    [
        (5000, 250, 4, [313, 1250, 5000]),
        (7, 2, 2, [2, 4, 7]),
        (7, 3, 2, [4, 7]),
        (7, 4, 3, [7]),
        (3, 1, 4, [1, 3]),
        (1, 1, 2, [1]),
    ],
)
def test_rungs(batches, first, factor, sizes):
    found = rungs(batches, first, factor)
    assert [len(rung) for rung in found] == sizes
    for part, larger in zip(found, found[1:]):
        assert set(part) < set(larger)  # evenly spread, and each in the next
    assert list(found[-1]) == list(range(batches))


def test_the_best_are_kept():
    """In the order of the codes, not of the scores."""
    codes, scores = [(1,), (2,), (3,), (4,), (5,)], [1.0, 2.0, None, 5.0, 5.0]
    assert keep_best(codes, scores, 2) == [(2,), (4,), (5,)]
    assert keep_best([(1,), (2,)], [None, None], 2) == []


class Evaluator:
    """Architectures whose AP on a part of 64 images is off by a number that halves with its size."""

    mini_batches = 64

    def __init__(self, stop_after=10**9):
        self.evaluated = []
        self._left = stop_after

    def image_ids(self, batches):
        return list(batches)

    def evaluate(self, codes, batches):
        for code in codes:
            if not self._left:
                raise KeyboardInterrupt
            self._left -= 1
            self.evaluated.append((code, len(batches)))
            if code == (3, 3):
                yield Trial(code, "failed", images=len(batches), reason="a feature is NaN")
                continue
            off = Random(f"{code} {len(batches)}").uniform(-64, 64) / len(batches)
            score = 5 * code[0] + code[1] + off * (len(batches) < 64)
            status = "done" if len(batches) == 64 else "dropped"
            yield Trial(code, status, {AP: score}, len(batches))


class Silent:
    def begin(self, known):
        pass

    def update(self, trial, done):
        pass


def study(evaluator, ledger=None, progress=Silent(), **halving):
    cfg = default_config()
    cfg.SEARCH.IMAGES_PER_BATCH = 1
    for key, value in {"ENABLED": True, "FACTOR": 4, "MIN_IMAGES": 4, **halving}.items():
        cfg.SEARCH.HALVING[key] = value
    return Study(cfg, evaluator, ledger, progress)


def test_a_study_halves():
    evaluator = Evaluator()
    halved = study(evaluator)
    scores = dict(zip(CODES, halved(CODES)))
    sizes = [size for _, size in evaluator.evaluated]
    assert sizes == 36 * [4] + 9 * [16] + 3 * [64]
    last = [code for code, size in evaluator.evaluated if size == 64]
    assert {code for code, score in scores.items() if score is not None} == set(last)
    assert (6, 6) in last and scores[6, 6] == 36  # 1 below it is all that noise can cost here
    statuses = [halved.done[code].status for code in CODES]
    assert [statuses.count(s) for s in ("done", "dropped", "failed")] == [3, 32, 1]


def test_a_study_that_was_stopped_goes_on(tmp_path):
    path = str(tmp_path / "ledger.sqlite")
    whole = study(Evaluator())
    expected = whole(CODES)
    evaluated = []
    for stop_after in (20, 20, 5, 1000):
        with Ledger(path, {}) as ledger, contextlib.suppress(KeyboardInterrupt):
            evaluator = Evaluator(stop_after)
            halved = study(evaluator, ledger)
            scores = halved(CODES)
        evaluated += evaluator.evaluated
    assert scores == expected and halved.done == whole.done
    assert len(evaluated) == len(set(evaluated)) == 36 + 9 + 3
    with Ledger(path, {}) as ledger:
        evaluator = Evaluator()
        plain = study(evaluator, ledger, ENABLED=False)(CODES)
    assert len(evaluator.evaluated) == 36 - 3
    assert [score for score in plain if score is None] == [None]


def test_an_archval_that_is_too_small():
    message = "SEARCH.HALVING.MIN_IMAGES is 17; expected at most 16, as archval has 64 images"
    with pytest.raises(ValueError, match=message):
        study(Evaluator(), MIN_IMAGES=17)


def test_a_part_without_what_the_metric_counts_drops_nobody(tmp_path):
    """Such as small objects, of which all of archval has some."""

    class Rare(Evaluator):
        def evaluate(self, codes, batches):
            for trial in super().evaluate(codes, batches):
                if len(batches) == 4 and trial.metrics:
                    trial = replace(trial, metrics={"bbox/AP50": 1.0})
                yield trial

    path, sizes = str(tmp_path / "ledger.sqlite"), []
    for _ in range(2):
        with Ledger(path, {}) as ledger, Progress(str(tmp_path), AP, 36, 64) as progress:
            evaluator = Rare()
            scores = study(evaluator, ledger, progress)(CODES)
            assert max(filter(None, scores)) == 36
        sizes += [size for _, size in evaluator.evaluated]
    assert sizes == 36 * [4] + 35 * [16] + 9 * [64]
