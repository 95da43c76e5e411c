"""Near-duplicate images across the parts of a search."""

from __future__ import annotations

import csv
import filecmp
import functools
import io
import itertools
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from detectron2.config import CfgNode
from detectron2.utils.logger import log_first_n

from ..files import write_atomically
from ..paths import cache_folder, is_remote
from .findings import Warned
from .fingerprints import Fingerprints
from .image_facts import FileState, ImageFacts
from .image_fingerprints import count_unknown, fingerprints_of, states_of
from .image_header import Fault, read_facts
from .near_copies import find_near_copies
from .parts import is_registered, names_of_parts
from .shared_images import image_files, is_made_at_first_use

logger = logging.getLogger(__name__)

COPIES_FILE = "near_copies.csv"
MOST_NEW_IMAGES = 5000  # maximum that a dry run reads; a thousand take some seconds


class Copy(NamedTuple):
    """A near-duplicate.

    Attributes:
        image: image in the later part.
        original: image in the earlier part.
        distance: number of bits, out of 64, in which the hashes differ.
        likeness: correlation of the details of the two aligned images, at most 1.
        mirrored: whether one is mirrored relative to the other.
        same_bytes: whether the files are equal.
    """

    image: str
    original: str
    distance: int
    likeness: float
    mirrored: bool
    same_bytes: bool


@dataclass(frozen=True)
class Comparison:
    """The comparison of two parts.

    Attributes:
        part, other: the later and the earlier part: archtrain, archval, test.
        images: number of images in the part that were compared.
        with_copy: number of images in the part with a near-duplicate in the other.
        copies: the near-duplicates.
        unread: images of both that could not be read.
    """

    part: str
    other: str
    images: int
    with_copy: int
    copies: tuple[Copy, ...] = ()
    unread: tuple[str, ...] = ()

    def __str__(self) -> str:
        of = f"{self.images:,} images of {self.part}"
        return f"{self.with_copy:,} of {of} have a near-copy in {self.other}"

    def as_json(self) -> dict[str, Any]:
        """Export everything but the lists of images."""
        return {
            "part": self.part,
            "other": self.other,
            "images": self.images,
            "with_copy": self.with_copy,
        }


def copies_between_parts(cfg: CfgNode, final_cfg: CfgNode | None) -> tuple[Comparison, ...]:
    """Compare archval with archtrain, and the test set of the final detectors with both.

    A warning names images that could not be read although their headers could.

    Args:
        cfg: config of a search, whose ``DATASETS.TRAIN`` is archtrain.
        final_cfg: config of the final detector, or None.

    Returns:
        The comparisons. Empty if ``DATASETS.NEAR_COPIES`` is False or a dataset does not exist.

    Raises:
        ValueError: a file is not in COCO format, or archval cannot be split from it.
    """
    files = _files_of_parts(cfg, final_cfg)
    comparisons = tuple(
        _compare(part, other, files[part], files[other], _folder(cfg))
        for other, part in itertools.combinations(files, 2)
    )
    _warn_of_damage(dict.fromkeys(path for c in comparisons for path in c.unread))
    return comparisons


def _warn_of_damage(paths: Iterable[str]) -> None:
    """Warn of images with damage behind their headers, as others are reported by the header check."""
    damaged = Warned()
    for path in paths:
        fault = read_facts(path, decode=True)
        if isinstance(fault, Fault) and isinstance(read_facts(path), ImageFacts):
            damaged.add(f"{path} {fault.what}")
    if damaged.count:
        what = "image with damage behind its header, at which a training or a test ends"
        log_first_n(logging.WARNING, f"{what} ({damaged.describe()})", name=__name__, key="message")


def foretell_copies(cfg: CfgNode, final_cfg: CfgNode | None) -> str:
    """Describe the result of :func:`copies_between_parts`, or its size if it would take long.

    The result is empty if nothing will be compared, or if a dataset has to be generated first.
    """
    names = names_of_parts(cfg, final_cfg)
    if any(map(is_made_at_first_use, itertools.chain(*names.values()))):
        return ""
    files = _files_of_parts(cfg, final_cfg)
    if sum(map(len, files.values())) > MOST_NEW_IMAGES:
        new = count_unknown([*itertools.chain(*files.values())], _folder(cfg))
        if new > MOST_NEW_IMAGES:
            return f"Near-copies will be looked for in {new:,} images"
    comparisons = copies_between_parts(cfg, final_cfg)
    return describe(comparisons) if comparisons else ""


def _folder(cfg: CfgNode) -> str:
    return os.path.abspath(cache_folder(cfg.DATASETS.CACHE_DIR))


def _files_of_parts(cfg: CfgNode, final_cfg: CfgNode | None) -> dict[str, tuple[FileState, ...]]:
    """Get the files of each part that has images."""
    names = names_of_parts(cfg, final_cfg)
    if not cfg.DATASETS.NEAR_COPIES or not all(
        map(is_registered, itertools.chain(*names.values()))
    ):
        return {}
    files = {}
    try:
        for part, of_part in names.items():
            paths = set().union(*(image_files(name, cfg.DATASETS) for name in of_part))
            files[part] = tuple(states_of(sorted(p for p in paths if not is_remote(p))))
    except OSError as error:
        logger.debug(f"Near-copies are not looked for: {error}")
        return {}
    return {part: of_part for part, of_part in files.items() if of_part}


@functools.lru_cache(maxsize=6)
def _compare(
    part: str,
    other: str,
    files: tuple[FileState, ...],
    other_files: tuple[FileState, ...],
    folder: str,
) -> Comparison:
    later, originals = (_read(side, folder) for side in (files, other_files))
    read = {*later[0], *originals[0]}
    unread = tuple(file.path for file in (*files, *other_files) if file.path not in read)
    found = find_near_copies(originals[1], later[1])
    copies = []
    for values in zip(*(v.tolist() for v in vars(found).values())):
        first, second, distance, likeness, mirrored = values
        original, image = originals[0][first], later[0][second]
        if original != image:  # the same file in both parts is reported elsewhere
            same = distance == 0 and filecmp.cmp(original, image, shallow=False)
            copies.append(Copy(image, original, distance, likeness, mirrored, same))
    with_copy = len({copy.image for copy in copies})
    return Comparison(part, other, len(later[0]), with_copy, tuple(copies), unread)


def _read(files: Sequence[FileState], folder: str) -> tuple[list[str], Fingerprints]:
    """Get the paths of the images that can be read, and their fingerprints."""
    known = fingerprints_of(files, folder)
    paths = [file.path for file in files if file.path in known]
    return paths, Fingerprints.from_bytes([known[path] for path in paths])


def describe(comparisons: Sequence[Comparison]) -> str:
    """Describe the comparisons in one sentence without a full stop."""
    found = [str(comparison) for comparison in comparisons if comparison.with_copy]
    if found:
        return f"{'; '.join(found)}: results there are better than on images that are new"
    parts = dict.fromkeys(name for c in comparisons for name in (c.other, c.part))
    return f"No near-copies of images were found between {', '.join(parts)}"


def tell_copies(comparisons: Sequence[Comparison], folder: str) -> None:
    """Log the findings, and write the pairs to ``near_copies.csv`` in a folder."""
    if not comparisons:
        return
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, COPIES_FILE)
    write(comparisons, path)
    if any(comparison.with_copy for comparison in comparisons):
        logger.warning(f"{describe(comparisons)}. The pairs are in {path}")
    else:
        logger.debug(describe(comparisons))


def write(comparisons: Sequence[Comparison], path: str) -> None:
    """Write all pairs atomically as a CSV file."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["part", "other_part", *Copy._fields])
    for comparison in comparisons:
        for copy in comparison.copies:
            likeness = round(copy.likeness, 4)
            table.writerow([comparison.part, comparison.other, *copy._replace(likeness=likeness)])
    write_atomically(path, text.getvalue().encode("utf-8", "surrogateescape"))
