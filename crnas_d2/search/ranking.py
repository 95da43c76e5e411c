"""The common interface of all search strategies: evaluation functions and rankings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from numbers import Integral, Real
from typing import NamedTuple, TypeGuard

from ..architecture import Code, format_code


class AllFailedError(RuntimeError):
    """No architecture of a ranking has a score."""


Evaluate = Callable[[Sequence[Code]], Sequence[float | None]]
"""Scores architectures, in the order given: the higher the better, None for one that failed."""


class ScoredCode(NamedTuple):
    code: Code
    score: float


@dataclass(frozen=True)
class Ranking:
    """Evaluated codes, sorted by score. It is created by :func:`rank`.

    Attributes:
        scored: codes with scores, best first. Of equal scores, the lexicographically smaller code
            comes first.
        failed: codes without a score, in lexicographic order.
    """

    scored: tuple[ScoredCode, ...]
    failed: tuple[Code, ...] = ()

    @property
    def best(self) -> Code:
        """The best code.

        Raises:
            AllFailedError: every code failed.
        """
        if not self.scored:
            raise AllFailedError(
                f"no best architecture, as the evaluation failed for all {len(self.failed)}: "
                + format_codes(self.failed)
            )
        return self.scored[0].code

    @property
    def ties(self) -> tuple[Code, ...]:
        """The codes that share the best score, :attr:`best` first. Empty if only one has it."""
        ties = tuple(code for code, score in self.scored if score == self.scored[0].score)
        return ties if len(ties) > 1 else ()

    def restrict(self, codes: Iterable[Code]) -> Ranking:
        """Restrict the ranking to some of its codes."""
        codes = set(codes)
        return Ranking(
            tuple(scored for scored in self.scored if scored.code in codes),
            tuple(code for code in self.failed if code in codes),
        )


def rank(codes: Sequence[Code], scores: Sequence[float | None]) -> Ranking:
    """Rank codes by their scores.

    Args:
        codes: distinct codes.
        scores: one score for each code, as :data:`Evaluate` returns them.

    Raises:
        ValueError: the numbers of codes and scores differ, a code occurs twice, or a score is
            neither a finite number nor None.
    """
    if len(codes) != len(scores):
        raise ValueError(f"{len(scores)} scores for {len(codes)} codes; expected one for each")
    table = dict(zip(codes, scores))
    if len(table) != len(codes):
        twice = next(code for i, code in enumerate(codes) if code in codes[:i])
        raise ValueError(f"code {format_code(twice)} is there twice; expected each code once")
    for code, score in table.items():
        if score is not None and not (isinstance(score, Real) and isfinite(score)):
            raise ValueError(
                f"score of {format_code(code)} is {score!r}; expected a finite number, or None for "
                "a failed evaluation"
            )
    scored = [ScoredCode(code, float(s)) for code, s in table.items() if s is not None]
    return Ranking(
        tuple(sorted(scored, key=lambda s: (-s.score, s.code))),
        tuple(sorted(code for code, score in table.items() if score is None)),
    )


def is_complete(scores: Sequence[float | None]) -> TypeGuard[Sequence[float]]:
    """Whether no score is missing."""
    return None not in scores


def find_leader(scores: Mapping[Code, float]) -> Code:
    """Find the code with the best score. Of equal scores, the smaller code wins."""
    return min(scores, key=lambda code: (-scores[code], code))


def format_codes(codes: Iterable[Code], shown: int = 10) -> str:
    """Format the first ``shown`` codes, and how many more there are."""
    texts = [format_code(code) for code in codes]
    more = [f"and {len(texts) - shown} more"] if len(texts) > shown else []
    return ", ".join([*texts[:shown], *more])


def check_count(what: str, number: int) -> None:
    """Check a count.

    Raises:
        ValueError: the number is not an integer of at least 1.
    """
    if not isinstance(number, Integral) or isinstance(number, bool) or number < 1:
        raise ValueError(f"{what} is {number!r}; expected an integer of at least 1")
