"""The agreement of two rankings of the same codes, such as of a supernet and of single trainings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import NormalDist
from typing import Any

import numpy as np
import scipy

from ..architecture import Code, format_code
from ..search.ranking import Ranking, find_leader, is_complete
from ..search.shortlist_result import RungResult, ShortlistResult
from ..search.trial import Trial

MIN_CODES = 3  # for a variance between codes
Z = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True)
class RankAgreement:
    """The agreement of a supernet's ranking with individual trainings of codes, from :func:`agree`.

    Attributes:
        codes: number of codes that have a score of the supernet and APs of their own.
        seeds: number of seeds with which each of them was trained.
        tau: Kendall's tau-b between the scores and the mean APs. None if it is undefined.
        highest_tau: expected value for a perfect ranking, see :func:`highest_tau`.
        choice: the code with the best score.
        best: the code with the best mean AP. Some of its lead is luck, as it was selected by it.
        regret: AP of ``best`` minus that of ``choice``, in percent.
    """

    codes: int
    seeds: int
    tau: float | None
    highest_tau: float | None
    choice: Code
    best: Code
    regret: float

    def as_json(self) -> dict[str, Any]:
        """Export the attributes by name, with codes as strings."""
        return vars(self) | {"choice": format_code(self.choice), "best": format_code(self.best)}


def agree(scores: Mapping[Code, float], alone: Mapping[Code, Sequence[float]]) -> RankAgreement:
    """Measure the agreement.

    Args:
        scores: scores of the supernet by code. Higher is better.
        alone: AP in percent of each code trained individually with n seeds, the same for all codes.

    Raises:
        ValueError: no code has both, or the numbers of seeds differ.
    """
    codes = [code for code in alone if code in scores]
    if not codes:
        raise ValueError(f"none of the {len(alone)} codes trained alone has a score")
    numbers = {len(alone[code]) for code in codes}
    if len(numbers) > 1:
        raise ValueError(f"codes trained with {sorted(numbers)} seeds; expected one number")
    means = {code: float(np.mean(alone[code])) for code in codes}
    choice, best = find_leader({code: scores[code] for code in codes}), find_leader(means)
    return RankAgreement(
        codes=len(codes),
        seeds=numbers.pop(),
        tau=kendall_tau(scores, means),
        highest_tau=highest_tau([alone[code] for code in codes]),
        choice=choice,
        best=best,
        regret=means[best] - means[choice],
    )


def agree_in_rung(result: ShortlistResult, rung: RungResult) -> RankAgreement | None:
    """Measure the agreement between the supernet's scores and the trainings of a short list's rung.

    Only codes none of whose trainings failed are used. The result is None if no such code has a
    score.
    """
    scores = {it.code: it.score for it in result.candidates if it.score is not None}
    trained = {code: aps for code, aps in rung.scores.items() if is_complete(aps)}
    return agree(scores, trained) if scores.keys() & trained.keys() else None


def kendall_tau(first: Mapping[Code, float], second: Mapping[Code, float]) -> float | None:
    """Compute Kendall's tau-b over the codes that are in both tables of scores.

    It is None where it is undefined: with fewer than two such codes, or if all scores in one of the
    tables are equal.
    """
    codes = [code for code in first if code in second]
    if len(codes) < 2:
        return None
    pairs = [(first[code], second[code]) for code in codes]
    tau, _ = scipy.stats.kendalltau(*zip(*pairs))
    return None if math.isnan(tau) else float(tau)


def pairwise_taus(
    tables: Mapping[str, Mapping[Code, float]],
) -> dict[tuple[str, str], float | None]:
    """Compute :func:`kendall_tau` of each pair of tables of scores, such as those of checkpoints."""
    return {(a, b): kendall_tau(tables[a], tables[b]) for a, b in combinations(tables, 2)}


def highest_tau(aps: Sequence[Sequence[float]]) -> float | None:
    """Compute the expected Kendall's tau between the true APs and noisy means over n seeds.

    It is (2 / pi) asin(rho), for normal values with the correlation rho = sqrt(s2 / (s2 + e2 / n)).
    e2 is the variance of the seeds within a code. An effect of a seed on all codes does not change
    their ranking, so it is removed first. s2 is the variance of the true APs between codes, which
    is that of the means minus e2 / n. The estimate is rough for few codes (6 codes with 3 seeds and
    s2 = e2 yield 0.58 on average instead of 0.67, with a standard deviation of 0.24), and a list of
    the supernet's favorites has a smaller s2 than the whole space.

    Args:
        aps: APs of shape (codes, n), with the seeds in the same order for all codes.

    Returns:
        The expected tau. 0 if the codes do not differ more than their noise. None with one seed,
        with fewer than three codes, or if all APs are equal.
    """
    values = np.asarray(aps, float)
    codes, n = values.shape
    if n < 2 or codes < MIN_CODES:
        return None
    e2 = paired_variance(values)
    s2 = max(0.0, values.mean(axis=1).var(ddof=1) - e2 / n)
    if s2 + e2 == 0:
        return None
    return 2 / math.pi * math.asin(math.sqrt(s2 / (s2 + e2 / n)))


def paired_variance(aps: np.ndarray) -> float:
    """Estimate the variance between seeds within a code, without what a seed does to all codes.

    It is the residual variance of a two-way layout without interaction.

    Args:
        aps: APs of shape (codes, n), both two or more, with the seeds in the same order for all codes.
    """
    codes, n = aps.shape
    noise = aps - aps.mean(axis=1, keepdims=True) - aps.mean(axis=0) + aps.mean()
    return float((noise**2).sum() / ((codes - 1) * (n - 1)))


def level_with_leader(aps: Sequence[float], resampled: np.ndarray) -> np.ndarray:
    """Tell which codes cannot be distinguished from the best one on other images of the same kind.

    These are the codes whose difference from the leader has a 95 % interval that contains 0. All
    codes are tested on the same images, so effects of an image on all of them cancel out. Codes are
    tested one by one, without a correction for multiple comparisons, so a leader that is first by
    luck is distinguished from others too often. The noise of training is not included.

    Args:
        aps: AP in percent, with shape (codes,).
        resampled: AP on R resamples of the images (:class:`.bootstrap.ResampledImages`), the same
            for all codes, with shape (codes, R). NaN for a resample without objects.

    Returns:
        Bool of shape (codes,). False for the leader itself.

    Raises:
        ValueError: the shapes differ from those above, or fewer than two resamples have an AP.
    """
    values, resampled = np.asarray(aps, float), np.asarray(resampled, float)
    if values.ndim != 1 or resampled.ndim != 2 or not 1 <= len(values) == len(resampled):
        raise ValueError(
            f"AP of shapes {values.shape} and {resampled.shape}; expected (codes,) and (codes, R)"
        )
    kept = resampled[:, np.isfinite(resampled).all(axis=0)]
    if kept.shape[1] < 2:
        raise ValueError(f"{kept.shape[1]} resamples have an AP; expected 2 or more")
    leader = values.argmax()
    errors = (kept[leader] - kept).std(axis=1, ddof=1)
    level = values[leader] - values <= Z * errors
    level[leader] = False
    return level


def count_level(ranking: Ranking, trials: Mapping[Code, Trial], metric: str) -> int | None:
    """Count the codes that :func:`level_with_leader` cannot distinguish from the first one.

    Args:
        ranking: ranking by the metric.
        trials: trials of its codes. A code that was not resampled by this metric, or not as often
            as the first one, is not counted.
        metric: name of the metric.

    Returns:
        The number of codes. None if there is no second code, or if the first one was not resampled
        or its resamples have no objects.
    """
    resampled = {code: _trial_of(code, trials).resampled for code, _ in ranking.scored}
    leader = next(iter(resampled.values()), None)
    if len(resampled) < 2 or leader is None or leader.metric != metric:
        return None
    if np.isfinite(leader.values).sum() < 2:
        return None
    known = [
        (score, of_code.values)
        for code, score in ranking.scored
        if (of_code := resampled[code])
        and of_code.metric == metric
        and len(of_code.content) == len(leader.content)
    ]
    scores, values = zip(*known)
    return int(level_with_leader(scores, np.stack(values)).sum())


def _trial_of(code: Code, trials: Mapping[Code, Trial]) -> Trial:
    """Get the trial of a code, or that of its longest recorded prefix.

    The greedy search leaves out trailing entries that are not choices.
    """
    return next(trials[code[:n]] for n in range(len(code), 0, -1) if code[:n] in trials)
