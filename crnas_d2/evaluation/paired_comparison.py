"""Is the network that was found better than the baseline? A verdict from pairs of trainings.

Both are trained with the same n seeds and tested on the same images. Two kinds of chance are in the
difference of their APs: other seeds and other images would have given another one. docs/verdict.md
has the rule for users, and its error rates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
from scipy.stats import norm, t

LEVEL = 0.05
MIN_SEEDS = 5  # 2 ** -5 is the first sign-flip p below LEVEL
MAX_SEEDS = 20  # there are 2 ** 20 ways to flip their signs
POWER = 0.8
ROUNDING = 1e-9  # AP, in percent
_Z = norm.ppf(1 - LEVEL / 2)


@dataclass(frozen=True)
class PairedComparison:
    """What n pairs of trainings tell. Made by :func:`compare_pairs` or :func:`same_network`.

    All APs are in percent, all differences are found less baseline. An interval is (low, high).

    Attributes:
        found: AP of each seed.
        baseline: AP of each seed, in the same order.
        found_mean: over the seeds.
        found_sd: standard deviation over the seeds; None with one seed.
        baseline_mean: over the seeds.
        baseline_sd: standard deviation over the seeds; None with one seed.
        differences: of each seed.
        mean: of the differences.
        interval: 95 % of the mean, had both other seeds and other test images been drawn; without
            the images where they were not resampled. None with one seed.
        interval_seeds: 95 % of the mean, had other seeds been drawn. None with one seed.
        interval_images: 95 % of the mean, had these networks been tested on other images. None
            where the images were not resampled.
        wins: seeds with which found is better.
        ties: seeds with which both are equal.
        p_better: one-sided sign-flip p: how often signs by the toss of a coin would give
            the differences a mean as high as this one.
        p_worse: the same for a mean as low as this one.
        smallest_gain: with noise as it was here, the verdict is "better" in 80 % of runs where the
            true gain is this large. None with fewer than :data:`MIN_SEEDS` seeds or no noise.
        verdict: "better", "not shown" or "worse".
        reason: one sentence.
    """

    found: tuple[float, ...]
    baseline: tuple[float, ...]
    found_mean: float
    found_sd: float | None
    baseline_mean: float
    baseline_sd: float | None
    differences: tuple[float, ...]
    mean: float
    interval: tuple[float, float] | None
    interval_seeds: tuple[float, float] | None
    interval_images: tuple[float, float] | None
    wins: int
    ties: int
    p_better: float
    p_worse: float
    smallest_gain: float | None
    verdict: str
    reason: str

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """Those of 95 % that are known and not equal by nature, by what might have been drawn
        otherwise."""
        intervals = {
            "seeds and images": self.interval if self.interval_images else None,
            "seeds": self.interval_seeds,
            "images": self.interval_images,
        }
        return {name: interval for name, interval in intervals.items() if interval}

    def as_json(self) -> dict[str, Any]:
        """Its attributes by name; tuples are lists."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> PairedComparison:
        """The inverse of :meth:`as_json`."""
        values = {field.name: content[field.name] for field in fields(cls)}
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def compare_pairs(
    found: Sequence[float],
    baseline: Sequence[float],
    found_resampled: np.ndarray | None = None,
    baseline_resampled: np.ndarray | None = None,
) -> PairedComparison:
    """Compare two networks that were trained with the same seeds.

    Args:
        found: n values of AP in percent, one for each seed.
        baseline: n values, of the same seeds in the same order.
        found_resampled: (n, R), the AP of each seed in R resamples of the test images
            (:class:`.bootstrap.ResampledImages`), the same resamples for all. NaN in a resample that
            has no objects. None where the images cannot be resampled.
        baseline_resampled: (n, R), or None with ``found_resampled``.

    Raises:
        ValueError: the numbers of seeds differ or are not 1 to 20, an AP is not finite, or the
            resampled ones do not have the shape above, or values in fewer than two resamples.
    """
    found, baseline = _check_aps("found", found), _check_aps("baseline", baseline)
    n = len(found)
    if len(baseline) != n:
        raise ValueError(
            f"seeds: {n} of found, {len(baseline)} of baseline; expected the same ones"
        )
    differences = found - baseline
    resampled = _resampled_differences(n, found_resampled, baseline_resampled)
    mean = float(differences.mean())
    total, shared = (0.0, 0.0) if resampled is None else image_variances(differences, resampled)
    seeds = both = smallest = None
    if n > 1:
        seed_variance = differences.var(ddof=1)
        seeds = _interval(mean, half_width(n, seed_variance, 0.0))
        both = _interval(mean, half_width(n, seed_variance, shared))
        smallest = smallest_gain(n, math.sqrt(seed_variance), math.sqrt(shared))
    p_better, p_worse = float(sign_flip_p(differences)), float(sign_flip_p(-differences))
    comparison = PairedComparison(
        found=tuple(found.tolist()),
        baseline=tuple(baseline.tolist()),
        found_mean=float(found.mean()),
        found_sd=_sd(found),
        baseline_mean=float(baseline.mean()),
        baseline_sd=_sd(baseline),
        differences=tuple(differences.tolist()),
        mean=mean,
        interval=both,
        interval_seeds=seeds,
        interval_images=None if resampled is None else _interval(mean, _Z * math.sqrt(total)),
        wins=int((differences > ROUNDING).sum()),
        ties=int((abs(differences) <= ROUNDING).sum()),
        p_better=p_better,
        p_worse=p_worse,
        smallest_gain=smallest,
        verdict=decide(both, p_better, p_worse),
        reason="",
    )
    return replace(comparison, reason=_reason(comparison))


def same_network(aps: Sequence[float], resampled: np.ndarray | None = None) -> PairedComparison:
    """The comparison where the network that was found is the baseline itself.

    Args:
        aps: n values of AP in percent, of the one network with n seeds.
        resampled: (n, R), as in :func:`compare_pairs`.

    Raises:
        ValueError: as in :func:`compare_pairs`.
    """
    comparison = compare_pairs(aps, aps, resampled, resampled)
    return replace(comparison, reason="The network that was found is the baseline itself.")


def decide(interval: tuple[float, float] | None, p_better: float, p_worse: float) -> str:
    """The rule: "better" where the whole interval is above 0 and p is at most 0.05; "worse" is its
    mirror image; all else is "not shown". With fewer than :data:`MIN_SEEDS` seeds p is above 0.05.
    """
    if interval and interval[0] > 0 and p_better <= LEVEL:
        return "better"
    if interval and interval[1] < 0 and p_worse <= LEVEL:
        return "worse"
    return "not shown"


def sign_flip_p(differences: np.ndarray) -> np.ndarray:
    """The one-sided p of the sign-flip test: which part of all 2^n choices of signs gives the
    differences a mean at least as high as they have. It is exact for noise symmetric about 0.

    Args:
        differences: (n, ...), of each seed.

    Returns:
        (...).
    """
    sums = np.zeros((1, *np.shape(differences)[1:]))
    for row in differences:
        sums = np.concatenate([sums + row, sums - row])
    return (sums >= sums[0] - ROUNDING).mean(axis=0)


def image_variances(differences: np.ndarray, resampled: np.ndarray) -> tuple[Any, Any]:
    """Variance of the mean difference over test images.

    Each seed has its own luck with the images beside the luck that all share. Its own is in the
    spread over the seeds already and shrinks with their number: only the shared one is to be added.

    Args:
        differences: (n, ...), of each seed, on the images as they are.
        resampled: (n, R, ...), in R resamples of the images.

    Returns:
        of these n pairs of networks, and the part of it that all seeds share; each (...).
    """
    n = len(differences)
    means = resampled.mean(axis=0)
    total = means.var(axis=0, ddof=1)
    if n == 1:
        return total, total
    own = (resampled - means).var(axis=1, ddof=1).sum(axis=0) / (n - 1)
    own = np.minimum(own, differences.var(axis=0, ddof=1))
    return total, np.maximum(0, total - own / n)


def half_width(n: int, seed_variance: Any, image_variance: Any) -> Any:
    """Half the width of the 95 % interval of the mean difference, for other seeds and other images.

    The half widths for seeds alone (Student's t) and for images alone (bootstrap standard error)
    are added by their squares, as in Howe's interval for a sum of two means (1974). Percentiles of
    resampled seeds cover the truth in 84 % of runs of 5 seeds; a t quantile with Satterthwaite's
    degrees of freedom covers it in 94 %, and can be narrower than the interval for seeds alone.
    This one covered it in 95 to 97 % of simulated runs, whatever the ratio of the two.

    Args:
        n: seeds, 2 or more.
        seed_variance: of the differences over the seeds.
        image_variance: of the mean difference over images, the part that all seeds share.
    """
    seeds = t.ppf(1 - LEVEL / 2, n - 1) ** 2 * seed_variance / n
    return np.sqrt(seeds + _Z**2 * image_variance)


def smallest_gain(n: int, seed_sd: float, image_sd: float, draws: int = 10_000) -> float | None:
    """The true gain at which the verdict is "better" in 80 % of runs, by simulated normal noise.

    The sign-flip p asks for 5 wins of 5. With 6 seeds or more it is at most 0.05 in nearly all runs
    whose interval is above 0, so it is left out there.

    Args:
        n: seeds.
        seed_sd: of the differences over the seeds.
        image_sd: of the mean difference over images, the part that all seeds share.

    Returns:
        AP; None with too few seeds for any gain, or without noise.
    """
    if n < MIN_SEEDS or seed_sd == image_sd == 0:
        return None
    rng = np.random.default_rng(0)
    noise = seed_sd * rng.standard_normal((n, draws)) + image_sd * rng.standard_normal(draws)
    needed = half_width(n, noise.var(axis=0, ddof=1), image_sd**2) - noise.mean(axis=0)
    if n == MIN_SEEDS:
        needed = np.maximum(needed, -noise.min(axis=0))
    return float(np.quantile(needed, POWER))


def _reason(comparison: PairedComparison) -> str:
    n = len(comparison.differences)
    if n < MIN_SEEDS:
        return (
            f"{n} {'seed is' if n == 1 else 'seeds are'} too few for any test: the sign-flip p "
            f"cannot be below {2.0**-n:.3g}, and {LEVEL} or less needs {MIN_SEEDS} seeds."
        )
    if comparison.ties == n:
        return f"There is no difference: both networks have the same AP with each of {n} seeds."
    low, high = comparison.interval
    interval = f"The 95 % interval of the gain, {low:+.2f} to {high:+.2f} AP,"
    if comparison.interval_images is None:
        interval += " which holds for these test images only,"
    worse = comparison.mean < 0
    p, side = (comparison.p_worse, "below") if worse else (comparison.p_better, "above")
    wins = f"with {comparison.wins} wins of {n} seeds (sign-flip p {p:.3f})"
    if comparison.verdict != "not shown":
        return f"{interval} is {side} 0, {wins}."
    if low <= 0 <= high:
        return (
            f"{interval} contains 0; with {n} seeds and this noise 4 of 5 runs would show a true gain "
            f"of {comparison.smallest_gain:.1f} AP."
        )
    return f"{interval} is {side} 0, but {wins}; a verdict needs a p of {LEVEL} or less."


def _interval(mean: float, half: float) -> tuple[float, float]:
    return float(mean - half), float(mean + half)


def _sd(aps: np.ndarray) -> float | None:
    return float(aps.std(ddof=1)) if len(aps) > 1 else None


def _check_aps(name: str, aps: Sequence[float]) -> np.ndarray:
    values = np.asarray(aps, float)
    if values.ndim != 1 or not 1 <= len(values) <= MAX_SEEDS or not np.isfinite(values).all():
        raise ValueError(
            f"{name}: {aps!r}; expected 1 to {MAX_SEEDS} finite values of AP, one for each seed"
        )
    return values


def _resampled_differences(
    n: int, found: np.ndarray | None, baseline: np.ndarray | None
) -> np.ndarray | None:
    """(n, R), without the resamples that have no objects."""
    if found is None and baseline is None:
        return None
    shapes = [None if aps is None else np.shape(aps) for aps in (found, baseline)]
    if shapes[0] != shapes[1] or len(shapes[0]) != 2 or shapes[0][0] != n:
        raise ValueError(
            f"resampled AP of shapes {shapes[0]} and {shapes[1]}; expected two times ({n}, R), the "
            f"same resamples of the images for each of {n} seeds"
        )
    differences = np.subtract(found, baseline)
    differences = differences[:, np.isfinite(differences).all(axis=0)]
    if differences.shape[1] < 2:
        raise ValueError(
            f"{differences.shape[1]} of {shapes[0][1]} resamples have an AP; expected 2 or more"
        )
    return differences
