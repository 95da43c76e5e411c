"""Fingerprints of images for finding near-duplicates: perceptual hashes, and a small gray version."""

from __future__ import annotations

from dataclasses import dataclass

import imagehash
import numpy as np
from PIL import Image, ImageOps

from detectron2.utils.file_io import PathManager

WORK_SIDE = 64  # of the square from which the hashes are computed
SIDE = 32  # of the square that is stored
# Share of a side that is cropped, and number of positions along a side
CROPS = ((0.0, 1), (0.1, 1), (0.1, 2), (0.2, 3))


def _boxes() -> tuple[tuple[float, float, float], ...]:
    """List crops as (left, top, side) in units of the image's sides, the whole image first."""
    boxes = []
    for share, places in CROPS:
        starts = np.linspace(0, share, places) if places > 1 else [share / 2]
        boxes += [(float(left), float(top), 1 - share) for top in starts for left in starts]
    return tuple(boxes)


BOXES = _boxes()
# Identifies the method: another one gives other fingerprints
METHOD = f"phash of {len(BOXES)} crops, {SIDE} x {SIDE} gray, 1; imagehash {imagehash.__version__}"


@dataclass(frozen=True)
class Fingerprints:
    """The fingerprints of n images. A crop and its mirrored version have a hash each.

    Attributes:
        hashes: uint64 of shape (n, 2, crops), those of the mirrored image second, with crops as in
            ``BOXES``.
        small: the image resized to a square, as uint8 of shape (n, 32, 32).
    """

    hashes: np.ndarray
    small: np.ndarray

    @classmethod
    def from_bytes(cls, images: list[bytes]) -> Fingerprints:
        """Decode the results of :func:`fingerprint` for each image."""
        count = 2 * len(BOXES) * 8
        rows = np.frombuffer(b"".join(images), np.uint8).reshape(-1, count + SIDE * SIDE)
        hashes = np.ascontiguousarray(rows[:, :count]).view(np.uint64)
        return cls(hashes.reshape(-1, 2, len(BOXES)), rows[:, count:].reshape(-1, SIDE, SIDE))


def fingerprint(path: str) -> bytes:
    """Compute the fingerprint of an image, turned by its EXIF orientation.

    Raises:
        OSError, ValueError, SyntaxError, Image.DecompressionBombError: it cannot be read.
    """
    with PathManager.open(path, "rb") as f, Image.open(f) as image:
        image.draft("L", (2 * WORK_SIDE, 2 * WORK_SIDE))  # decodes a JPEG at a fraction of its size
        turned = ImageOps.exif_transpose(image).convert("L")
    return fingerprint_of(turned)


def fingerprint_of(image: Image.Image) -> bytes:
    """Compute the fingerprint of a gray image."""
    work = image.resize((WORK_SIDE, WORK_SIDE), Image.Resampling.LANCZOS, reducing_gap=3)
    hashes = []
    for view in (work, ImageOps.mirror(work)):
        for left, top, side in BOXES:
            x0, y0, x1, y1 = (WORK_SIDE * v for v in (left, top, left + side, top + side))
            crop = view.resize((SIDE, SIDE), Image.Resampling.LANCZOS, box=(x0, y0, x1, y1))
            hashes.append(np.packbits(imagehash.phash(crop).hash))
    small = work.resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.concatenate([*hashes, np.asarray(small).ravel()]).tobytes()
