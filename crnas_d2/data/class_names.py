"""Names of classes, where several classes may have the same one."""

from __future__ import annotations

from collections.abc import Iterable


def tell_apart(names: Iterable[str]) -> list[str]:
    """The names, each once, so that results and weights can go by them.

    The second class of the name "cell" is called "cell#2", the third "cell#3". Names that are there
    once stay as they are, so to do it twice changes nothing.
    """
    names = list(names)
    told = set(names)
    counts: dict[str, int] = {}
    apart = []
    for name in names:
        number = counts[name] = counts.get(name, 0) + 1
        while number > 1 and f"{name}#{number}" in told:
            number += 1
        apart.append(name if number == 1 else f"{name}#{number}")
        told.add(apart[-1])
    return apart
