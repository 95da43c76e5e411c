"""The spread of codes trained alone, against simulated ones whose truth is known, and SciPy."""

import math

import numpy as np
import pytest
from scipy.stats import f as f_distribution

from crnas_d2.evaluation.code_variance import split_variance
from crnas_d2.evaluation.rank_agreement import highest_tau


def simulate(between, within, codes, seeds, rng):
    return rng.normal(50, between, (codes, 1)) + rng.normal(0, within, (codes, seeds))


@pytest.mark.parametrize("between, within", [(2.0, 1.0), (1.0, 1.0), (1.0, 2.0)])
def test_finds_what_was_simulated(between, within):
    found = split_variance(simulate(between, within, 3000, 3, np.random.default_rng(1)))
    assert (found.codes, found.seeds) == (3000, 3)
    assert found.mean == pytest.approx(50, abs=0.15)
    assert found.between == pytest.approx(between, rel=0.1)
    assert found.within == pytest.approx(within, rel=0.06)
    assert found.paired == pytest.approx(within, rel=0.06)
    assert found.of_means**2 == pytest.approx(between**2 + within**2 / 3, rel=0.06)
    assert found.ratio == pytest.approx(between / within, rel=0.1)


def test_of_few_numbers_by_hand():
    found = split_variance([[10.0, 12.0], [20.0, 20.0], [30.0, 34.0]])
    assert found.mean == 21
    assert found.of_means**2 == pytest.approx((10**2 + 1 + 11**2) / 2)
    assert found.within**2 == pytest.approx((2 + 0 + 8) / 3)
    assert found.between**2 == pytest.approx(111 - (10 / 3) / 2)
    f = 111 / (10 / 3) * 2
    assert found.p == pytest.approx(f_distribution.sf(f, 2, 3))
    assert found.highest_tau == highest_tau([[10.0, 12.0], [20.0, 20.0], [30.0, 34.0]])


def test_what_a_seed_does_to_all_codes_is_not_noise_of_pairs():
    rng = np.random.default_rng(3)
    found = split_variance(simulate(2, 1, 3000, 4, rng) + rng.normal(0, 3, (1, 4)))
    assert found.paired == pytest.approx(1, rel=0.06)
    assert found.within > 2


def test_equal_codes_have_no_spread_and_p_is_uniform():
    rng = np.random.default_rng(2)
    found = [split_variance(simulate(0, 1, 6, 3, rng)) for _ in range(2000)]
    assert np.mean([one.p < 0.05 for one in found]) == pytest.approx(0.05, abs=0.015)
    assert min(one.between for one in found) == 0


def test_without_noise():
    found = split_variance([[1.0, 1.0], [3.0, 3.0]])
    assert (found.within, found.ratio) == (0, math.inf)
    assert found.highest_tau is None


@pytest.mark.filterwarnings("ignore")
def test_of_equal_numbers_there_is_no_ratio():
    found = split_variance([[1.0, 1.0], [1.0, 1.0]])
    assert math.isnan(found.ratio) and math.isnan(found.p)


@pytest.mark.parametrize("aps", [[], [[1.0, 2.0]], [[1.0], [2.0]], [[1.0, 2.0], [3.0]]])
def test_too_few(aps):
    with pytest.raises(ValueError, match="expected two codes or more, and two seeds or more"):
        split_variance(aps)
