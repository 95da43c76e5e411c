"""Scenes of handwritten digits on photographs, from scikit-learn's sample data."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

__all__ = ["DigitSources", "Scene", "compose"]

# Pixels are resized with integer arithmetic (PIL), and random numbers come from the one generator
# whose stream NumPy has frozen (RandomState), so a seed gives the same scene on every machine.


class DigitSources:
    """The scans and photographs that one split of the dataset may use.

    A fifth of the scans of each class, and the right-hand part of both photographs, are reserved
    for "val". "train" has the rest.

    Attributes:
        scans: the ink of all scans, as uint8 of shape (1797, 8, 8).
        indices: for each class 0..9, the indices of its scans in this split.
        photos: the part of each photograph that belongs to this split, by name.
        first_column: first column of these parts in the photographs.

    Raises:
        ImportError: scikit-learn is not installed.
    """

    VAL_FRACTION = 0.2
    VAL_COLUMN = 400

    def __init__(self, split: str, seed: int):
        try:
            from sklearn.datasets import load_digits, load_sample_image
        except ImportError as error:
            raise ImportError(
                "the dataset 'digits' is made of scikit-learn's sample data, and scikit-learn is "
                "not installed: pip install 'crnas_d2[digits]'"
            ) from error
        data = load_digits()
        self.scans = (data.images * 255 / 16).astype(np.uint8)
        order = np.random.RandomState(seed).permutation(len(self.scans))
        self.indices = []
        for digit in range(10):
            own = order[data.target[order] == digit]
            num_val = round(len(own) * self.VAL_FRACTION)
            self.indices.append(own[:num_val] if split == "val" else own[num_val:])
        self.first_column, end = (self.VAL_COLUMN, None) if split == "val" else (0, self.VAL_COLUMN)
        self.photos = {
            name: Image.fromarray(load_sample_image(name)[:, self.first_column : end])
            for name in ("china.jpg", "flower.jpg")
        }


class DrawnDigit(NamedTuple):
    """A digit in a scene: its class, the index of its scan, and its visible pixels."""

    digit: int
    scan: int
    mask: np.ndarray  # bool of shape (size, size)


class Scene(NamedTuple):
    """Digits on a square of a photograph."""

    pixels: np.ndarray  # RGB as uint8 of shape (size, size, 3)
    photo: dict[str, str | int]  # name; x, y, side of the square in the photograph's pixels
    digits: Sequence[DrawnDigit]


def compose(
    sources: DigitSources,
    digits: Sequence[tuple[int, float]],
    size: int,
    max_overlap: float,
    rng: np.random.RandomState,
) -> Scene:
    """Draw a random scan of each digit, in a random light color, at a random place.

    The photograph is shown at half its brightness, so that a light color stands out everywhere.

    Args:
        sources: scans and photographs to choose from.
        digits: class and longer side in pixels of each digit. Later ones cover earlier ones.
        size: side of the scene in pixels.
        max_overlap: maximum share of the smaller of two boxes that they have in common. A digit
            that finds no such place in 20 trials is left out.
        rng: source of all randomness.
    """
    pixels, photo = _background(sources, size, rng)
    top = np.full((size, size), -1)  # index of the visible digit at each pixel
    boxes: list[tuple[int, int, int, int]] = []
    drawn = []
    for digit, longer_side in digits:
        scan = int(rng.choice(sources.indices[digit]))
        shape = _shape(sources.scans[scan], longer_side)
        color = rng.randint(160, 256, 3)
        height, width = shape.shape
        for _ in range(20):
            x, y = rng.randint(size - width + 1), rng.randint(size - height + 1)
            box = (x, y, x + width, y + height)
            if all(_overlap(box, other) <= max_overlap for other in boxes):
                break
        else:
            continue
        place = slice(y, y + height), slice(x, x + width)
        opacity = shape[..., None].astype(int)
        pixels[place] = (opacity * color + (255 - opacity) * pixels[place]) // 255
        top[place][shape >= 128] = len(boxes)
        boxes.append(box)
        drawn.append((int(digit), scan))
    masks = [top == i for i in range(len(boxes))]
    return Scene(pixels, photo, [DrawnDigit(*d, m) for d, m in zip(drawn, masks) if m.any()])


def _background(
    sources: DigitSources, size: int, rng: np.random.RandomState
) -> tuple[np.ndarray, dict[str, str | int]]:
    name = sorted(sources.photos)[rng.randint(len(sources.photos))]
    photo = sources.photos[name]
    side = rng.randint(96, 241)
    x, y = rng.randint(photo.width - side + 1), rng.randint(photo.height - side + 1)
    square = photo.resize((size, size), Image.Resampling.BILINEAR, box=(x, y, x + side, y + side))
    pixels = np.asarray(square) // 2
    if rng.randint(2):
        pixels = pixels[:, ::-1].copy()
    return pixels, {"name": name, "x": sources.first_column + x, "y": y, "side": side}


def _shape(scan: np.ndarray, longer_side: float) -> np.ndarray:
    """Extract the smooth outline of an 8x8 scan.

    Returns:
        The opacity as uint8 of shape (height, width). The longer side is ``longer_side``, rounded.
    """
    padded = Image.fromarray(np.pad(scan, 1))
    ink = np.asarray(padded.resize((320, 320), Image.Resampling.BICUBIC))
    outline = Image.fromarray(np.where(ink >= 112, 255, 0).astype(np.uint8))
    outline = outline.crop(outline.getbbox())
    scale = longer_side / max(outline.size)
    width, height = (max(1, round(length * scale)) for length in outline.size)
    return np.asarray(outline.resize((width, height), Image.Resampling.BILINEAR))


def _overlap(a: tuple[int, ...], b: tuple[int, ...]) -> float:
    """Compute the share of the smaller of two boxes (x0, y0, x1, y1) that they have in common."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    smaller = min((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in (a, b))
    return max(width, 0) * max(height, 0) / smaller
