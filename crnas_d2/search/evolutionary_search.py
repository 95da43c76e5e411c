"""The evolutionary search of single-path one-shot, to compare the greedy operation search with."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from random import Random
from typing import TypeVar

from ..architecture import Code
from ..spaces import PathSpace
from .random_search import draw_paths
from .ranking import Evaluate, Ranking, check_count, rank

TRIES = 10  # for each child, as in the code that its authors published

T = TypeVar("T")


def evolutionary_search(
    space: PathSpace,
    evaluate: Evaluate,
    evaluations: int,
    seed: int,
    population: int = 50,
    parents: int = 10,
    mutation_probability: float = 0.1,
) -> Ranking:
    """Algorithm 1 of Guo et al., "Single Path One-Shot Neural Architecture Search with Uniform
    Sampling" (arXiv 1904.00420), with its hyper-parameters.

    The first population is drawn uniformly. Each later one is half crossover and half mutation of
    the best codes of all populations so far. A child that was there before is made anew, some
    times; where crossover and mutation have nothing new to give, new paths are drawn uniformly.
    So no path is evaluated twice, and the search, which the paper ends after 20 populations, ends
    after a number of evaluations here. With the same seed, :func:`random_search` draws the same
    first population among its paths.

    Args:
        space: no budget is applied to its paths.
        evaluate: gets the whole paths of one population, in lexicographic order.
        evaluations: how many paths. All of them, if the space has fewer.
        seed: decides which paths, in every version of Python.
        population: P; the last population is smaller, where needed.
        parents: k, how many of the best codes have children. One that failed never has.
        mutation_probability: of each entry, to be drawn again uniformly from its choices.

    Returns:
        The ranking of all that was evaluated.

    Raises:
        ValueError: one of the numbers is below 1, or the probability is not from 0 to 1.
    """
    check_count("evaluations", evaluations)
    check_count("population", population)
    check_count("parents", parents)
    if not 0 <= mutation_probability <= 1:
        raise ValueError(f"mutation_probability: {mutation_probability!r}; expected it in [0, 1]")
    rng = Random(str(seed))
    evaluations = min(evaluations, space.size)
    codes: list[Code] = []
    scores: list[float | None] = []
    ranking = Ranking(())
    while len(codes) < evaluations:
        best = [code for code, _ in ranking.scored[:parents]]
        size = min(population, evaluations - len(codes))
        known, new = set(codes), set()
        if best:
            new |= _new_children(lambda: _cross(rng, best), size // 2, known)
            new |= _new_children(
                lambda: _mutate(rng, best, space, mutation_probability),
                size - size // 2,
                known | new,
            )
        new |= set(draw_paths(space, rng, size - len(new), known | new))
        codes += sorted(new)
        scores += evaluate(sorted(new))
        ranking = rank(codes, scores)
    return ranking


def _new_children(make: Callable[[], Code], number: int, known: Collection[Code]) -> set[Code]:
    """Up to that many distinct children, as far as they turn up."""
    children: set[Code] = set()
    for _ in range(TRIES * number):
        if len(children) == number:
            break
        child = make()
        if child not in known:
            children.add(child)
    return children


def _cross(rng: Random, parents: Sequence[Code]) -> Code:
    """Each entry from one of two parents, with equal probability."""
    pairs = zip(_pick(rng, parents), _pick(rng, parents))
    return tuple(_pick(rng, pair) for pair in pairs)


def _mutate(rng: Random, parents: Sequence[Code], space: PathSpace, probability: float) -> Code:
    return tuple(
        _pick(rng, choices) if rng.random() < probability else entry
        for entry, choices in zip(_pick(rng, parents), space.choices)
    )


def _pick(rng: Random, values: Sequence[T]) -> T:
    """Like :meth:`random.Random.choice`, but the same in every version of Python."""
    return values[int(rng.random() * len(values))]
