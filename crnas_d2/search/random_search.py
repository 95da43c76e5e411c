"""Random search, to compare the greedy operation search with."""

from __future__ import annotations

from collections.abc import Collection
from random import Random

from ..architecture import Code
from ..spaces import PathSpace
from .ranking import Evaluate, Ranking, check_count, rank


def random_search(space: PathSpace, evaluate: Evaluate, evaluations: int, seed: int) -> Ranking:
    """Evaluate distinct paths that are drawn uniformly, in one call and in lexicographic order.

    Args:
        space: no budget is applied to its paths.
        evaluate: gets whole paths.
        evaluations: how many paths. All of them, if the space has fewer.
        seed: decides which paths, in every version of Python.

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
        number: how many. If there are fewer, all that there are.
        known: distinct paths that are not drawn again.

    Returns:
        In lexicographic order.
    """
    if number >= space.size - len(known):
        return [path for path in space if path not in known]
    paths: set[Code] = set()
    while len(paths) < number:
        path = space.sample(rng)
        if path not in known:
            paths.add(path)
    return sorted(paths)
