"""How well do two measures rank the same codes: a supernet and trainings alone, two supernets?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from scipy.stats import kendalltau, norm

from ..architecture import Code, format_code
from ..search.ranking import Ranking, find_leader
from ..search.shortlist_result import RungResult, ShortlistResult
from ..search.trial import Trial

MIN_CODES = 3  # for a variance between codes
Z = norm.ppf(0.975)


@dataclass(frozen=True)
class RankAgreement:
    """A supernet's ranking beside the codes of a short list trained alone. Made by :func:`agree`.

    Attributes:
        codes: how many have a score of the supernet and APs of their own.
        seeds: that each of them was trained with.
        tau: Kendall's, variant b, between the scores and the mean APs; None where it has no value.
        highest_tau: to be expected of a perfect ranking, see :func:`highest_tau`.
        choice: the code with the best score.
        best: the code with the best mean AP. Some of its lead is luck, as it was taken for it.
        regret: AP of ``best`` less that of ``choice``, in percent.
    """

    codes: int
    seeds: int
    tau: float | None
    highest_tau: float | None
    choice: Code
    best: Code
    regret: float

    def as_json(self) -> dict[str, Any]:
        """Its attributes by name, codes as texts."""
        return vars(self) | {"choice": format_code(self.choice), "best": format_code(self.best)}


def agree(scores: Mapping[Code, float], alone: Mapping[Code, Sequence[float]]) -> RankAgreement:
    """
    Args:
        scores: of the supernet, by code; higher is better.
        alone: AP in percent of each code trained alone with n seeds, the same for all codes.

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
    """Of the supernet's scores and the trainings of a rung of a short list, over the codes of which
    no training failed; None where no such code has a score."""
    scores = {it.code: it.score for it in result.candidates if it.score is not None}
    trained = {code: aps for code, aps in rung.scores.items() if None not in aps}
    return agree(scores, trained) if scores.keys() & trained.keys() else None


def kendall_tau(first: Mapping[Code, float], second: Mapping[Code, float]) -> float | None:
    """Kendall's tau, variant b, over the codes that are in both tables of scores.

    None where it has no value: fewer than two such codes, or all equal in one of the tables.
    """
    codes = [code for code in first if code in second]
    if len(codes) < 2:
        return None
    tau = kendalltau([first[code] for code in codes], [second[code] for code in codes])[0]
    return None if math.isnan(tau) else float(tau)


def pairwise_taus(
    tables: Mapping[str, Mapping[Code, float]],
) -> dict[tuple[str, str], float | None]:
    """:func:`kendall_tau` of every two tables of scores, such as those of several checkpoints."""
    return {(a, b): kendall_tau(tables[a], tables[b]) for a, b in combinations(tables, 2)}


def highest_tau(aps: Sequence[Sequence[float]]) -> float | None:
    """Kendall's tau to be expected between the true APs and means over n seeds, which have noise.

    (2 / pi) asin(rho), for normal values of correlation rho = sqrt(s2 / (s2 + e2 / n)). e2 is the
    variance of the seeds within a code. A seed that makes all codes better or worse ranks none of
    them, so what a seed does to all is taken out first. s2 is the variance of the true APs between
    codes: that of the means, less e2 / n. It is rough where codes are few (6 codes of 3 seeds, s2 =
    e2: 0.58 on average in place of 0.67, with a standard deviation of 0.24), and a list of the
    supernet's favourites has a smaller s2 than the whole space.

    Args:
        aps: (codes, n), the seeds in the same order for all.

    Returns:
        0 where the codes differ no more than their noise; None with one seed, fewer than three
        codes, or the same AP for all.
    """
    aps = np.asarray(aps, float)
    codes, n = aps.shape
    if n < 2 or codes < MIN_CODES:
        return None
    means = aps.mean(axis=1)
    noise = aps - means[:, None] - aps.mean(axis=0) + aps.mean()
    e2 = (noise**2).sum() / ((codes - 1) * (n - 1))
    s2 = max(0.0, means.var(ddof=1) - e2 / n)
    if s2 + e2 == 0:
        return None
    return 2 / math.pi * math.asin(math.sqrt(s2 / (s2 + e2 / n)))


def level_with_leader(aps: Sequence[float], resampled: np.ndarray) -> np.ndarray:
    """Which codes cannot be told from the one with the best AP, on other images of the same kind.

    Those whose difference from the leader has a 95 % interval with 0 in it. All codes are tested on
    the same images, so what an image does to all of them drops out. Codes are looked at one by one,
    without a correction for many: a leader that is first by luck is told from others too often. The
    noise of training is not in it.

    Args:
        aps: (codes,), in percent.
        resampled: (codes, R), in R resamples of the images (:class:`.bootstrap.ResampledImages`), the
            same for all codes. NaN in a resample that has no objects.

    Returns:
        (codes,) of bool; False for the leader itself.

    Raises:
        ValueError: the shapes are not those above, or fewer than two resamples have an AP.
    """
    aps, resampled = np.asarray(aps, float), np.asarray(resampled, float)
    if aps.ndim != 1 or resampled.ndim != 2 or not 1 <= len(aps) == len(resampled):
        raise ValueError(
            f"AP of shapes {aps.shape} and {resampled.shape}; expected (codes,) and (codes, R)"
        )
    kept = resampled[:, np.isfinite(resampled).all(axis=0)]
    if kept.shape[1] < 2:
        raise ValueError(f"{kept.shape[1]} resamples have an AP; expected 2 or more")
    leader = aps.argmax()
    errors = (kept[leader] - kept).std(axis=1, ddof=1)
    level = aps[leader] - aps <= Z * errors
    level[leader] = False
    return level


def count_level(ranking: Ranking, trials: Mapping[Code, Trial], metric: str) -> int | None:
    """How many codes of a search cannot be told from the first one, see :func:`level_with_leader`.

    Args:
        ranking: by the metric.
        trials: of its codes. One that was not resampled by this metric, or not as often as the
            first one, is not counted.

    Returns:
        None where there is no second code, or the first one was not resampled, or its resamples have
        no objects.
    """
    resampled = {code: _trial_of(code, trials).resampled for code, _ in ranking.scored}
    leader = next(iter(resampled.values()), None)
    if len(resampled) < 2 or leader is None or leader.metric != metric:
        return None
    if np.isfinite(leader.values).sum() < 2:
        return None
    known = {
        code: score
        for code, score in ranking.scored
        if (of_code := resampled[code])
        and of_code.metric == metric
        and len(of_code.content) == len(leader.content)
    }
    values = np.stack([resampled[code].values for code in known])
    return int(level_with_leader(list(known.values()), values).sum())


def _trial_of(code: Code, trials: Mapping[Code, Trial]) -> Trial:
    """Its own, or that of its first entries where the rest of them is no choice, as the greedy search
    leaves such entries out."""
    return next(trials[code[:n]] for n in range(len(code), 0, -1) if code[:n] in trials)
