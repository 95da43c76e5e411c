"""Sets of valid values."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Range:
    """A set of valid values.

    Attributes:
        expected: description of the set, for error messages.
        holds: whether a value belongs to the set. A value of a wrong type does not.
    """

    expected: str
    holds: Callable[[Any], bool]


def is_number(value: Any) -> bool:
    """Whether a value is a finite number."""
    return type(value) in (int, float) and math.isfinite(value)


def at_least(low: float) -> Range:
    """All numbers from ``low`` upwards."""
    return Range(f"at least {low}", lambda v: is_number(v) and v >= low)


def above(low: float) -> Range:
    """All numbers greater than ``low``."""
    return Range(f"more than {low}", lambda v: is_number(v) and v > low)


def between(low: float, high: float) -> Range:
    """All numbers from ``low`` to ``high``, both included."""
    return Range(f"{low} to {high}", lambda v: is_number(v) and low <= v <= high)


def one_of(*values: Any) -> Range:
    """Any of the given values."""
    return Range(f"one of {', '.join(map(repr, values))}", lambda v: v in values)


def either(one: Range, other: Range) -> Range:
    """The union of two ranges."""
    return Range(f"{one.expected}, or {other.expected}", lambda v: one.holds(v) or other.holds(v))


def each(range_: Range, least: int = 1, most: float = math.inf) -> Range:
    """Lists whose entries all belong to a range.

    Args:
        least, most: limits of the number of entries.
    """
    if most == math.inf:
        count = "entries" if least else "a list"
    else:
        count = f"{most} entries" if least == most else f"{least} to {most} entries"
    return Range(
        f"{count}, each of them {range_.expected}",
        lambda v: (
            isinstance(v, (list, tuple)) and least <= len(v) <= most and all(map(range_.holds, v))
        ),
    )


def ascending(range_: Range, least: int = 1) -> Range:
    """Lists as in :func:`each` whose entries are strictly increasing."""
    entries = each(range_, least)
    return Range(
        f"{entries.expected}, in ascending order",
        lambda v: entries.holds(v) and all(a < b for a, b in zip(v, v[1:])),
    )


WHOLE = Range("a whole number from 0", lambda v: type(v) is int and v >= 0)
COUNT = Range("a whole number from 1", lambda v: type(v) is int and v >= 1)
ONE, ZERO, POSITIVE, SHARE = at_least(1), at_least(0), above(0), between(0, 1)
NAME = Range("a name", lambda v: isinstance(v, str) and v != "")
