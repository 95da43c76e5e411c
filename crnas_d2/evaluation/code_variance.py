"""The variance of AP between individually trained codes, against that between seeds of one code."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy

from .rank_agreement import highest_tau, paired_variance


@dataclass(frozen=True)
class CodeVariance:
    """The variance of the APs of codes that were trained with n seeds each, from
    :func:`split_variance`.

    Attributes:
        codes: number of codes.
        seeds: number n of seeds.
        mean: mean of all APs.
        between: standard deviation of the true APs between codes. Its square, the variance
            component, is the variance of the means minus that of a mean of n seeds, or 0 if that is
            negative.
        of_means: standard deviation of the codes' means, including noise.
        within: standard deviation between the seeds of a code, pooled over the codes.
        paired: ``within`` without the effect of a seed on all codes, which does not change their
            order, see :func:`.rank_agreement.paired_variance`.
        ratio: ``between`` over ``within``. Infinite if only ``within`` is 0, NaN if both are.
        p: p-value of the one-way F-test that all codes are equal. NaN if all APs are equal.
        highest_tau: see :func:`.rank_agreement.highest_tau`.
    """

    codes: int
    seeds: int
    mean: float
    between: float
    of_means: float
    within: float
    paired: float
    ratio: float
    p: float
    highest_tau: float | None


def split_variance(aps: Sequence[Sequence[float]]) -> CodeVariance:
    """Split the variance of APs into that between codes and that between seeds.

    Args:
        aps: APs in percent of shape (codes, n), with the seeds in the same order for all codes.

    Raises:
        ValueError: there are fewer than two codes or seeds, or the numbers of seeds differ.
    """
    if len(aps) < 2 or len({len(of_code) for of_code in aps}) > 1 or len(aps[0]) < 2:
        raise ValueError(
            f"APs of {len(aps)} codes with {sorted({len(of_code) for of_code in aps})} seeds; expected "
            "two codes or more, and two seeds or more, the same number for all"
        )
    table = np.asarray(aps, float)
    codes, n = table.shape
    of_means = table.mean(axis=1).var(ddof=1)
    within = table.var(axis=1, ddof=1).mean()
    between = max(0.0, of_means - within / n)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = float(np.sqrt(between) / np.sqrt(within))
    return CodeVariance(
        codes=codes,
        seeds=n,
        mean=float(table.mean()),
        between=math.sqrt(between),
        of_means=math.sqrt(of_means),
        within=math.sqrt(within),
        paired=math.sqrt(paired_variance(table)),
        ratio=ratio,
        p=float(scipy.stats.f_oneway(*table).pvalue),
        highest_tau=highest_tau(aps),
    )
