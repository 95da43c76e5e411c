"""The likeness of two small gray images after aligning them."""

from __future__ import annotations

import numpy as np
import scipy

STEPS = 10
FIRST_STEPS = 3  # after which pairs that are still far apart are given up
FAR_APART = 0.5  # correlation of gray levels
DETAIL = 5  # pixels; variation over more than these is removed before details are compared
MIN_OVERLAP = 0.5  # share of the area; a smaller overlap is not conclusive
FLAT = 0.3  # standard deviation in gray levels below which an image has no recognizable content
LONGEST_STEP = 0.1  # in half the side of an image


def likeness(moving: np.ndarray, fixed: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Compute the correlation of the details of image pairs at the best alignment.

    A pixel (x, y) of the fixed image, with coordinates from -1 to 1, corresponds to (a x + b, c y +
    d) in the moving one. These parameters are found by the Gauss-Newton method on the gray levels
    with free gain and offset, so brightness and contrast do not matter.

    Args:
        moving, fixed: gray levels of shape (n, side, side).
        start: initial values of a, b, c, d, with shape (n, 4).

    Returns:
        Correlations from -1 to 1, with shape (n,). 0 if an image is flat or the alignment diverged.
    """
    moving, fixed = moving.astype(np.float32), fixed.astype(np.float32)
    alike = np.zeros(len(start), np.float32)
    near: np.ndarray = np.arange(len(start))
    place: np.ndarray = start.astype(np.float32)
    best_place = place
    best: np.ndarray = np.full(len(start), -1, np.float32)
    for step in range(STEPS):
        sample = _Sample(moving[near], place)
        levels = sample.correlation(sample.levels, fixed[near])
        is_better = levels > best
        best = np.where(is_better, levels, best)
        best_place = np.where(is_better[:, None], place, best_place)
        place = place + sample.step_towards(fixed[near])
        if step == FIRST_STEPS:
            kept = best >= FAR_APART
            near, place, best, best_place = (v[kept] for v in (near, place, best, best_place))
    sample = _Sample(moving[near], best_place)
    alike[near] = sample.correlation(_details(sample.levels), _details(fixed[near]))
    return alike


def _details(images: np.ndarray) -> np.ndarray:
    return images - scipy.ndimage.uniform_filter(images, (0, DETAIL, DETAIL), mode="nearest")


class _Sample:
    """Images sampled at the pixels of others.

    Attributes:
        levels: bilinear samples of shape (n, side, side).
    """

    def __init__(self, images: np.ndarray, place: np.ndarray):
        """
        Args:
            images: images of shape (n, side, side).
            place: parameters of shape (n, 4), see :func:`likeness`.
        """
        side = images.shape[1]
        half = (side - 1) / 2
        self._grid = np.linspace(-1, 1, side, dtype=np.float32)
        a, b, c, d = (place[:, i, None] for i in range(4))
        x, y = (a * self._grid + b + 1) * half, (c * self._grid + d + 1) * half  # in pixels
        inside_x, inside_y = ((v >= 0) & (v <= side - 1) for v in (x, y))
        self._inside = inside_y[:, :, None] & inside_x[:, None]
        column, u = _before(x, side)
        row, v = _before(y, side)
        n = np.arange(len(images))[:, None, None]
        (p00, p01), (p10, p11) = (
            [images[n, (row + i)[:, :, None], (column + j)[:, None]] for j in (0, 1)]
            for i in (0, 1)
        )
        u, v = u[:, None], v[:, :, None]
        upper, lower = p00 + (p01 - p00) * u, p10 + (p11 - p10) * u
        self.levels = upper + (lower - upper) * v
        self._slope_x = ((p01 - p00) * (1 - v) + (p11 - p10) * v) * half
        self._slope_y = (lower - upper) * half

    def correlation(self, seen: np.ndarray, fixed: np.ndarray) -> np.ndarray:
        """Compute the correlations, of shape (n,), over the pixels that are in both images."""
        axes = (1, 2)
        weight = self._inside / np.maximum(self._inside.sum(axes, keepdims=True), 1)
        seen, fixed = (p - (p * weight).sum(axes, keepdims=True) for p in (seen, fixed))
        deviations = [np.sqrt((p * p * weight).sum(axes)) for p in (seen, fixed)]
        valid = (np.minimum(*deviations) >= FLAT) & (self._inside.mean(axes) >= MIN_OVERLAP)
        products = np.where(valid, deviations[0] * deviations[1], 1)
        return np.where(valid, (seen * fixed * weight).sum(axes) / products, 0)

    def step_towards(self, fixed: np.ndarray) -> np.ndarray:
        """Compute the update of the parameters, of shape (n, 4).

        It is the least-squares solution of fixed = gain * (levels + slopes * step) + offset.
        """
        count = len(fixed)
        x, y = self._grid[None, None], self._grid[None, :, None]
        slopes = [self._slope_x * x, self._slope_x, self._slope_y * y, self._slope_y]
        columns = np.stack([*slopes, self.levels, np.ones_like(self.levels)], 1)
        pixels = self._inside[0].size if count else 0
        inside = self._inside.reshape(count, 1, pixels)
        columns = columns.reshape(count, 6, pixels) * inside
        normal = columns @ columns.transpose(0, 2, 1)
        scale = np.trace(normal, axis1=1, axis2=2)[:, None, None]
        normal += np.eye(6, dtype=np.float32) * (1e-6 * scale + 1e-6)
        right = columns @ (fixed.reshape(count, 1, pixels) * inside).transpose(0, 2, 1)
        found = np.linalg.solve(normal, right)[:, :, 0]
        gain = found[:, 4:5]
        steps = found[:, :4] / np.where(np.abs(gain) > 0.1, gain, np.inf)
        return np.clip(steps, -LONGEST_STEP, LONGEST_STEP)


def _before(place: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Get the pixel before each coordinate, and the distance from it."""
    pixel = np.clip(np.floor(place), 0, side - 2).astype(np.int64)
    return pixel, np.clip(place - pixel, 0, 1).astype(np.float32)
