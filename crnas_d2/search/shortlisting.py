"""Which codes are trained alone before one of them is believed, for how long, and which one wins."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from statistics import fmean

from ..architecture import Code
from .ranking import AllFailedError, Ranking, format_codes

BASELINE, RANKING, RANDOM = "baseline", "ranking", "random"


@dataclass(frozen=True)
class Candidate:
    """A code that is trained alone.

    Attributes:
        code: a stage code or an operation code.
        origin: :data:`BASELINE`, :data:`RANKING` or :data:`RANDOM`; the first that is true of it.
        rank: in the ranking of the search, from 1; None where it has none.
        score: that the ranking has of it, with the supernet's weights.
    """

    code: Code
    origin: str
    rank: int | None = None
    score: float | None = None


@dataclass(frozen=True)
class Rung:
    """
    Attributes:
        share: of the whole schedule, for which its candidates are trained.
        candidates: how many there are, with the baseline.
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
    """The baseline, the best codes of a ranking beside it, and one at random that is none of them;
    more at random where the ranking is shorter. Each once.

    Args:
        ranking: of a search.
        baseline: what they have to beat; it need not be in the ranking, nor in the space.
        codes: how many of the ranking.
        space: how many codes beside the baseline there are to draw from.
        draw: gives one of the space, the baseline not excluded, by random numbers.
        seed: of them.
    """
    places = {code: (rank, score) for rank, (code, score) in enumerate(ranking.scored, start=1)}
    best = [code for code in places if code != baseline][:codes]
    chosen = {baseline: BASELINE} | dict.fromkeys(best, RANKING)
    rng = Random(seed)
    while len(chosen) < count_candidates(codes, space):
        chosen.setdefault(draw(rng), RANDOM)
    return [Candidate(code, origin, *places.get(code, ())) for code, origin in chosen.items()]


def count_candidates(codes: int, space: int) -> int:
    """How many :func:`pick_candidates` gives, with the baseline; the arguments are as there."""
    return 1 + min(codes + 1, space)


def plan_rungs(candidates: int, share: float, factor: int) -> list[Rung]:
    """Successive halving (Jamieson and Talwalkar, arXiv 1502.07943) over candidates and schedule, in
    the way of one bracket of Hyperband (Li et al., arXiv 1603.06560): each rung has one in ``factor``
    of the candidates before it, and ``factor`` times their schedule. The baseline, which is in all
    rungs, is not counted there. The last rung has two others at least, where there are two.

    Args:
        candidates: how many begin, with the baseline.
        share: of the whole schedule, in the last rung.
        factor: 1 is one rung.

    Returns:
        The rungs, of which none is needed for a baseline alone.
    """
    others = [candidates - 1] if candidates > 1 else []
    while factor > 1 and others and others[-1] // factor >= 2:
        others.append(others[-1] // factor)
    last = len(others) - 1
    return [Rung(share / factor ** (last - k), count + 1) for k, count in enumerate(others)]


def mean_score(scores: Sequence[float | None]) -> float | None:
    """Of one candidate over its seeds; None where one of its trainings failed."""
    return None if None in scores else fmean(scores)


def promote(
    scores: Mapping[Code, Sequence[float | None]], baseline: Code, count: int
) -> list[Code]:
    """The candidates that go on: the baseline, and the best others by the mean over the seeds, of
    equals the smaller code. One that failed does not go on.

    Args:
        scores: of each candidate of a rung, by seed.
        count: how many go on, with the baseline.
    """
    others = [code for code in _best_first(scores, baseline) if code != baseline]
    return [baseline, *others[: count - 1]]


def find_winner(scores: Mapping[Code, Sequence[float | None]], baseline: Code) -> Code:
    """The best of the last rung by the mean over the seeds, of equals the baseline, then the smaller
    code.

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
