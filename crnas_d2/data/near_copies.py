"""Finds near-duplicates: images that are mirrored, cropped, or of other gray levels.

Hashes of the image and of crops of it, which are fast to compare, give candidate pairs. Aligned
small versions of the two decide. ``benchmarks/near_copies.py`` measures how many near-duplicates
are found, and how often images are mistaken for them.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .alignment import likeness
from .fingerprints import BOXES, Fingerprints

BITS = 64
MOST_DISTANT = 14  # maximum number of bits in which hashes of copies differ
LEAST_LIKENESS = 0.6
MOST_CANDIDATES = 32  # number of nearest images that are examined further
ROWS, COLUMNS = 1024, 8192  # numbers of images on the two sides whose hashes are compared at once
PAIRS = 512  # number of pairs that are aligned at once


class View(NamedTuple):
    """A view of two images: one as a whole, and a crop of the other.

    Attributes:
        box: index of the crop in ``BOXES``.
        of_first: whether the crop is of the first image.
        mirrored: whether the second image is mirrored.
    """

    box: int
    of_first: bool
    mirrored: bool


VIEWS = tuple(
    View(box, of_first, mirrored)
    for mirrored in (False, True)
    for of_first in (False, True)
    for box in range(len(BOXES))
    if box or not of_first  # two whole images once
)
_PLACES = np.array([(s, 2 * left + s - 1, s, 2 * top + s - 1) for left, top, s in BOXES])


@dataclass(frozen=True)
class Matches:
    """Pairs of near-duplicates, sorted by the second image, then by decreasing likeness.

    Attributes:
        first, second: indices of the images, with shape (n,).
        distance: number of bits in which the hashes differ, with shape (n,).
        likeness: correlation of the details, with shape (n,).
        mirrored: whether one is mirrored relative to the other, with shape (n,).
    """

    first: np.ndarray
    second: np.ndarray
    distance: np.ndarray
    likeness: np.ndarray
    mirrored: np.ndarray

    def __len__(self) -> int:
        return len(self.first)

    def _taken(self, which: np.ndarray) -> Matches:
        return Matches(*(values[which] for values in vars(self).values()))


def find_near_copies(first: Fingerprints, second: Fingerprints) -> Matches:
    """Find the pairs of images from both sides that are near-duplicates.

    For each image of the second side, the 32 most similar ones are considered.
    """
    matches = candidates(first, second)
    matches = matches._taken(matches.likeness >= LEAST_LIKENESS)
    return matches._taken(np.lexsort((matches.first, -matches.likeness, matches.second)))


def candidates(first: Fingerprints, second: Fingerprints) -> Matches:
    """Find the pairs with similar hashes, with their likeness, whatever it is."""
    one, other = _nearest(first, second)
    views, distance = _best_views(first.hashes[one], second.hashes[other])
    chunks = [slice(start, start + PAIRS) for start in range(0, len(one), PAIRS)]
    with ThreadPoolExecutor() as pool:
        likenesses = pool.map(
            lambda chunk: _likeness(
                first.small[one[chunk]], second.small[other[chunk]], views[chunk]
            ),
            chunks,
        )
        alike = np.concatenate([np.zeros(0, np.float32), *likenesses])
    mirrored = np.array([view.mirrored for view in VIEWS])[views]
    return Matches(one, other, distance, alike, mirrored)


def _nearest(first: Fingerprints, second: Fingerprints) -> tuple[np.ndarray, np.ndarray]:
    """Get the indices of the pairs with similar hashes."""
    parts = [np.zeros((3, 0), np.int64)]  # rows: second, product, first
    for left in range(0, len(second.hashes), COLUMNS):
        columns = _signs(second.hashes[left : left + COLUMNS])
        found = parts[0]
        for top in range(0, len(first.hashes), ROWS):
            products = _products(_signs(first.hashes[top : top + ROWS]), columns)
            row, column = np.nonzero(products >= BITS - 2 * MOST_DISTANT)
            new = np.stack([column + left, products[row, column].astype(np.int64), row + top])
            found = _nearest_of_each(np.concatenate([found, new], 1))
        parts.append(found)
    found = np.concatenate(parts, 1)
    return found[2], found[0]


def _nearest_of_each(found: np.ndarray) -> np.ndarray:
    """Keep the pairs of :func:`_nearest` with the nearest images."""
    found = found[:, np.lexsort((found[2], -found[1], found[0]))]
    starts = np.searchsorted(found[0], found[0])
    return found[:, np.arange(found.shape[1]) - starts < MOST_CANDIDATES]


def _signs(hashes: np.ndarray) -> np.ndarray:
    """Convert hashes to -1 and 1, with shape (2, crops, n, 64).

    Their products count the bits in which hashes differ.
    """
    bits = np.unpackbits(hashes.transpose(1, 2, 0)[..., None].view(np.uint8), axis=-1)
    return bits.astype(np.float32) * 2 - 1


def _products(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Compute the largest product over all views, with shape (rows, columns).

    A product is 64 minus twice the number of bits in which two hashes differ.
    """
    largest = np.full((rows.shape[2], columns.shape[2]), -BITS, np.float32)
    product = np.empty_like(largest)
    for view in VIEWS:
        one, other = _boxes_of(view)
        np.matmul(rows[0, one], columns[int(view.mirrored), other].T, out=product)
        np.maximum(largest, product, out=largest)
    return largest


def _boxes_of(view: View) -> tuple[int, int]:
    return (view.box, 0) if view.of_first else (0, view.box)


def _best_views(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Get the index of the view with the nearest hashes for each pair, and their distance."""
    distances = np.zeros((len(VIEWS), len(first)), np.int64)
    for index, view in enumerate(VIEWS):
        one, other = _boxes_of(view)
        differ = first[:, 0, one] ^ second[:, int(view.mirrored), other]
        distances[index] = np.unpackbits(differ[:, None].view(np.uint8), axis=1).sum(1)
    return distances.argmin(0), distances.min(0)


def _likeness(first: np.ndarray, second: np.ndarray, views: np.ndarray) -> np.ndarray:
    view = np.array(VIEWS)[views]
    mirrored, of_first = (view[:, i, None, None].astype(bool) for i in (2, 1))
    second = np.where(mirrored, second[:, :, ::-1], second)
    cropped, whole = np.where(of_first, first, second), np.where(of_first, second, first)
    return likeness(cropped, whole, _PLACES[view[:, 0]])
