"""The verdict's numbers, against brute force and against simulated runs whose true gain is known."""

import json
import re
from functools import lru_cache
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from evaluation.made_scenes import CONTIGUOUS_IDS, make_annotations, make_coco
from scipy.stats import permutation_test, ttest_1samp

from crnas_d2.evaluation.bootstrap import ResampledImages, poisson_weights
from crnas_d2.evaluation.detections import Detections
from crnas_d2.evaluation.paired_comparison import PairedComparison, compare_pairs, same_network
from crnas_d2.evaluation.paired_statistics import (
    half_width,
    image_variances,
    sign_flip_p,
    smallest_gain,
)

SEED_SD = 1.1  # of one network; measured
IMAGES, RESAMPLES, RUNS = 100, 200, 4000


@lru_cache(maxsize=3)  # of up to 50 MB each
def simulate(n, shared_sd, own_sd, runs=RUNS):
    """Differences (n, runs) and (n, RESAMPLES, runs) of two networks that are equally good.

    The metric is a mean over images. Images favor one of the networks with all seeds
    (``shared_sd``, of the mean over the images), and one of the trainings (``own_sd``).
    """
    rng = np.random.default_rng(n)
    by_image = rng.standard_normal((n, IMAGES, runs), np.float32) * np.float32(own_sd * 10)
    by_image += rng.normal(0, shared_sd * 10, (IMAGES, runs))
    by_image += rng.normal(0, SEED_SD * 2**0.5, (n, 1, runs))
    weights = poisson_weights(IMAGES, RESAMPLES, seed=1)
    return by_image.mean(1), (weights / weights.sum(0)).T @ by_image


def intervals(differences, resampled):
    """(2, runs)."""
    shared = image_variances(differences, resampled)[1]
    half = half_width(len(differences), differences.var(0, ddof=1), shared)
    return differences.mean(0) + np.array([-1, 1])[:, None] * half


def verdict_rates(n, gain, shared_sd, own_sd=0.3):
    """The shares of runs whose verdict is "better" and "worse"."""
    differences, resampled = simulate(n, shared_sd, own_sd)
    differences = differences + gain
    low, high = intervals(differences, resampled)
    better = (low > 0) & (sign_flip_p(differences) <= 0.05)
    worse = (high < 0) & (sign_flip_p(-differences) <= 0.05)
    return better.mean(), worse.mean()


@pytest.mark.parametrize("n", [1, 2, 5, 9])
@pytest.mark.parametrize("digits", [0, 1, 12])
def test_sign_flips_are_counted(n, digits):
    differences = np.random.default_rng(n).normal(0.4, 1, n).round(digits)
    flipped = [np.dot(signs, differences) for signs in product([1, -1], repeat=n)]
    at_least = np.mean([value > differences.sum() - 1e-6 for value in flipped])
    at_most = np.mean([value < differences.sum() + 1e-6 for value in flipped])
    comparison = compare_pairs(50 + differences, np.full(n, 50))
    assert (comparison.p_better, comparison.p_worse) == (at_least, at_most)


def test_sign_flips_equal_scipy():
    differences = np.random.default_rng(1).normal(0.5, 1, (6, 50))
    p = permutation_test(
        [differences], np.mean, permutation_type="samples", alternative="greater", n_resamples=1e9
    ).pvalue
    np.testing.assert_array_equal(sign_flip_p(differences), p)


@pytest.mark.parametrize("n, smallest", [(4, 0.0625), (5, 0.03125), (10, 2**-10)])
def test_smallest_p(n, smallest):
    assert compare_pairs(range(10, 10 + n), range(n)).p_better == smallest
    assert compare_pairs(range(n), range(10, 10 + n)).p_worse == smallest


def test_numbers_of_a_small_case():
    found, baseline = [71.0, 70.0, 72.5], [70.0, 70.0, 73.0]
    resampled = np.array([[70, 72], [69, 71], [71, 74.0]])
    comparison = compare_pairs(found, baseline, resampled, np.full((3, 2), 70.0))
    assert comparison.differences == (1, 0, -0.5)
    assert (comparison.wins, comparison.ties) == (1, 1)
    assert comparison.mean == pytest.approx(1 / 6)
    assert comparison.found_mean == pytest.approx(71.1666667)
    assert comparison.found_sd == pytest.approx(1.2583057)
    assert (comparison.baseline_mean, comparison.baseline_sd) == pytest.approx((71, 3**0.5))
    assert comparison.interval_seeds == pytest.approx(
        ttest_1samp(comparison.differences, 0).confidence_interval()
    )
    # The means in the two resamples are 0 and 7/3, so their variance is 49/18.
    half = 1.959964 * (49 / 18) ** 0.5
    assert comparison.interval_images == pytest.approx((1 / 6 - half, 1 / 6 + half))
    # Less the means, the seeds have (0, -1/3), (-1, -4/3), (1, 5/3) in the resamples: variances
    # 1/18, 1/18, 4/18, so 1/6 of each seed's own, and a third of that in their mean.
    half_seeds = comparison.interval_seeds[1] - comparison.mean
    half = (half_seeds**2 + 1.959964**2 * (49 / 18 - 1 / 18)) ** 0.5
    assert comparison.interval == pytest.approx((1 / 6 - half, 1 / 6 + half))


@pytest.mark.parametrize("n", [5, 10])
@pytest.mark.parametrize("shared_sd, own_sd", [(0.3, 0.3), (0.6, 0.3), (0, 0.6), (2, 2)])
def test_interval_covers_the_truth(n, shared_sd, own_sd):
    low, high = intervals(*simulate(n, shared_sd, own_sd))
    assert 0.94 <= ((low <= 0) & (0 <= high)).mean() <= 0.975


def detect(rng, annotations, luck, spread):
    """A detection near each object, the farther the worse the luck with its image; some anywhere."""
    found = []
    for a in annotations:
        box = a["bbox"] + rng.normal(0, spread * luck[a["image_id"]], 4)
        found.append((a["image_id"], CONTIGUOUS_IDS[a["category_id"]], box, rng.uniform(0.5, 1)))
    for image_id in range(1, len(luck)):
        box = [*rng.uniform(0, 50, 2), *rng.uniform(10, 40, 2)]
        found.append((image_id, int(rng.integers(4)), np.array(box), rng.uniform(0, 0.7)))
    keys = ("image_id", "category_id", "bbox", "score")
    return Detections.from_json(
        [dict(zip(keys, (i, c, np.clip(box, 1, 90).tolist(), score))) for i, c, box, score in found]
    )


def test_interval_of_cocos_ap_covers_the_truth():
    """Pairs of equally good detectors on scenes drawn anew: the whole interval has 0 in it in about
    95 % of 50 runs, the parts alone in fewer."""
    covered = []
    for run in range(50):
        rng = np.random.default_rng(run)
        ids = range(1, 31)
        annotations = make_annotations(rng, ids)
        weights = np.hstack([np.ones((30, 1)), poisson_weights(30, 60, run)])
        images = ResampledImages(make_coco(ids, annotations), CONTIGUOUS_IDS, weights)
        aps = np.empty((2, 5, 61))
        for of_network in aps:
            luck = np.exp(rng.normal(0, 0.5, 31))  # of all seeds with an image
            for seed in range(5):
                spread = 3 * np.exp(rng.normal(0, 0.2))
                of_network[seed] = images.ap(detect(rng, annotations, luck, spread))
        found, baseline = aps
        comparison = compare_pairs(found[:, 0], baseline[:, 0], found[:, 1:], baseline[:, 1:])
        parts = comparison.interval, comparison.interval_seeds, comparison.interval_images
        covered.append([low <= 0 <= high for low, high in parts])
    whole, seeds, images = np.mean(covered, axis=0)
    assert whole >= 0.9 > max(seeds, images)


@pytest.mark.parametrize("n", [5, 10])
def test_own_luck_of_seeds_is_not_counted_twice(n):
    own_sd, shared_sd = 0.8, 0.5
    total, shared = image_variances(*simulate(n, shared_sd, own_sd))
    assert total.mean() == pytest.approx(shared_sd**2 + own_sd**2 / n, rel=0.05)
    assert shared.mean() == pytest.approx(shared_sd**2, rel=0.1)


def test_whole_interval_contains_both_parts():
    # Many networks that differ in their luck with the images alone, few of them with a wide spread.
    for run in range(200):
        rng = np.random.default_rng(run)
        found, baseline = rng.normal(70, rng.choice([0.1, 2]), (2, 5))
        resampled = found[:, None] + rng.normal(0, 1.5, (5, 50))
        whole = compare_pairs(found, baseline, resampled, np.tile(baseline[:, None], 50))
        for part in (whole.interval_seeds, whole.interval_images):
            assert whole.interval[0] <= part[0] + 1e-9 and part[1] <= whole.interval[1] + 1e-9


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_too_few_seeds_are_never_a_verdict(n):
    assert compare_pairs(range(50, 50 + n), range(n)).verdict == "not shown"
    assert compare_pairs(range(n), range(50, 50 + n)).verdict == "not shown"


@pytest.mark.parametrize("n", [5, 6, 10])
@pytest.mark.parametrize("shared_sd", [0.3, 0.6])
def test_verdict_without_an_effect(n, shared_sd):
    better, worse = verdict_rates(n, 0, shared_sd)
    assert 0.005 < better < 0.032 and 0.005 < worse < 0.032


def documented_rates():
    """The rows of the table in docs/verdict.md, percentages as fractions."""
    text = Path(__file__).parents[2].joinpath("docs", "verdict.md").read_text(encoding="utf-8")
    for row in re.findall(r"^\| (\d+ \| 0\..*) \|$", text, re.MULTILINE):
        cells = [cell.removesuffix(" AP") for cell in row.split(" | ")]
        yield [float(c[:-2]) / 100 if c.endswith(" %") else c for c in cells]


@pytest.mark.parametrize(
    "row", [pytest.param(row, id=f"{row[0]}-{row[1]}") for row in documented_rates()]
)
def test_rates_in_the_docs(row):
    n, shared_sd = int(row[0]), float(row[1])
    low, high = intervals(*simulate(n, shared_sd, 0.3))
    assert row[2] == pytest.approx(((low <= 0) & (0 <= high)).mean(), abs=0.012)
    assert row[3:5] == pytest.approx(verdict_rates(n, 0, shared_sd), abs=0.008)
    for gain, power in zip((1, 2, 3), row[5:8]):
        better, worse = verdict_rates(n, gain, shared_sd)
        assert power == pytest.approx(better, abs=0.03)
        assert worse < 0.005
        assert power == pytest.approx(verdict_rates(n, -gain, shared_sd)[1], abs=0.03)
    gain = smallest_gain(n, (2 * SEED_SD**2 + 0.3**2) ** 0.5, shared_sd)
    assert row[8] == "none" if gain is None else float(row[8]) == pytest.approx(gain, abs=0.06)


def test_docs_have_rates_of_5_and_10_seeds():
    assert {5, 10} <= {int(row[0]) for row in documented_rates()}


def rates_by_seeds_alone(differences):
    """As :func:`verdict_rates`, without resampled images."""
    half = half_width(len(differences), differences.var(0, ddof=1), 0)
    above, below = (sign * differences.mean(0) > half for sign in (1, -1))
    p_better, p_worse = sign_flip_p(differences), sign_flip_p(-differences)
    return (above & (p_better <= 0.05)).mean(), (below & (p_worse <= 0.05)).mean()


@pytest.mark.parametrize("n", [5, 10])
def test_noise_that_is_not_normal(n):
    rng = np.random.default_rng(0)
    failing = rng.normal(0, SEED_SD, (2, n, RUNS)) - 8 * (rng.random((2, n, RUNS)) < 0.1)
    for differences in (rng.standard_t(3, (n, RUNS)), failing[0] - failing[1]):
        better, worse = rates_by_seeds_alone(differences)
        assert 0.005 < better < 0.027 and 0.005 < worse < 0.027
    skewed = rng.exponential(SEED_SD, (n, RUNS)) - SEED_SD - rng.normal(0, SEED_SD, (n, RUNS))
    assert max(rates_by_seeds_alone(skewed)) < 0.046


@pytest.mark.parametrize(
    "n, image_sd, errors", [(5, 0.3, 0.027), (10, 0.3, 0.043), (5, 0.6, 0.045), (10, 0.6, 0.092)]
)
def test_errors_where_images_are_not_resampled(n, image_sd, errors):
    rng = np.random.default_rng(0)
    images = rng.normal(0, image_sd, 4 * RUNS)
    differences = rng.normal(0, 2**0.5 * SEED_SD, (n, 4 * RUNS)) + images
    assert np.mean(rates_by_seeds_alone(differences)) == pytest.approx(errors, abs=0.005)


@pytest.mark.parametrize("n", [5, 6, 10])
@pytest.mark.parametrize("shared_sd", [0.01, 0.6])
def test_smallest_gain_is_seen_in_four_of_five_runs(n, shared_sd):
    gain = smallest_gain(n, (2 * SEED_SD**2 + 0.3**2) ** 0.5, shared_sd)
    better, worse = verdict_rates(n, gain, shared_sd)
    assert better == pytest.approx(0.8, abs=0.03)


def test_smallest_gain_scales_with_the_noise():
    assert smallest_gain(7, 3, 1.5) == pytest.approx(3 * smallest_gain(7, 1, 0.5))
    assert smallest_gain(4, 1, 0.5) is None
    assert smallest_gain(5, 0, 0) is None


def test_verdicts_are_those_of_the_simulation():
    n, runs = 5, 150
    differences, resampled = simulate(n, 0.3, 0.3)
    differences, resampled = differences[:, :runs] + 2, resampled[:, :, :runs] + 2
    low, high = intervals(differences, resampled)
    better = (low > 0) & (sign_flip_p(differences) <= 0.05)
    assert 40 < better.sum() < 110
    for run in range(runs):
        baseline = np.random.default_rng(run).normal(70, 1.1, n)
        parts = baseline, baseline[:, None] + np.linspace(-2, 2, RESAMPLES)
        found = [part + d[..., run] for part, d in zip(parts, (differences, resampled))]
        comparison = compare_pairs(found[0], parts[0], found[1], parts[1])
        assert comparison.verdict == ("better" if better[run] else "not shown")
        assert comparison.interval == pytest.approx((low[run], high[run]), abs=1e-5)


BETTER = [72.0, 71.0, 71.5, 73.0, 72.5], [70.0, 69.8, 70.0, 70.5, 70.1]


@pytest.mark.parametrize(
    "found, baseline, verdict, reason",
    [
        (
            *BETTER,
            "better",
            "The 95 % interval of the gain, +1.22 to +2.62 AP, which holds for these test images "
            "only, is above 0, with 5 wins of 5 seeds (sign-flip p 0.031).",
        ),
        (
            *BETTER[::-1],
            "worse",
            "The 95 % interval of the gain, -2.62 to -1.22 AP, which holds for these test images "
            "only, is below 0, with 0 wins of 5 seeds (sign-flip p 0.031).",
        ),
        (
            [71.0, 70.0, 72.0, 69.0, 71.0],
            [70.0] * 5,
            "not shown",
            "The 95 % interval of the gain, -0.82 to +2.02 AP, which holds for these test images "
            "only, contains 0; with 5 seeds and this noise 4 of 5 runs would show a true gain of "
            "2.1 AP.",
        ),
        (
            [71.0, 71.0, 71.0, 71.0, 70.0],
            [70.0] * 5,
            "not shown",
            "The 95 % interval of the gain, +0.24 to +1.36 AP, which holds for these test images "
            "only, is above 0, but with 4 wins of 5 seeds (sign-flip p 0.062); a verdict needs a p of "
            "0.05 or less.",
        ),
        (
            [75.0, 75.1, 74.9],
            [70.0] * 3,
            "not shown",
            "3 seeds are too few for any test: the sign-flip p cannot be below 0.125, and 0.05 or "
            "less needs 5 seeds.",
        ),
        (
            [75.0],
            [70.0],
            "not shown",
            "1 seed is too few for any test: the sign-flip p cannot be below 0.5, and 0.05 or less "
            "needs 5 seeds.",
        ),
        (
            [70.0] * 6,
            [70.0] * 6,
            "not shown",
            "There is no difference: both networks have the same AP with each of 6 seeds.",
        ),
    ],
)
def test_reasons(found, baseline, verdict, reason):
    comparison = compare_pairs(found, baseline)
    assert (comparison.verdict, comparison.reason) == (verdict, reason)


def test_images_decide_too():
    resampled = np.tile(np.array(BETTER[0])[:, None], 200)
    resampled += np.random.default_rng(0).normal(0, 1, 200)
    comparison = compare_pairs(*BETTER, resampled, np.tile(np.array(BETTER[1])[:, None], 200))
    assert comparison.interval_seeds[0] > 0 > comparison.interval[0]
    assert comparison.verdict == "not shown"


def test_one_seed_has_the_interval_of_the_images_alone():
    resampled = np.random.default_rng(0).normal(71, 0.5, (1, 1000))
    comparison = compare_pairs([71.0], [70.0], resampled, np.full((1, 1000), 70.0))
    assert comparison.interval is None and comparison.interval_seeds is None
    assert comparison.interval_images == pytest.approx((0, 2), abs=0.1)
    assert comparison.found_sd is None and comparison.smallest_gain is None


def test_resamples_without_objects_are_left_out():
    resampled = np.random.default_rng(0).normal(71, 1, (2, 5, 100))
    expected = compare_pairs(*BETTER, *resampled)
    empty = np.full((2, 5, 3), np.nan)
    assert compare_pairs(*BETTER, *np.concatenate([resampled, empty], axis=2)) == expected


def test_same_network():
    comparison = same_network([70.0, 71.0])
    assert comparison.verdict == "not shown"
    assert comparison.reason == "The network that was found is the baseline itself."
    assert (comparison.interval, comparison.ties, comparison.p_better) == ((0, 0), 2, 1)


@pytest.mark.parametrize("seeds", [1, 5])
def test_json(seeds):
    comparison = compare_pairs(BETTER[0][:seeds], BETTER[1][:seeds])
    content = json.loads(json.dumps(comparison.as_json(), allow_nan=False))
    assert PairedComparison.from_json(content) == comparison


@pytest.mark.parametrize(
    "args, message",
    [
        (([], []), r"found is \[\]; expected 1 to 20 finite values"),
        (([70.0, float("nan")], [1, 2]), "found is .*nan.*; expected 1 to 20 finite values"),
        (([70.0] * 21, [1] * 21), "expected 1 to 20 finite values"),
        (([70.0], [70.0, 71.0]), "seeds: 1 of found, 2 of baseline; expected the same ones"),
        (([70.0], [70.0], np.ones((1, 9)), None), r"shapes \(1, 9\) and None"),
        (([70.0], [70.0], np.ones((2, 9)), np.ones((2, 9))), r"expected two times \(1, R\)"),
        (([70.0], [70.0], np.ones(9), np.ones(9)), r"expected two times \(1, R\)"),
        (([70.0], [70.0], np.ones((1, 1)), np.ones((1, 1))), "1 of 1 resamples have an AP"),
    ],
)
def test_bad_input(args, message):
    with pytest.raises(ValueError, match=message):
        compare_pairs(*args)
