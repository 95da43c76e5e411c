#!/usr/bin/env python3
"""Detection rates of near-duplicate images by kind, and rates of false alarms.

near_copies.py --images FOLDER
near_copies.py --images FOLDER --compare 118287 5000

Copies of every image in the folder are made and compared with the image itself. All pairs of
different images are those that should not be found. Images that are copies of others from the
beginning should be left out with --leave-out; those that are mistaken for copies are listed.

First, the hashes of ImageHash are tested on their own, for the image and for its mirror image: the
threshold is the largest one with at most --false-alarms in a million pairs of the first half of the
images (every second one), and the table shows the detection rates in the second half. Then the
method of crnas_d2 is tested for some thresholds of likeness. --compare measures the time for this
many images on each side, generated from those of the folder by flipping a tenth of the bits of
their hashes.
"""

from __future__ import annotations

import argparse
import io
import os
import resource
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from random import Random

import imagehash
import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from tabulate import tabulate

from crnas_d2.data.fingerprints import Fingerprints, fingerprint, fingerprint_of
from crnas_d2.data.images import IMAGES
from crnas_d2.data.near_copies import LEAST_LIKENESS, candidates, find_near_copies

SIDE = 128  # to which images are reduced first
HASHES: dict[str, Callable[[Image.Image], imagehash.ImageHash]] = {
    f"{name}, {size * size} bits": lambda image, function=function, size=size: function(image, size)
    for size in (8, 16)
    for name, function in (
        ("phash", imagehash.phash),
        ("dhash", imagehash.dhash),
        ("whash", imagehash.whash),
    )
}
Rates = dict[str, list[str]]


def crop(image: Image.Image, share: float, random: Random) -> Image.Image:
    """Crop a share of each side at a random place."""
    width, height = (round(side * (1 - share)) for side in image.size)
    left, top = random.randint(0, image.width - width), random.randint(0, image.height - height)
    return image.crop((left, top, left + width, top + height))


def as_jpeg(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def several(image: Image.Image, random: Random) -> Image.Image:
    image = crop(ImageOps.mirror(image), 0.1, random)
    return as_jpeg(ImageEnhance.Brightness(image).enhance(1.2), 50)


COPIES: dict[str, Callable[[Image.Image, Random], Image.Image]] = {
    "flip": lambda image, random: ImageOps.mirror(image),
    "crop 5 %": lambda image, random: crop(image, 0.05, random),
    "crop 10 %": lambda image, random: crop(image, 0.1, random),
    "crop 20 %": lambda image, random: crop(image, 0.2, random),
    "brighter 1.4": lambda image, random: ImageEnhance.Brightness(image).enhance(1.4),
    "darker 0.6": lambda image, random: ImageEnhance.Brightness(image).enhance(0.6),
    "contrast 1.5": lambda image, random: ImageEnhance.Contrast(image).enhance(1.5),
    "JPEG 30": lambda image, random: as_jpeg(image, 30),
    "half size": lambda image, random: image.resize((image.width // 2, image.height // 2)),
    "square": lambda image, random: image.resize((320, 320)),
    "blur 1.5": lambda image, random: image.filter(ImageFilter.GaussianBlur(1.5)),
    "turned 5°": lambda image, random: image.rotate(5, Image.Resampling.BILINEAR),
    "flip, crop 10 %, brighter, JPEG 50": several,
}


def describe(path: Path) -> dict[str, tuple[bytes, list[np.ndarray]]]:
    """Get fingerprint and all hashes of an image's mirror image (kind "") and of its copies."""
    image = Image.open(path).convert("RGB")
    versions = {kind: make(image, Random(kind + path.name)) for kind, make in COPIES.items()}
    versions |= {"itself": image, "": ImageOps.mirror(image)}
    described = {}
    for kind, version in versions.items():
        small = version.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        hashes = [function(small).hash.ravel() for function in HASHES.values()]
        described[kind] = fingerprint_of(small), hashes
    return described


def rate_of_hash(images: Sequence[dict], index: int, false_alarms: float) -> list[str]:
    """Get threshold and false alarms of a hash, and its detection rate for each kind of copy."""

    def bits(kind: str) -> np.ndarray:
        return np.array([image[kind][1][index] for image in images], np.float32) * 2 - 1

    def distances(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        return (one.shape[1] - one @ other.T) / 2

    itself, mirrored = bits("itself"), bits("")
    others = np.minimum(distances(itself, itself), distances(itself, mirrored))
    first, second = (upper(others[half::2, half::2]) for half in (0, 1))
    allowed = int(len(first) * false_alarms / 1e6)
    threshold = np.sort(first)[allowed] - 1
    row = [f"{threshold:.0f}", per_million(second <= threshold)]
    for kind in COPIES:
        copies = bits(kind)
        near = np.minimum((itself != copies).sum(1), (mirrored != copies).sum(1)) <= threshold
        row.append(percent(near[1::2]))
    return row


def upper(square: np.ndarray) -> np.ndarray:
    return square[np.triu_indices(len(square), 1)]


def per_million(are_found: np.ndarray) -> str:
    return f"{np.count_nonzero(are_found) / len(are_found) * 1e6:.1f}"


def percent(are_found: np.ndarray) -> str:
    return f"{np.mean(are_found) * 100:.1f}"


def rates_of_ours(
    names: Sequence[str], images: Sequence[dict], thresholds: Sequence[float]
) -> Rates:
    """Same as :func:`rate_of_hash`, by the threshold of likeness."""
    count = len(images)

    def likenesses(kind: str) -> np.ndarray:
        """Compute likenesses of shape (count, count), 0 for distant hashes."""
        sides = [Fingerprints.from_bytes([p[k][0] for p in images]) for k in ("itself", kind)]
        found = candidates(*sides)
        square = np.zeros((count, count))
        square[found.first, found.second] = found.likeness
        return square

    others = likenesses("itself")
    for first, second in zip(*np.nonzero(np.triu(others >= LEAST_LIKENESS, 1))):
        print(f"taken for copies: {names[first]} {names[second]}, {others[first, second]:.2f}")
    halves = [upper(others[half::2, half::2]) for half in (0, 1)]
    for half, likeness in zip(("first", "second"), halves):
        most = ", ".join(f"{value:.2f}" for value in np.sort(likeness)[::-1][:5])
        print(f"the most alike of the others, {half} half: {most}")
    copies = {kind: likenesses(kind).diagonal()[1::2] for kind in COPIES}
    return {
        f"likeness {threshold}": [
            *(per_million(half >= threshold) for half in halves),
            *(percent(likeness >= threshold) for likeness in copies.values()),
        ]
        for threshold in thresholds
    }


def measure_comparison(images: Sequence[dict], counts: Sequence[int]) -> None:
    known = Fingerprints.from_bytes([image["itself"][0] for image in images])
    random = np.random.default_rng(0)

    def made(count: int) -> Fingerprints:
        chosen = random.integers(len(images), size=count)
        hashes = known.hashes[chosen].copy()
        for bit in range(64):
            turned = random.random(hashes.shape) < 0.1
            hashes ^= turned.astype(np.uint64) << np.uint64(bit)
        return Fingerprints(hashes, known.small[chosen])

    sides = [made(count) for count in counts]
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    processor = time.process_time()
    found = find_near_copies(*sides)
    seconds, processor = time.perf_counter() - began, time.process_time() - processor
    more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e6
    print(
        f"{counts[0]:,} against {counts[1]:,}: {seconds:.1f} s ({processor:.1f} s of processors), "
        f"{more:.2f} GB more memory, {len(found):,} pairs found"
    )


def measure_reading(paths: Sequence[Path]) -> None:
    began, processor = time.perf_counter(), time.process_time()
    for path in paths:
        fingerprint(str(path))
    ms = 1000 * (time.perf_counter() - began) / len(paths)
    of_processor = 1000 * (time.process_time() - processor) / len(paths)
    print(f"fingerprint of a file: {ms:.1f} ms ({of_processor:.1f} ms of a processor)")
    began = time.process_time()
    for path in paths[:5]:
        imagehash.crop_resistant_hash(Image.open(path))
    print(f"crop_resistant_hash: {(time.process_time() - began) / 5 * 1000:.0f} ms of a processor")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", required=True, type=Path, metavar="FOLDER")
    parser.add_argument("--leave-out", nargs="+", default=(), metavar="NAME", help="of a file")
    parser.add_argument("--false-alarms", type=float, default=10, metavar="PER_MILLION")
    parser.add_argument("--compare", type=int, nargs=2, metavar=("FIRST", "SECOND"))
    args = parser.parse_args()
    paths = sorted(
        path
        for path in args.images.iterdir()
        if path.suffix.lower() in IMAGES and path.name not in args.leave_out
    )
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        images = list(pool.map(describe, paths, chunksize=8))
    print(f"{len(paths):,} images")
    table = [
        [name, *rate_of_hash(images, index, args.false_alarms)] for index, name in enumerate(HASHES)
    ]
    print(
        tabulate(
            table, ["hash", "bits", "false / million", *COPIES], "github", disable_numparse=True
        )
    )
    rates = rates_of_ours([path.name for path in paths], images, (0.4, 0.5, 0.6, 0.7, 0.8))
    table = [[name, *rate] for name, rate in rates.items()]
    heads = ["crnas_d2", "false / million, first half", "second half", *COPIES]
    print(tabulate(table, heads, "github", disable_numparse=True))
    measure_reading(paths[:100])
    if args.compare:
        measure_comparison(images, args.compare)


if __name__ == "__main__":
    main()
