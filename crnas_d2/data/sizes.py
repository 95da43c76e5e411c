"""The numbers of images that whole groups can have together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence


def nearest_size(groups: Sequence[int], wanted: int) -> int:
    """Find the number of images nearest to ``wanted`` that a proper subset of the groups has.

    Of two equally near ones, it is the smaller.

    Args:
        groups: sizes of all groups.
        wanted: the wanted number.

    Raises:
        ValueError: there is only one group.
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
    """Tracks whether the unassigned groups can still give archval its exact size."""

    def __init__(self, groups: Sequence[int], size: int):
        """
        Args:
            groups: sizes of all groups.
            size: final number of images in archval, see :func:`nearest_size`.
        """
        self._open = Counter(groups)
        self._missing = size

    def fits(self, size: int) -> tuple[bool, bool]:
        """Whether archval can still get its size if such a group goes to archtrain, or to archval."""
        self._open[size] -= 1
        fits = _reaches(self._open, self._missing), _reaches(self._open, self._missing - size)
        self._open[size] += 1
        return fits

    def assign(self, size: int, to_archval: bool) -> None:
        """Record that a group of this size was assigned."""
        self._open[size] -= 1
        self._missing -= size if to_archval else 0


def _reaches(groups: Mapping[int, int], wanted: int) -> bool:
    """Whether a subset of the groups has exactly ``wanted`` images.

    Args:
        groups: number of groups by size.
        wanted: the wanted number.
    """
    if not 0 <= wanted <= sum(size * count for size, count in groups.items()):
        return False
    largest = max((size for size, count in groups.items() if count), default=0)
    if groups.get(1, 0) >= largest - 1:  # single images fill every gap
        return True
    return bool(_sums(groups, wanted) >> wanted & 1)


def _sums(groups: Mapping[int, int], limit: int) -> int:
    """Get an integer whose bit n says whether a subset of the groups has n images, up to the limit."""
    sums, mask = 1, (1 << limit + 1) - 1
    for size, count in groups.items():
        taken = 1
        while count:
            taken = min(taken, count)
            sums |= sums << taken * size & mask
            count -= taken
            taken *= 2
    return sums
