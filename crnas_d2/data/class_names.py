"""Names of classes, several of which may be equal."""

from __future__ import annotations

from collections.abc import Iterable


def tell_apart(names: Iterable[str]) -> list[str]:
    """Make names distinct, so that results and weights can be identified by them.

    The second class with the name "cell" becomes "cell#2", the third "cell#3". Names that occur
    once stay the same, so the function is idempotent.
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
