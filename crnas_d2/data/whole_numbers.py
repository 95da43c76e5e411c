"""Integers that a file writes as 512.0 or "512", and ids, which have to be of one type."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

# pycocotools sorts ids as 64-bit integers.
ID_LIMIT = 2**63
DIGITS = re.compile(r"\s*[-+]?\d{1,18}\s*")


def whole_number(value: Any) -> int | None:
    """Get the integer that a value of a json file stands for. None if there is none."""
    if type(value) is int:
        return value
    if type(value) is float and value.is_integer() and abs(value) < ID_LIMIT:
        return int(value)
    if type(value) is str and DIGITS.fullmatch(value):
        return int(value)
    return None


def is_id(value: Any) -> bool:
    """Whether Detectron2 and pycocotools accept a value as an id of an image or a category."""
    if type(value) is str:
        return "\0" not in value  # NumPy drops a trailing one
    return type(value) is int and -ID_LIMIT <= value < ID_LIMIT


def are_of_one_type(*columns: Iterable[Any]) -> bool:
    """Whether ids and all references to them are all integers or all strings."""
    types: set[type] = set()
    for column in columns:
        types.update(map(type, column))
    return types <= {int} or types <= {str}
