"""Random search, as a baseline for the greedy operation search."""

from __future__ import annotations

from collections.abc import Collection
from random import Random

from ..architecture import Code
from ..spaces import PathSpace
from .ranking import Evaluate, Ranking, check_count, rank


def random_search(space: PathSpace, evaluate: Evaluate, evaluations: int, seed: int) -> Ranking:
    """Evaluate distinct, uniformly drawn paths in one call, in lexicographic order.

    Args:
        space: space of the paths. No budget is applied.
        evaluate: scores whole paths.
        evaluations: number of paths. All of them, if the space has fewer.
        seed: determines the paths, in every version of Python.

    Raises:
        ValueError: ``evaluations`` is below 1.
    """
    check_count("evaluations", evaluations)
    paths = draw_paths(space, Random(str(seed)), evaluations)
    return rank(paths, evaluate(paths))


def draw_paths(
    space: PathSpace, rng: Random, number: int, known: Collection[Code] = ()
) -> list[Code]:
    """Draw distinct paths uniformly.

    Args:
        space: space of the paths.
        rng: source of the random numbers.
        number: number of paths. If there are fewer, all of them are returned.
        known: distinct paths that are not drawn again.

    Returns:
        The paths in lexicographic order.
    """
    if number >= space.size - len(known):
        return [path for path in space if path not in known]
    paths: set[Code] = set()
    while len(paths) < number:
        path = space.sample(rng)
        if path not in known:
            paths.add(path)
    return sorted(paths)
