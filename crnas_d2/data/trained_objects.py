"""The annotations of a COCO json that Detectron2 trains on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from .objects import SMALLEST_SIDE


def trained_objects(
    images: Iterable[Mapping[str, Any]], annotations: Iterable[Mapping[str, Any]]
) -> Iterator[Mapping[str, Any]]:
    """Iterate over annotations that are not crowds and whose box is at least partly in the image."""
    sizes = {image["id"]: (image.get("width"), image.get("height")) for image in images}
    for annotation in annotations:
        size = sizes.get(annotation["image_id"], (None, None))
        if is_trained(annotation.get("bbox"), annotation.get("iscrowd"), *size):
            yield annotation


def is_trained(
    box: Sequence[float] | None, is_crowd: int | None, width: float | None, height: float | None
) -> bool:
    """Whether Detectron2's mapper keeps an object.

    Args:
        box: x, y, width, height in pixels. A negative width extends to the left, as in the mapper.
        is_crowd: 0, 1 or None.
        width, height: size of the image. None if it is unknown.
    """
    if is_crowd or not box:
        return False
    x, y, w, h = box
    return _inside(x, w, width) > SMALLEST_SIDE and _inside(y, h, height) > SMALLEST_SIDE


def _inside(start: float, length: float, limit: float | None) -> float:
    """Compute the length of the part of an interval that lies within the image."""
    low, high = (start, start + length) if length >= 0 else (start + length, start)
    if limit is not None and high > limit:
        high = limit
    return high - (low if low > 0 else 0)
