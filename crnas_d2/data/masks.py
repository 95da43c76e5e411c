"""Checks of masks in COCO format, that is, polygons and run lengths that pycocotools can draw."""

from __future__ import annotations

import math
from reprlib import repr as short
from typing import Any

import numpy as np

EXPECTED = (
    "expected polygons [[x, y, x, y, x, y, ...], ...] or run lengths {'size': [height, width] of "
    "the image, 'counts': ...}"
)


def mask_fault(segmentation: Any, size: tuple[int, int] | None) -> str | None:
    """Describe what is wrong with a mask.

    pycocotools checks little of this: it may crash the process or never return.

    Args:
        segmentation: segmentation of an annotation.
        size: (width, height) of its image. None if it is unknown.

    Returns:
        The fault. None if there is none.
    """
    if type(segmentation) is dict:
        return None if size is None else _run_length_fault(segmentation, size)
    if type(segmentation) is not list:
        return f"segmentation is {short(segmentation)}; {EXPECTED}"
    for points in segmentation:
        if fault := _polygon_fault(points, size):
            return fault
    return _points_fault(segmentation, size)


def is_too_short(polygon: Any) -> bool:
    """Whether Detectron2 drops a polygon, as it has fewer than 3 points, or half a point."""
    return type(polygon) is list and (len(polygon) < 6 or len(polygon) % 2 == 1)


def _points_fault(polygons: list[list[float]], size: tuple[int, int] | None) -> str | None:
    count = sum(map(len, polygons)) // 2
    if size is None or count <= _edges(size):
        return None
    return (
        f"segmentation has {len(polygons)} polygons of {count} points in all; expected at most "
        f"{_edges(size)} points, the edges of all pixels of the image of {size[0]} x {size[1]}"
    )


def _polygon_fault(points: Any, size: tuple[int, int] | None) -> str | None:
    if not _is_polygon(points):
        return f"segmentation has the polygon {short(points)}; {EXPECTED}"
    if size is None:
        return None

    # For most polygons, the coordinates alone show that they are small.
    least, most, count = min(points), max(points), len(points) // 2
    if (
        -min(size) <= least
        and most <= 2 * min(size)
        and count * max(most - least, 1) <= _edges(size)
    ):
        return None
    extents = []
    for axis, side, coordinates in zip("xy", size, (points[::2], points[1::2])):
        least, most = min(coordinates), max(coordinates)
        if least < -side or most > 2 * side:
            return (
                f"segmentation has a polygon with {axis} = {least if least < -side else most:g}; "
                f"expected {-side} to {2 * side}, as the image of {size[0]} x {size[1]} pixels and "
                "as much again on each side"
            )
        extents.append(most - least)

    # An outline along pixels has each of their edges once.
    edges = _edges(size)
    # pycocotools stores a point for each fifth of a pixel.
    if count > edges or (count * max(extents) > edges and _outline(points) > edges):
        return (
            f"segmentation has a polygon of {count} points and {_outline(points):.0f} pixels "
            f"outline; expected at most {edges} of both, the edges of all pixels of the image of "
            f"{size[0]} x {size[1]}"
        )
    return None


def _edges(size: tuple[int, int]) -> int:
    """Count the edges of all pixels of an image, inner ones once."""
    return 2 * size[0] * size[1] + size[0] + size[1]


def _is_polygon(points: Any) -> bool:
    if type(points) is not list or len(points) < 6 or len(points) % 2:
        return False
    try:
        return math.isfinite(sum(points))  # NaN propagates, so one test is enough
    except (TypeError, OverflowError):
        return False


def _outline(points: list[float]) -> float:
    """Compute the length of a polygon's outline, with each edge measured along its longer axis."""
    corners = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    return float(np.abs(corners - np.roll(corners, 1, axis=0)).max(axis=1).sum())


def _run_length_fault(segmentation: dict, size: tuple[int, int]) -> str | None:
    width, height = size
    if segmentation.get("size") != [height, width]:
        return (
            f"segmentation has run lengths of size {short(segmentation.get('size'))}; expected "
            f"{[height, width]}, height and width of the image"
        )
    counts = segmentation.get("counts")
    runs = _uncompressed(counts) if type(counts) is str else counts
    if type(runs) is not list or not all(type(run) is int and run >= 0 for run in runs):
        return f"segmentation has the counts {short(counts)}; {EXPECTED}"
    if sum(runs) != width * height:
        return (
            f"segmentation has run lengths of {sum(runs)} pixels in all; expected "
            f"{width * height}, those of the image of {width} x {height}"
        )
    return None


def _uncompressed(counts: str) -> list[int] | None:
    """Decode the run lengths in a string of pycocotools. None if it is invalid.

    A character is 48 plus six bits: five bits of a number, lowest first, and one that says whether
    it continues. The last of the five is the sign. From the fourth number on, a number is the
    difference from the one two places before.
    """
    codes = np.array([ord(character) - 48 for character in counts])
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        return None
    ends = np.flatnonzero(~codes & 32)
    starts = np.concatenate(([0], ends[:-1] + 1))
    digits = np.arange(len(codes)) - np.repeat(starts, ends - starts + 1)
    if digits.max() > 6:
        return None
    numbers = np.add.reduceat((codes & 31) << 5 * digits, starts)
    numbers -= np.where(codes[ends] & 16, 1 << 5 * (digits[ends] + 1), 0)
    for first in (1, 2):
        numbers[first::2] = numbers[first::2].cumsum()
    return numbers.tolist()
