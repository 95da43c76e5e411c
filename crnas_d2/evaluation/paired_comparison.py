"""A statistical test whether the network that was found is better than the baseline.

Both are trained with the same n seeds and tested on the same images. The difference of their APs
has two sources of randomness: it would differ with other seeds and with other images.
docs/verdict.md explains the rule to users, with its error rates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np

from .paired_statistics import (
    LEVEL,
    MIN_SEEDS,
    ROUNDING,
    Z,
    half_width,
    image_variances,
    sign_flip_p,
    smallest_gain,
)

MAX_SEEDS = 20  # there are 2 ** 20 ways to flip their signs


@dataclass(frozen=True)
class PairedComparison:
    """The comparison of n pairs of trainings, from :func:`compare_pairs` or :func:`same_network`.

    All APs are in percent, and all differences are found minus baseline. An interval is (low,
    high).

    Attributes:
        found: AP of each seed.
        baseline: AP of each seed, in the same order.
        found_mean: mean over the seeds.
        found_sd: standard deviation over the seeds. None with one seed.
        baseline_mean: mean over the seeds.
        baseline_sd: standard deviation over the seeds. None with one seed.
        differences: difference of each seed.
        mean: mean of the differences.
        interval: 95 % interval of the mean, had both other seeds and other test images been drawn.
            It disregards the images if they were not resampled. None with one seed.
        interval_seeds: 95 % interval of the mean, had other seeds been drawn. None with one seed.
        interval_images: 95 % interval of the mean, had these networks been tested on other images.
            None if the images were not resampled.
        wins: number of seeds for which found is better.
        ties: number of seeds for which both are equal.
        p_better: one-sided p-value of the sign-flip test: how often random signs would give the
            differences a mean at least as high as this one.
        p_worse: the same for a mean at least as low as this one.
        smallest_gain: true gain for which the verdict is "better" in 80 % of runs with noise as in
            this one. None with fewer than :data:`MIN_SEEDS` seeds or without noise.
        verdict: "better", "not shown" or "worse".
        reason: reason for the verdict, in one sentence.
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
        """The known 95 % intervals by what might have been drawn differently, without duplicates."""
        intervals = {
            "seeds and images": self.interval if self.interval_images else None,
            "seeds": self.interval_seeds,
            "images": self.interval_images,
        }
        return {name: interval for name, interval in intervals.items() if interval}

    def as_json(self) -> dict[str, Any]:
        """Export the attributes by name, with tuples as lists."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> PairedComparison:
        """Create a comparison from the result of :meth:`as_json`."""
        values: dict[str, Any] = {
            field.name: tuple(value) if isinstance(value := content[field.name], list) else value
            for field in fields(cls)
        }
        return cls(**values)


def compare_pairs(
    found: Sequence[float],
    baseline: Sequence[float],
    found_resampled: np.ndarray | None = None,
    baseline_resampled: np.ndarray | None = None,
) -> PairedComparison:
    """Compare two networks that were trained with the same seeds.

    Args:
        found: n values of AP in percent, one for each seed.
        baseline: n values for the same seeds in the same order.
        found_resampled: AP of each seed on R resamples of the test images
            (:class:`.bootstrap.ResampledImages`), with shape (n, R). The resamples are the same for
            all. NaN for a resample without objects. None if the images cannot be resampled.
        baseline_resampled: the same for the baseline. None if and only if ``found_resampled`` is.

    Raises:
        ValueError: the numbers of seeds differ or are not from 1 to 20, an AP is not finite, or the
            resampled ones have other shapes, or values for fewer than two resamples.
    """
    found_aps, baseline_aps = _check_aps("found", found), _check_aps("baseline", baseline)
    n = len(found_aps)
    if len(baseline_aps) != n:
        raise ValueError(
            f"seeds: {n} of found, {len(baseline_aps)} of baseline; expected the same ones"
        )
    differences = found_aps - baseline_aps
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
        found=tuple(found_aps.tolist()),
        baseline=tuple(baseline_aps.tolist()),
        found_mean=float(found_aps.mean()),
        found_sd=_sd(found_aps),
        baseline_mean=float(baseline_aps.mean()),
        baseline_sd=_sd(baseline_aps),
        differences=tuple(differences.tolist()),
        mean=mean,
        interval=both,
        interval_seeds=seeds,
        interval_images=None if resampled is None else _interval(mean, Z * math.sqrt(total)),
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
    """Get the comparison if the network that was found is the baseline itself.

    Args:
        aps: n values of AP in percent, of the network with n seeds.
        resampled: AP of shape (n, R), as in :func:`compare_pairs`.

    Raises:
        ValueError: as in :func:`compare_pairs`.
    """
    comparison = compare_pairs(aps, aps, resampled, resampled)
    return replace(comparison, reason="The network that was found is the baseline itself.")


def decide(interval: tuple[float, float] | None, p_better: float, p_worse: float) -> str:
    """Apply the rule of the verdict.

    It is "better" if the whole interval is above 0 and p is at most 0.05, "worse" in the mirrored
    case, and "not shown" otherwise. With fewer than :data:`MIN_SEEDS` seeds, p is always above
    0.05.
    """
    if interval and interval[0] > 0 and p_better <= LEVEL:
        return "better"
    if interval and interval[1] < 0 and p_worse <= LEVEL:
        return "worse"
    return "not shown"


def _reason(comparison: PairedComparison) -> str:
    n = len(comparison.differences)
    if n < MIN_SEEDS or comparison.interval is None:
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
            f"{name} is {aps!r}; expected 1 to {MAX_SEEDS} finite values of AP, one for each seed"
        )
    return values


def _resampled_differences(
    n: int, found: np.ndarray | None, baseline: np.ndarray | None
) -> np.ndarray | None:
    """Compute the differences of shape (n, R), without the resamples that have no objects."""
    if found is None and baseline is None:
        return None
    shapes = [None if aps is None else np.shape(aps) for aps in (found, baseline)]
    if (
        found is None
        or baseline is None
        or shapes[0] != shapes[1]
        or np.ndim(found) != 2
        or len(found) != n
    ):
        raise ValueError(
            f"resampled AP of shapes {shapes[0]} and {shapes[1]}; expected two times ({n}, R), the "
            f"same resamples of the images for each of {n} seeds"
        )
    differences = np.subtract(found, baseline)
    known = differences[:, np.isfinite(differences).all(axis=0)]
    if known.shape[1] < 2:
        raise ValueError(
            f"{known.shape[1]} of {differences.shape[1]} resamples have an AP; expected 2 or more"
        )
    return known
