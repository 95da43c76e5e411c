"""The schedule of a short list: which codes are trained individually, for how long, and which wins."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from statistics import fmean

from ..architecture import Code
from .ranking import AllFailedError, Ranking, format_codes, is_complete

BASELINE, RANKING, RANDOM = "baseline", "ranking", "random"


@dataclass(frozen=True)
class Candidate:
    """A code that is trained individually.

    Attributes:
        code: a stage code or an operation code.
        origin: the first of :data:`BASELINE`, :data:`RANKING` and :data:`RANDOM` that applies.
        rank: rank in the ranking of the search, from 1. None if it has none.
        score: score in that ranking, measured with the supernet's weights.
    """

    code: Code
    origin: str
    rank: int | None = None
    score: float | None = None


@dataclass(frozen=True)
class Rung:
    """One round of trainings.

    Attributes:
        share: share of the whole schedule for which its candidates are trained.
        candidates: number of candidates, including the baseline.
    """

    share: float
    candidates: int


def pick_candidates(
    ranking: Ranking,
    baseline: Code,
    codes: int,
    space: int,
    draw: Callable[[Random], Code],
    seed: int,
) -> list[Candidate]:
    """Pick the baseline, the best other codes of a ranking, and one other random code.

    All candidates are distinct. If the ranking is too short, more random codes take its place.

    Args:
        ranking: ranking of a search.
        baseline: the code to beat. It does not have to be in the ranking or in the space.
        codes: number of codes to take from the ranking.
        space: number of codes other than the baseline that can be drawn.
        draw: draws a code of the space, possibly the baseline.
        seed: seed of its random numbers.
    """
    places = {code: (rank, score) for rank, (code, score) in enumerate(ranking.scored, start=1)}
    best = [code for code in places if code != baseline][:codes]
    chosen = {baseline: BASELINE} | dict.fromkeys(best, RANKING)
    rng = Random(seed)
    while len(chosen) < count_candidates(codes, space):
        chosen.setdefault(draw(rng), RANDOM)
    return [Candidate(code, origin, *places.get(code, ())) for code, origin in chosen.items()]


def count_candidates(codes: int, space: int) -> int:
    """Count the result of :func:`pick_candidates` with the same arguments, including the baseline."""
    return 1 + min(codes + 1, space)


def plan_rungs(candidates: int, share: float, factor: int) -> list[Rung]:
    """Plan successive halving over candidates and schedule (Jamieson, Talwalkar, arXiv 1502.07943).

    It is like one bracket of Hyperband (Li et al., arXiv 1603.06560): each rung has one in
    ``factor`` of the candidates of the rung before, and ``factor`` times their schedule. The
    baseline takes part in all rungs and is not counted there. The last rung has at least two
    others, if there are two.

    Args:
        candidates: number of candidates at the start, including the baseline.
        share: share of the whole schedule in the last rung.
        factor: the reduction factor. With 1 there is a single rung.

    Returns:
        The rungs. Empty for a baseline alone, which needs none.
    """
    others = [candidates - 1] if candidates > 1 else []
    while factor > 1 and others and others[-1] // factor >= 2:
        others.append(others[-1] // factor)
    last = len(others) - 1
    return [Rung(share / factor ** (last - k), count + 1) for k, count in enumerate(others)]


def mean_score(scores: Sequence[float | None]) -> float | None:
    """Average the scores of a candidate over its seeds. None if one of its trainings failed."""
    return fmean(scores) if is_complete(scores) else None


def promote(
    scores: Mapping[Code, Sequence[float | None]], baseline: Code, count: int
) -> list[Code]:
    """Get the candidates of the next rung: the baseline, and the others with the best means.

    Of equal means, the smaller code goes on. A candidate that failed does not go on.

    Args:
        scores: scores of each candidate of a rung, by seed.
        baseline: code of the baseline.
        count: number of candidates in the next rung, including the baseline.
    """
    others = [code for code in _best_first(scores, baseline) if code != baseline]
    return [baseline, *others[: count - 1]]


def find_winner(scores: Mapping[Code, Sequence[float | None]], baseline: Code) -> Code:
    """Find the candidate with the best mean over the seeds in the last rung.

    Of equal means, the baseline wins, then the smaller code.

    Raises:
        AllFailedError: every candidate failed.
    """
    best = _best_first(scores, baseline)
    if not best:
        raise AllFailedError(
            f"a training of each candidate of the short list failed: {format_codes(scores)}"
        )
    return best[0]


def _best_first(scores: Mapping[Code, Sequence[float | None]], baseline: Code) -> list[Code]:
    means = {code: mean_score(of_seeds) for code, of_seeds in scores.items()}
    scored = {code: mean for code, mean in means.items() if mean is not None}
    return sorted(scored, key=lambda code: (-scored[code], code != baseline, code))
