"""The greedy operation search (Algorithm 1, section 3.3.2)."""

from __future__ import annotations

from dataclasses import dataclass

from ..architecture import Code
from ..spaces import OperationSpace, PathSpace
from .ranking import AllFailedError, Evaluate, Ranking, ScoredCode, check_count, format_codes, rank


@dataclass(frozen=True)
class GreedyResult:
    """The result of the greedy operation search.

    Attributes:
        ranking: ranking of the last step, with whole operation codes. Its best is o*.
        survivors: the partial architectures that each step kept, best first.
    """

    ranking: Ranking
    survivors: tuple[tuple[ScoredCode, ...], ...]


def greedy_operation_search(
    space: OperationSpace, evaluate: Evaluate, survivors: int = 3
) -> GreedyResult:
    """Greedy search (Algorithm 1), which decides one choice block after the other, in order.

    Entries of blocks that are not choice blocks are filled in and cost no evaluation.

    Args:
        space: space of the dilation supernet.
        evaluate: scores all extensions of a step in one call, given in lexicographic order. Such a
            partial architecture is the prefix of an operation code, up to and including the entry
            of the step's choice block.
        survivors: K, the number of partial architectures that each step keeps.

    Raises:
        ValueError: K is below 1, or the space has no choice block. Nothing is evaluated then.
        AllFailedError: every extension of a step failed.
    """
    check_count("survivors", survivors)
    units = space.units
    if not units:
        raise ValueError(f"operations are {space.operations}; expected two or more to choose from")
    kept: tuple[ScoredCode, ...] = (ScoredCode((), 0.0),)
    steps = []
    decided = 0
    for step, unit in enumerate(units, start=1):
        fixed = _fixed_entries(space, decided, unit.index)
        extensions = sorted(
            (*p.code, *fixed, operation) for p in kept for operation in unit.choices
        )
        ranking = rank(extensions, evaluate(extensions))
        if not ranking.scored:
            raise AllFailedError(
                f"operation search, step {step} of {len(units)}: the evaluation failed for all "
                f"{len(extensions)} extensions: {format_codes(extensions)}"
            )
        kept = ranking.scored[:survivors]
        steps.append(kept)
        decided = unit.index + 1
    tail = _fixed_entries(space, decided, len(space.choices))
    whole = Ranking(
        tuple(ScoredCode(code + tail, score) for code, score in ranking.scored),
        tuple(code + tail for code in ranking.failed),
    )
    return GreedyResult(whole, tuple(steps))


def greedy_evaluations(space: PathSpace, survivors: int = 3) -> int:
    """Count the partial architectures that :func:`greedy_operation_search` evaluates if none fails.

    It is 3 + 9 (B - 1) with 3 operations, 3 survivors and B choice blocks.
    """
    evaluations, kept = 0, 1
    for unit in space.units:
        extensions = kept * len(unit.choices)
        evaluations += extensions
        kept = min(survivors, extensions)
    return evaluations


def _fixed_entries(space: OperationSpace, start: int, end: int) -> Code:
    return tuple(choices[0] for choices in space.choices[start:end])
