"""Pictures of a part of a search that are there once more, nearly, in another part."""

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

from ..files import cache_folder, is_remote, write_atomically
from .findings import Warned
from .fingerprints import Fingerprints
from .near_copies import find_near_copies
from .parts import is_registered, names_of_parts
from .picture_facts import FileState, PictureFacts
from .picture_fingerprints import count_unknown, fingerprints_of, states_of
from .picture_header import Fault, read_facts
from .shared_images import image_files, is_made_at_first_use

logger = logging.getLogger(__name__)

COPIES_FILE = "near_copies.csv"
MOST_NEW_PICTURES = 5000  # that a dry run reads; it takes some seconds for a thousand


class Copy(NamedTuple):
    """
    Attributes:
        picture: of the later part.
        original: of the earlier part.
        distance: bits of 64 in which the hashes differ.
        likeness: correlation of the details of the two, laid upon each other; 1 is the highest.
        mirrored: one is the mirrored other.
        same_bytes: the files are the same.
    """

    picture: str
    original: str
    distance: int
    likeness: float
    mirrored: bool
    same_bytes: bool


@dataclass(frozen=True)
class Comparison:
    """
    Attributes:
        part, other: the later and the earlier one: archtrain, archval, test.
        pictures: of the part, that were compared.
        with_copy: pictures of the part that have a near-copy in the other.
        copies: that were found.
        unread: pictures of both that could not be read.
    """

    part: str
    other: str
    pictures: int
    with_copy: int
    copies: tuple[Copy, ...] = ()
    unread: tuple[str, ...] = ()

    def __str__(self) -> str:
        of = f"{self.pictures:,} pictures of {self.part}"
        return f"{self.with_copy:,} of {of} have a near-copy in {self.other}"

    def as_json(self) -> dict[str, Any]:
        """All but the lists of pictures."""
        return {
            "part": self.part,
            "other": self.other,
            "pictures": self.pictures,
            "with_copy": self.with_copy,
        }


def copies_between_parts(cfg: CfgNode, final_cfg: CfgNode | None) -> tuple[Comparison, ...]:
    """Archval compared with archtrain, and the test set of the final detector with both. A warning
    names pictures that could not be read, although their headers can.

    Args:
        cfg: of a search; archtrain is its ``DATASETS.TRAIN``.
        final_cfg: of the final detector, or None.

    Returns:
        Nothing where ``DATASETS.NEAR_COPIES`` is False, or a data set is not there.

    Raises:
        ValueError: a file is not in COCO format, or archval cannot be drawn from it.
    """
    files = _files_of_parts(cfg, final_cfg)
    comparisons = tuple(
        _compare(part, other, files[part], files[other], _folder(cfg))
        for other, part in itertools.combinations(files, 2)
    )
    _warn_of_damage(dict.fromkeys(path for c in comparisons for path in c.unread))
    return comparisons


def _warn_of_damage(paths: Iterable[str]) -> None:
    """The look at headers has told of other pictures, and Detectron2 may read what was not read here."""
    damaged = Warned()
    for path in paths:
        fault = read_facts(path, decode=True)
        if isinstance(fault, Fault) and isinstance(read_facts(path), PictureFacts):
            damaged.add(f"{path} {fault.what}")
    if damaged.count:
        what = "picture with damage behind its header, at which a training or a test ends"
        log_first_n(logging.WARNING, f"{what} ({damaged.describe()})", name=__name__, key="message")


def foretell_copies(cfg: CfgNode, final_cfg: CfgNode | None) -> str:
    """What :func:`copies_between_parts` finds, or in how many pictures it will look, if that takes
    long; empty where it will not, or where a data set has to be made first."""
    names = names_of_parts(cfg, final_cfg)
    if any(map(is_made_at_first_use, itertools.chain(*names.values()))):
        return ""
    files = _files_of_parts(cfg, final_cfg)
    if sum(map(len, files.values())) > MOST_NEW_PICTURES:
        new = count_unknown([*itertools.chain(*files.values())], _folder(cfg))
        if new > MOST_NEW_PICTURES:
            return f"Near-copies will be looked for in {new:,} pictures"
    comparisons = copies_between_parts(cfg, final_cfg)
    return describe(comparisons) if comparisons else ""


def _folder(cfg: CfgNode) -> str:
    return os.path.abspath(cache_folder(cfg.DATASETS.CACHE_DIR))


def _files_of_parts(cfg: CfgNode, final_cfg: CfgNode | None) -> dict[str, tuple[FileState, ...]]:
    """Of each part that has pictures."""
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
        original, picture = originals[0][first], later[0][second]
        if original != picture:  # one file in both parts is refused or warned of elsewhere
            same = distance == 0 and filecmp.cmp(original, picture, shallow=False)
            copies.append(Copy(picture, original, distance, likeness, mirrored, same))
    with_copy = len({copy.picture for copy in copies})
    return Comparison(part, other, len(later[0]), with_copy, tuple(copies), unread)


def _read(files: Sequence[FileState], folder: str) -> tuple[list[str], Fingerprints]:
    """Paths of the pictures that can be read, and what they are known by."""
    known = fingerprints_of(files, folder)
    paths = [file.path for file in files if file.path in known]
    return paths, Fingerprints.from_bytes([known[path] for path in paths])


def describe(comparisons: Sequence[Comparison]) -> str:
    """One sentence, without its full stop."""
    found = [str(comparison) for comparison in comparisons if comparison.with_copy]
    if found:
        return f"{'; '.join(found)}: results there are better than on pictures that are new"
    parts = dict.fromkeys(name for c in comparisons for name in (c.other, c.part))
    return f"No near-copies of pictures were found between {', '.join(parts)}"


def tell_copies(comparisons: Sequence[Comparison], folder: str) -> None:
    """Log what was found, and write the pairs into ``near_copies.csv`` of a folder."""
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
    """All pairs as a table of comma-separated values, whole or not at all."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["part", "other_part", *Copy._fields])
    for comparison in comparisons:
        for copy in comparison.copies:
            likeness = round(copy.likeness, 4)
            table.writerow([comparison.part, comparison.other, *copy._replace(likeness=likeness)])
    write_atomically(path, text.getvalue().encode("utf-8", "surrogateescape"))
