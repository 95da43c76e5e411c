"""The common base of the stage space and the operation space, whose paths choose in every unit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from math import prod
from numbers import Integral
from random import Random


@dataclass(frozen=True)
class ChoiceUnit:
    """A place of the supernet at which a path has to choose.

    Attributes:
        index: index of its entry in the path.
        choices: the two or more values that this entry may have, in increasing order.
    """

    index: int
    choices: tuple[int, ...]


class PathSpace:
    """All paths of a supernet. A path is a code of full length, including fixed entries.

    Iteration yields every path in lexicographic order, lazily.

    Attributes:
        choices: for each entry of a path, the values that it may have, in increasing order. A fixed
            entry has one choice.
    """

    choices: tuple[tuple[int, ...], ...]

    @property
    def size(self) -> int:
        """The number of paths."""
        return prod(map(len, self.choices))

    @property
    def units(self) -> tuple[ChoiceUnit, ...]:
        """The units for all entries that are not fixed, in order."""
        return tuple(
            ChoiceUnit(index, choices)
            for index, choices in enumerate(self.choices)
            if len(choices) > 1
        )

    def sample(self, rng: Random) -> tuple[int, ...]:
        """Sample a path uniformly, drawing the choice of each unit independently (section 3.3.1).

        ``rng.random()`` is called once for each unit, in order, and nothing else of ``rng`` is
        used, because Python keeps this stream the same in all its versions.
        """
        return tuple(
            choices[int(rng.random() * len(choices))] if len(choices) > 1 else choices[0]
            for choices in self.choices
        )

    def sample_in_cycles(self, seed: int, iteration: int) -> tuple[int, ...]:
        """Get the path of an iteration when each unit draws its choices without replacement.

        This is strict fairness as in FairNAS (Chu et al., 2021), extended to units with different
        numbers of choices. A unit with k choices takes each of them once in every k iterations, its
        cycle. The order is drawn anew for each cycle and independently for each unit. So the path
        of an iteration is uniform over the space, and independent of the paths of iterations at
        which every unit is in another cycle.

        Args:
            seed: seed of all cycles.
            iteration: number of the iteration, from 0.
        """

        def choose(index: int, choices: tuple[int, ...]) -> int:
            cycle, place = divmod(iteration, len(choices))
            rng = Random(f"{seed}/{index}/{cycle}")
            return sorted(choices, key=lambda _: rng.random())[place]

        return tuple(choose(index, choices) for index, choices in enumerate(self.choices))

    def __contains__(self, path: object) -> bool:
        return (
            isinstance(path, Sequence)
            and len(path) == len(self.choices)
            and all(entry in choices for entry, choices in zip(path, self.choices))
        )

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        return product(*self.choices)


def as_choices(what: str, values: Sequence[int], lowest: int) -> tuple[int, ...]:
    """Check the values that an entry of a path may have.

    Raises:
        ValueError: they are not one or more integers in increasing order, each at least ``lowest``.
    """
    if (
        not isinstance(values, Sequence)
        or not values
        or not all(isinstance(n, Integral) and not isinstance(n, bool) for n in values)
        or values[0] < lowest
        or any(n >= after for n, after in pairwise(values))
    ):
        raise ValueError(
            f"{what} are {values!r}; expected one or more integers of at least {lowest}, "
            "in increasing order and each one once"
        )
    return tuple(map(int, values))
