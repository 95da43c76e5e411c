"""The evolutionary search of Single Path One-Shot, as a baseline for the greedy search."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from random import Random
from typing import TypeVar

from ..architecture import Code
from ..spaces import PathSpace
from .random_search import draw_paths
from .ranking import Evaluate, Ranking, check_count, rank

TRIES = 10  # attempts for each child, as in the authors' published code

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
    """Evolutionary search, Algorithm 1 of Guo et al. (arXiv 1904.00420), with its hyper-parameters.

    The paper is "Single Path One-Shot Neural Architecture Search with Uniform Sampling". The first
    population is drawn uniformly. Each later one is made half by crossover and half by mutation of
    the best codes of all populations so far. A child that already exists is drawn again, up to a
    limit. Where crossover and mutation yield too few new codes, new paths are drawn uniformly. So
    no path is evaluated twice. The paper stops after 20 populations; this search stops after a
    given number of evaluations. With the same seed, :func:`random_search` has the first population
    among its paths.

    Args:
        space: space of the paths. No budget is applied.
        evaluate: scores the whole paths of one population, given in lexicographic order.
        evaluations: number of paths to evaluate. All of them, if the space has fewer.
        seed: determines the paths, in every version of Python.
        population: P. The last population may be smaller.
        parents: k, the number of best codes that have children. A code that failed never has any.
        mutation_probability: probability that an entry is drawn again, uniformly from its choices.

    Returns:
        The ranking of all evaluated paths.

    Raises:
        ValueError: one of the numbers is below 1, or the probability is not from 0 to 1.
    """
    check_count("evaluations", evaluations)
    check_count("population", population)
    check_count("parents", parents)
    if not 0 <= mutation_probability <= 1:
        raise ValueError(f"mutation_probability is {mutation_probability!r}; expected 0 to 1")
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
    """Make up to ``number`` distinct new children within a limited number of attempts."""
    children: set[Code] = set()
    for _ in range(TRIES * number):
        if len(children) == number:
            break
        child = make()
        if child not in known:
            children.add(child)
    return children


def _cross(rng: Random, parents: Sequence[Code]) -> Code:
    """Take each entry from one of two parents with equal probability."""
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
