"""How Detectron2 treats boxes that are empty or not entirely inside their image."""

from __future__ import annotations

# A box may exceed its image by this many pixels without a warning: x and width may each be rounded
# to whole pixels, and some tools count from 1.
BOX_TOLERANCE = 1.0

EMPTY = "box of width or height 0, which Detectron2 leaves out of the training"
TURNED = "box of negative width or height, which Detectron2 turns over in the training"
OUTSIDE = "box outside its image, which Detectron2 leaves out of the training"
CLIPPED = "box that leaves its image, which Detectron2 clips in the training"
LEFT_OUT = (EMPTY, OUTSIDE)
# How a test treats them, as it uses boxes unchanged
IN_A_TEST = dict.fromkeys((EMPTY, TURNED, OUTSIDE), "; a test misses its object") | {
    CLIPPED: "; a test takes it whole"
}


def box_kind(x: float, y: float, width: float, height: float, size: tuple[int, int]) -> str | None:
    """Classify a box.

    Args:
        x, y, width, height: finite coordinates of the box, in pixels.
        size: (width, height) of its image.

    Returns:
        ``EMPTY``, ``TURNED``, ``OUTSIDE`` or ``CLIPPED``. None for a normal box.
    """
    if width == 0 or height == 0:
        return EMPTY
    left, right = sorted((x, x + width))
    top, bottom = sorted((y, y + height))
    if right <= 0 or bottom <= 0 or left >= size[0] or top >= size[1]:
        return OUTSIDE
    if width < 0 or height < 0:
        return TURNED
    inside = (
        left >= -BOX_TOLERANCE
        and top >= -BOX_TOLERANCE
        and right <= size[0] + BOX_TOLERANCE
        and bottom <= size[1] + BOX_TOLERANCE
    )
    return None if inside else CLIPPED
