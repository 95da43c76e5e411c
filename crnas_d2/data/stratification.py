"""A draw of archval by class: iterative stratification (Sechidis, Tsoumakas, Vlahavas, 2011).

The paper's algorithm deals out the images of the rarest class first, each to the part that wants
most of it. Here the parts get exact sizes, and the last image of a class goes to a part that has
none of it yet; what still lacks is mended by exchanges.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from .sizes import Sizes

PARTS = (0, 1)  # archtrain and archval
ARCHVAL = PARTS[1]
MOST_EXCHANGES = 50_000  # that are tried


class Dealt(Protocol):
    """What is dealt out whole.

    Attributes:
        rank: a hash, which breaks ties.
        size: number of its images.
        classes: in how many of the images each class has objects.
    """

    @property
    def rank(self) -> bytes: ...

    @property
    def size(self) -> int: ...

    @property
    def classes(self) -> Mapping[int, int]: ...


def stratify(groups: Sequence[Dealt], size: int) -> set[int]:
    """Deal groups of images out to archtrain and archval, so that each class has about the same
    share of its images in archval, and is in both parts where it can be.

    Args:
        groups: in order of their ranks.
        size: images of archval, which whole groups have to be able to make.

    Returns:
        Indices of the groups of archval.
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
    """
    Attributes:
        parts: of each group; None before it is dealt.
    """

    def __init__(self, groups: Sequence[Dealt], size: int):
        self.parts: list[int | None] = [None] * len(groups)
        self._groups = groups
        self._sizes = Sizes([group.size for group in groups], size)
        total = sum(group.size for group in groups)
        self._total = total
        # What the parts want of all images, and of those with each class, in units of 1 / total
        self._wanted = [total * (total - size), total * size]
        images: Counter = _sum_of(group.classes for group in groups)
        self._wanted_of = {label: [n * (total - size), n * size] for label, n in images.items()}
        self._members: dict[int, list[int]] = {label: [] for label in images}
        for index, group in enumerate(groups):
            for label in group.classes:
                self._members[label].append(index)
        self._left = {label: len(members) for label, members in self._members.items()}
        self._has = {label: [0, 0] for label in images}  # groups of each part

    def rarest(self) -> tuple[int] | None:
        """The class that the fewest groups have that are still to be dealt."""
        left = [(n, label) for label, n in self._left.items() if n]
        return min(left)[1:] if left else None

    def open_groups(self, label: int) -> Iterator[int]:
        return (index for index in self._members[label] if self.parts[index] is None)

    def assign(self, index: int, label: int | None = None) -> None:
        """Deal a group out.

        Args:
            label: the class that it is dealt for; None for one without classes.
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
        """How much a part wants a group; greater is more."""
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
    """Groups of one size change places between the parts, so that more classes are in both. Where
    no exchange helps at once, one is made that costs another class its place, as the next may then
    help; no state is visited twice."""

    def __init__(self, groups: Sequence[Dealt], parts: list[int]):
        self._groups, self._parts = groups, parts
        self._members: dict[int, list[int]] = {}
        self._has: list[Counter[int]] = [Counter(), Counter()]  # groups with a class, of each part
        for index, (group, part) in enumerate(zip(groups, parts)):
            self._has[part].update(group.classes.keys())
            for label in group.classes:
                self._members.setdefault(label, []).append(index)
        self._seen = {0}
        self._state = 0  # of what has changed its place
        self._tries = MOST_EXCHANGES

    def run(self) -> None:
        """Leaves the parts as they were best."""
        lacking = self._lacking()
        fewest, best = len(lacking), list(self._parts)
        while lacking and any(self._bring(*pair, gain) for gain in (1, 0) for pair in lacking):
            lacking = self._lacking()
            if len(lacking) < fewest:
                fewest, best = len(lacking), list(self._parts)
        self._parts[:] = best

    def _lacking(self) -> list[tuple[int, int]]:
        """Classes that could be in both parts, and the part that lacks them."""
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
        """By how much the number of classes in the two parts grows if one group comes into a part
        and another one goes."""
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
