"""How far do codes differ that are trained alone, beside two trainings of one of them?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import f_oneway

from .rank_agreement import highest_tau


@dataclass(frozen=True)
class CodeVariance:
    """The APs of codes of which each was trained alone with n seeds. Made by :func:`split_variance`.

    Attributes:
        codes: how many.
        seeds: n.
        mean: of all APs.
        between: standard deviation of the true APs between codes, the variance component: the
            variance of the means, less that of a mean of n seeds; 0 where that is negative.
        of_means: standard deviation of the codes' means, noise included.
        within: standard deviation between the seeds of a code, pooled over the codes.
        ratio: ``between`` over ``within``; infinite where ``within`` is 0 alone, NaN where both are.
        p: of the F-test (one-way) that all codes are equal; NaN where all APs are.
        highest_tau: see :func:`.rank_agreement.highest_tau`.
    """

    codes: int
    seeds: int
    mean: float
    between: float
    of_means: float
    within: float
    ratio: float
    p: float
    highest_tau: float | None


def split_variance(aps: Sequence[Sequence[float]]) -> CodeVariance:
    """
    Args:
        aps: (codes, n), in percent, the seeds in the same order for all.

    Raises:
        ValueError: fewer than two codes or seeds, or not the same number of seeds for all.
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
        ratio=ratio,
        p=float(f_oneway(*table).pvalue),
        highest_tau=highest_tau(aps),
    )
