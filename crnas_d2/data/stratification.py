"""A stratified split of archval: iterative stratification (Sechidis, Tsoumakas, Vlahavas, 2011).

The algorithm of the paper distributes the images of the rarest class first, each to the part that
needs most of it. Here the parts have exact sizes, and the last image of a class goes to a part that
has none of it yet. Remaining gaps are closed by exchanges.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from .sizes import Sizes

PARTS = (0, 1)  # archtrain and archval
ARCHVAL = PARTS[1]
MOST_EXCHANGES = 50_000  # maximum number of attempts


class Dealt(Protocol):
    """A unit that is assigned as a whole.

    Attributes:
        rank: a hash, which breaks ties.
        size: number of its images.
        classes: for each class, the number of its images with objects of it.
    """

    @property
    def rank(self) -> bytes: ...

    @property
    def size(self) -> int: ...

    @property
    def classes(self) -> Mapping[int, int]: ...


def stratify(groups: Sequence[Dealt], size: int) -> set[int]:
    """Distribute groups of images to archtrain and archval with about equal class shares.

    Each class is in both parts if possible.

    Args:
        groups: groups in the order of their ranks.
        size: number of images in archval, which a subset of the groups has to match exactly.

    Returns:
        The indices of the groups in archval.
    """
    deal = _Deal(groups, size)
    while label := deal.rarest():
        for index in deal.open_groups(*label):
            deal.assign(index, *label)
    for index in range(len(groups)):
        if deal.parts[index] is None:
            deal.assign(index)
    parts = [part for part in deal.parts if part is not None]  # all of them, now
    _Exchange(groups, parts).run()
    return {index for index, part in enumerate(parts) if part == ARCHVAL}


class _Deal:
    """The state of the distribution.

    Attributes:
        parts: part of each group. None until it is assigned.
    """

    def __init__(self, groups: Sequence[Dealt], size: int):
        self.parts: list[int | None] = [None] * len(groups)
        self._groups = groups
        self._sizes = Sizes([group.size for group in groups], size)
        total = sum(group.size for group in groups)
        self._total = total
        # The parts' remaining demand of all images, and of those with each class, in units of 1 /
        # total
        self._wanted = [total * (total - size), total * size]
        images: Counter = _sum_of(group.classes for group in groups)
        self._wanted_of = {label: [n * (total - size), n * size] for label, n in images.items()}
        self._members: dict[int, list[int]] = {label: [] for label in images}
        for index, group in enumerate(groups):
            for label in group.classes:
                self._members[label].append(index)
        self._left = {label: len(members) for label, members in self._members.items()}
        self._has = {label: [0, 0] for label in images}  # number of groups in each part

    def rarest(self) -> tuple[int] | None:
        """Get the class with the fewest unassigned groups."""
        left = [(n, label) for label, n in self._left.items() if n]
        return min(left)[1:] if left else None

    def open_groups(self, label: int) -> Iterator[int]:
        return (index for index in self._members[label] if self.parts[index] is None)

    def assign(self, index: int, label: int | None = None) -> None:
        """Assign a group.

        Args:
            index: index of the group.
            label: the class that it is assigned for. None for a group without classes.
        """
        group = self._groups[index]
        possible = [part for part, fits in zip(PARTS, self._sizes.fits(group.size)) if fits]
        part = max(possible, key=lambda part: self._claim(part, group, label))
        self.parts[index] = part
        self._sizes.assign(group.size, part == ARCHVAL)
        self._wanted[part] -= self._total * group.size
        for label, images in group.classes.items():
            self._left[label] -= 1
            self._has[label][part] += 1
            self._wanted_of[label][part] -= self._total * images

    def _claim(self, part: int, group: Dealt, label: int | None) -> tuple:
        """Get the priority of a part for a group. The greater one wins."""
        tie = (group.rank[-1] + part) % 2
        if label is None:
            return self._wanted[part], tie
        has, other = self._has[label][part], self._has[label][1 - part]
        is_last_chance = self._left[label] == 1 and not has and other > 0
        return is_last_chance, self._wanted_of[label][part], self._wanted[part], tie


def _sum_of(counts: Iterable[Mapping[int, int]]) -> Counter:
    total: Counter = Counter()
    for count in counts:
        total.update(count)
    return total


class _Exchange:
    """Exchanges groups of equal size between the parts, so that more classes are in both.

    If no exchange helps at once, one that removes another class from a part is made, as the next
    one may then help. No state is visited twice.
    """

    def __init__(self, groups: Sequence[Dealt], parts: list[int]):
        self._groups, self._parts = groups, parts
        self._members: dict[int, list[int]] = {}
        # number of groups with a class, in each part
        self._has: list[Counter[int]] = [Counter(), Counter()]
        for index, (group, part) in enumerate(zip(groups, parts)):
            self._has[part].update(group.classes.keys())
            for label in group.classes:
                self._members.setdefault(label, []).append(index)
        self._seen = {0}
        self._state = 0  # hash of the groups that have moved
        self._tries = MOST_EXCHANGES

    def run(self) -> None:
        """Run exchanges, and leave the parts in their best state."""
        lacking = self._lacking()
        fewest, best = len(lacking), list(self._parts)
        while lacking and any(self._bring(*pair, gain) for gain in (1, 0) for pair in lacking):
            lacking = self._lacking()
            if len(lacking) < fewest:
                fewest, best = len(lacking), list(self._parts)
        self._parts[:] = best

    def _lacking(self) -> list[tuple[int, int]]:
        """List the classes that could be in both parts, with the part that lacks them."""
        return [
            (label, part)
            for label, members in sorted(self._members.items())
            for part in PARTS
            if len(members) > 1 and not self._has[part][label]
        ]

    def _bring(self, label: int, part: int, least_gain: int) -> bool:
        """Bring a class into a part. Returns whether that was possible."""
        places = [index for index, other in enumerate(self._parts) if other == part]
        for coming in self._members[label]:
            for going in places:
                if self._tries == 0:
                    return False
                self._tries -= 1
                state = self._state ^ self._key(coming) ^ self._key(going)
                if state not in self._seen and self._gain(coming, going, part) >= least_gain:
                    self._seen.add(state)
                    self._state = state
                    self._move(coming, part)
                    self._move(going, 1 - part)
                    return True
        return False

    def _key(self, index: int) -> int:
        return int.from_bytes(self._groups[index].rank, "big")

    def _gain(self, coming: int, going: int, part: int) -> float:
        """Get the increase in the number of classes in the two parts if two groups are exchanged."""
        if self._groups[coming].size != self._groups[going].size:
            return -math.inf
        enter, leave = self._groups[coming].classes, self._groups[going].classes
        gain = 0
        for label in enter.keys() ^ leave.keys():
            step = 1 if label in enter else -1
            for counts, change in ((self._has[part], step), (self._has[1 - part], -step)):
                gain += (counts[label] + change > 0) - (counts[label] > 0)
        return gain

    def _move(self, index: int, part: int) -> None:
        self._parts[index] = part
        self._has[part].update(self._groups[index].classes.keys())
        self._has[1 - part].subtract(self._groups[index].classes.keys())
