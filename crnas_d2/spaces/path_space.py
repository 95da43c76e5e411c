"""What the stage space and the operation space have in common: a path is one choice in every unit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from math import prod
from numbers import Integral
from random import Random


@dataclass(frozen=True)
class ChoiceUnit:
    """A place of the supernet where a path has to choose.

    Attributes:
        index: of its entry in the path.
        choices: what that entry may be, in increasing order; two or more.
    """

    index: int
    choices: tuple[int, ...]


class PathSpace:
    """All paths of a supernet. A path is a code of full length, fixed entries included.

    Iterating gives every path in lexicographic order, one at a time.

    Attributes:
        choices: for each entry of a path, what it may be, in increasing order; a fixed entry has
            one choice.
    """

    choices: tuple[tuple[int, ...], ...]

    @property
    def size(self) -> int:
        """Number of paths."""
        return prod(map(len, self.choices))

    @property
    def units(self) -> tuple[ChoiceUnit, ...]:
        """The entries that are not fixed, from the first to the last."""
        return tuple(
            ChoiceUnit(index, choices)
            for index, choices in enumerate(self.choices)
            if len(choices) > 1
        )

    def sample(self, rng: Random) -> tuple[int, ...]:
        """Draw a path uniformly, that is, the choice of each unit uniformly and by itself
        (section 3.3.1).

        It calls ``rng.random()`` once for each unit, from the first to the last, and nothing else
        of ``rng``: Python keeps that stream the same in all its versions.
        """
        return tuple(
            choices[int(rng.random() * len(choices))] if len(choices) > 1 else choices[0]
            for choices in self.choices
        )

    def sample_in_cycles(self, seed: int, iteration: int) -> tuple[int, ...]:
        """The path of an iteration where each unit draws without replacement, as strict fairness in
        FairNAS does (Chu et al., 2021), for units of any numbers of choices.

        A unit of k choices takes each of them once in k iterations, its cycle, in an order that is
        drawn anew for each cycle and by itself for each unit. So an iteration's path is uniform over
        the space, and independent of those in which every unit is in another cycle.

        Args:
            seed: of all cycles.
            iteration: from 0.
        """

        def choose(index: int, choices: tuple[int, ...]) -> int:
            cycle, place = divmod(iteration, len(choices))
            rng = Random(f"{seed}/{index}/{cycle}")
            return sorted(choices, key=lambda _: rng.random())[place]

        return tuple(
            choose(index, choices) if len(choices) > 1 else choices[0]
            for index, choices in enumerate(self.choices)
        )

    def __contains__(self, path: object) -> bool:
        return (
            isinstance(path, Sequence)
            and len(path) == len(self.choices)
            and all(entry in choices for entry, choices in zip(path, self.choices))
        )

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        return product(*self.choices)


def as_choices(what: str, values: Sequence[int], lowest: int) -> tuple[int, ...]:
    """Check what an entry may be.

    Raises:
        ValueError: these are not one or more integers in increasing order, from ``lowest`` up.
    """
    if (
        not isinstance(values, Sequence)
        or not values
        or not all(isinstance(n, Integral) and not isinstance(n, bool) for n in values)
        or values[0] < lowest
        or any(n >= after for n, after in pairwise(values))
    ):
        raise ValueError(
            f"{what}: {values!r}; expected one or more integers of at least {lowest}, "
            "in increasing order and each one once"
        )
    return tuple(map(int, values))
