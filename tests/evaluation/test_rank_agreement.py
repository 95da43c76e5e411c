"""Rank agreement, against pairs that are counted and simulated lists whose truth is known."""

import json
from dataclasses import replace
from itertools import combinations
from math import asin, pi

import numpy as np
import pytest

from crnas_d2.evaluation.bootstrap import poisson_weights
from crnas_d2.evaluation.rank_agreement import (
    agree,
    count_level,
    highest_tau,
    kendall_tau,
    level_with_leader,
    pairwise_taus,
)
from crnas_d2.search.ranking import rank
from crnas_d2.search.trial import Resampled, Trial

CODES = [(5, 1, 1, 1), (2, 2, 2, 2), (1, 5, 1, 1), (1, 1, 5, 1), (1, 1, 1, 5)]


def counted_tau(x, y):
    """Tau-b by its definition."""
    signs = [np.sign([x[i] - x[j], y[i] - y[j]]) for i, j in combinations(range(len(x)), 2)]
    product = sum(a * b for a, b in signs)
    return product / (sum(a != 0 for a, _ in signs) * sum(b != 0 for _, b in signs)) ** 0.5


def table(values):
    return dict(zip(CODES, values))


@pytest.mark.parametrize("seed", range(5))
def test_tau_counts_pairs(seed):
    x, y = np.random.default_rng(seed).integers(0, 4, (2, 5))  # with ties
    assert kendall_tau(table(x), table(y)) == pytest.approx(counted_tau(x, y))


def test_tau_of_codes_in_both_tables():
    first, second = table([1, 2, 3, 4, 5]), table([1, 3, 2, 4, 5])
    del first[CODES[1]], second[CODES[4]]
    assert kendall_tau(first, dict(reversed(second.items()))) == 1


@pytest.mark.parametrize("values", [[1], [2, 2, 2, 2, 2]])
def test_tau_without_a_value(values):
    assert kendall_tau(table(values), table([1, 2, 3, 4, 5])) is None


def test_taus_between_tables():
    tables = {"a": table([1, 2, 3, 4, 5]), "b": table([5, 4, 3, 2, 1]), "c": table([1, 2, 3, 5, 4])}
    assert pairwise_taus(tables) == pytest.approx(
        {("a", "b"): -1, ("a", "c"): 0.8, ("b", "c"): -0.8}
    )


def test_agreement_with_a_short_list():
    scores = table([30, 28, 29, 31, 10])
    alone = {
        CODES[0]: [70.0, 71.0],
        CODES[1]: [73.0, 72.0],
        CODES[2]: [71.0, 71.5],
        CODES[4]: [60.0, 61.0],
        (9, 9, 9, 9): [99.0, 99.0],
    }
    found = agree(scores, alone)
    assert (found.codes, found.seeds) == (4, 2)
    assert (found.choice, found.best) == (CODES[0], CODES[1])
    assert found.regret == pytest.approx(72.5 - 70.5)
    assert found.tau == pytest.approx(counted_tau([30, 28, 29, 10], [70.5, 72.5, 71.25, 60.5]))
    assert found.highest_tau == highest_tau(
        [alone[code] for code in (CODES[0], CODES[1], CODES[2], CODES[4])]
    )
    content = json.loads(json.dumps(found.as_json(), allow_nan=False))
    assert (content["choice"], content["regret"]) == ("5-1-1-1", 2)


def test_agreement_of_equal_codes_takes_the_smaller_code():
    found = agree(table([30, 30, 29]), {code: [70.0] for code in CODES[:3]})
    assert (found.choice, found.best, found.regret) == (CODES[1], CODES[2], 0)
    assert (found.tau, found.highest_tau) == (None, None)


@pytest.mark.parametrize(
    "alone, message",
    [
        ({(9, 9, 9, 9): [1.0]}, "none of the 1 codes trained alone has a score"),
        ({CODES[0]: [1.0], CODES[1]: [1.0, 2.0]}, r"\[1, 2\] seeds; expected one number"),
    ],
)
def test_no_agreement(alone, message):
    with pytest.raises(ValueError, match=message):
        agree(table([1, 2, 3, 4, 5]), alone)


@pytest.mark.parametrize("seeds", [1, 3, 5])
@pytest.mark.parametrize("ratio", [0.5, 1, 2])
def test_formula_of_the_highest_tau(seeds, ratio):
    """A perfect ranking of 12 codes beside means over seeds, many times."""
    rng = np.random.default_rng(seeds)
    truth = rng.normal(0, ratio, (4000, 12))
    measured = truth + rng.normal(0, 1, (4000, 12)) / seeds**0.5
    i, j = np.triu_indices(12, 1)
    taus = np.sign((truth[:, i] - truth[:, j]) * (measured[:, i] - measured[:, j])).mean(1)
    rho = (ratio**2 / (ratio**2 + 1 / seeds)) ** 0.5
    assert taus.mean() == pytest.approx(2 / pi * asin(rho), abs=0.01)


@pytest.mark.parametrize("seeds", [2, 5])
@pytest.mark.parametrize("ratio", [0.5, 1, 2])
@pytest.mark.parametrize("common", [0, 3])
def test_highest_tau_of_many_codes(seeds, ratio, common):
    """What the seeds do to all codes changes nothing."""
    rng = np.random.default_rng(0)
    aps = 70 + rng.normal(0, ratio, (30_000, 1)) + rng.normal(0, 1, (30_000, seeds))
    aps += rng.normal(0, common, seeds)
    rho = (ratio**2 / (ratio**2 + 1 / seeds)) ** 0.5
    assert highest_tau(aps) == pytest.approx(2 / pi * asin(rho), abs=0.03)


def test_highest_tau_of_a_short_list():
    """With 6 codes it is rough, and not far off on average."""
    rng = np.random.default_rng(0)
    lists = rng.normal(0, 1, (1500, 6, 1)) + rng.normal(0, 1, (1500, 6, 3))
    estimates = [highest_tau(aps) for aps in lists]
    assert np.mean(estimates) == pytest.approx(2 / pi * asin(0.75**0.5), abs=0.08)


def test_highest_tau_at_the_ends():
    assert highest_tau([[1, 1], [2, 2], [3, 3]]) == 1
    assert highest_tau([[1, 4], [4, 1], [2, 3]]) == 0
    assert highest_tau([[70, 71], [70, 71], [70, 71]]) is None
    assert highest_tau([[1], [2], [3]]) is None
    assert highest_tau([[1, 2], [2, 4]]) is None


def test_level_with_leader():
    rng = np.random.default_rng(0)
    luck = rng.normal(0, 5, 500)  # of the images, with all codes
    noise = rng.normal(0, 1, (4, 500))
    aps = np.array([68.0, 71.0, 70.0, 71.0])
    resampled = aps[:, None] + luck + noise
    resampled[2] = resampled[1] - 1  # always 1 below
    resampled = np.hstack([resampled, np.full((4, 2), np.nan)])
    assert level_with_leader(aps, resampled).tolist() == [False, False, False, True]


def test_codes_of_a_ranking_that_are_level_with_its_leader():
    aps = [71.0, 70.9, 70.8, 60.0, 70.7]
    drawn = np.array(aps)[:, None] + np.random.default_rng(0).normal(0, 1, (5, 200))
    trials = {
        code: Trial(code, "done", {"bbox/AP": ap}, 9, resampled=Resampled.of("bbox/AP", values))
        for code, ap, values in zip(CODES, aps, drawn)
    }
    ranking = rank(CODES, aps)
    assert count_level(ranking, trials, "bbox/AP") == 3
    assert count_level(ranking, trials, "bbox/AP50") is None
    longer = rank([(*code, 0, 0) for code in CODES], aps)  # by entries that are no choice
    assert count_level(longer, trials, "bbox/AP") == 3
    first, second, third, *_ = CODES
    other = {
        second: Resampled.of("bbox/AP50", drawn[1]),
        third: Resampled.of("bbox/AP", drawn[2, 1:]),
    }
    changed = {code: replace(trials[code], resampled=of_code) for code, of_code in other.items()}
    assert count_level(ranking, trials | changed, "bbox/AP") == 1
    for nothing in (None, Resampled.of("bbox/AP", np.full(200, np.nan))):
        unknown = {first: replace(trials[first], resampled=nothing)}
        assert count_level(ranking, trials | unknown, "bbox/AP") is None
    assert count_level(rank(CODES, [None] * 5), trials, "bbox/AP") is None
    assert count_level(rank(CODES[:1], aps[:1]), trials, "bbox/AP") is None


def test_codes_equal_to_a_given_leader_are_told_from_it_in_few_draws():
    """Of codes as good as the leader, 2.5 % are told from it where it leads by luck. Images by the
    project's own bootstrap; the metric is a mean over them."""
    rng = np.random.default_rng(0)
    weights = poisson_weights(150, 300, seed=0)
    told = []
    for _ in range(400):
        by_image = rng.normal(0, 1, 150) + rng.normal(0, 1, (2, 150))
        level = level_with_leader(by_image.mean(1), by_image @ weights / weights.sum(0))
        told.append(level.sum() == 0)
    assert np.mean(told) == pytest.approx(0.05, abs=0.025)  # either of the two may lead


@pytest.mark.parametrize(
    "aps, resampled, message",
    [
        ([1, 2], np.ones((3, 5)), r"shapes \(2,\) and \(3, 5\)"),
        ([], np.ones((0, 5)), r"shapes \(0,\)"),
        ([1, 2], np.full((2, 5), np.nan), "0 resamples have an AP"),
    ],
)
def test_bad_resamples(aps, resampled, message):
    with pytest.raises(ValueError, match=message):
        level_with_leader(aps, resampled)
