"""How many images whole groups can make together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence


def nearest_size(groups: Sequence[int], wanted: int) -> int:
    """The number of images nearest to the wanted one that some of the groups have together, and
    that leaves others; of two, the smaller.

    Args:
        groups: sizes of all.

    Raises:
        ValueError: there is one group alone.
    """
    if len(groups) < 2:
        raise ValueError(
            f"its {sum(groups)} images are one group by DATASETS.ARCHVAL.GROUP_KEY; expected two at "
            "least, for archtrain and archval"
        )
    if set(groups) == {1}:
        return wanted
    sums = _sums(Counter(groups), sum(groups))
    possible = (n for n in range(1, sum(groups)) if sums >> n & 1)
    return min(possible, key=lambda n: (abs(n - wanted), n))


class Sizes:
    """What the groups that are in no part yet can still do for the size of archval."""

    def __init__(self, groups: Sequence[int], size: int):
        """
        Args:
            groups: sizes of all.
            size: images that archval gets in the end, see :func:`nearest_size`.
        """
        self._open = Counter(groups)
        self._missing = size

    def fits(self, size: int) -> tuple[bool, bool]:
        """Whether archval can still get its size if a group of this many images comes into
        archtrain, and if it comes into archval."""
        self._open[size] -= 1
        fits = _reaches(self._open, self._missing), _reaches(self._open, self._missing - size)
        self._open[size] += 1
        return fits

    def assign(self, size: int, to_archval: bool) -> None:
        """A group of this many images has come into a part."""
        self._open[size] -= 1
        self._missing -= size if to_archval else 0


def _reaches(groups: Mapping[int, int], wanted: int) -> bool:
    """Whether some of the groups have so many images together.

    Args:
        groups: how many there are of each size.
    """
    if not 0 <= wanted <= sum(size * count for size, count in groups.items()):
        return False
    largest = max((size for size, count in groups.items() if count), default=0)
    if groups.get(1, 0) >= largest - 1:  # the single ones fill every gap
        return True
    return bool(_sums(groups, wanted) >> wanted & 1)


def _sums(groups: Mapping[int, int], limit: int) -> int:
    """A number whose bit n says whether some of the groups have n images together, n up to the
    limit."""
    sums, mask = 1, (1 << limit + 1) - 1
    for size, count in groups.items():
        taken = 1
        while count:
            taken = min(taken, count)
            sums |= sums << taken * size & mask
            count -= taken
            taken *= 2
    return sums
