"""Checks every image of the datasets before the first step."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Iterator, Sequence

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog

from ..paths import cache_folder, is_remote, real_file
from .findings import Findings
from .image_facts import FileState, ImageFacts, ImageStore
from .image_faults import ImageFaults, Seen
from .image_header import Fault, read_facts
from .listing import Listing, listing_of
from .many_files import in_threads, work_through
from .shared_images import is_made_at_first_use, source_of_drawn

logger = logging.getLogger(__name__)

WAYS = ("header", "decode", "none")
THREADS = 16  # they hide the latency of network files; on a local disk one is as fast
FILES_AT_ONCE = 500  # number of files whose size and time a thread queries
HEADERS_AT_ONCE = 20


def check_images(cfg: CfgNode, *, training: bool = True) -> None:
    """Check every image of TRAIN and TEST by ``DATASETS.CHECK_IMAGES``, and log the warnings.

    Args:
        cfg: config whose datasets are registered. Those that are generated on first use are
            generated.
        training: whether to check TRAIN too. Otherwise only TEST is checked.

    Raises:
        FileNotFoundError: a dataset does not exist.
        ValueError: Detectron2 cannot read an image, reads something other than what it shows, or an
            image has another size than its dataset states. The message has the first errors and
            the total number.
    """
    for findings in look_at_images(cfg, training=training):
        for sentence in findings.describe_warnings():
            logger.warning(sentence)
        findings.raise_errors()


def look_at_images(
    cfg: CfgNode, *, training: bool = True, makes: bool = True
) -> Iterator[Findings]:
    """Same as :func:`check_images`, but yield the findings instead of raising errors.

    Args:
        cfg, training: as there.
        makes: whether datasets that are generated on first use may be generated. If not, these,
            and datasets that are not registered or do not exist, are skipped.

    Yields:
        The findings in each dataset. Parts that are split from a dataset are checked with it.

    Raises:
        FileNotFoundError: a dataset does not exist.
        ValueError: the key has an invalid value.
    """
    way = cfg.DATASETS.CHECK_IMAGES
    if way not in WAYS:
        expected = ", ".join(map(repr, WAYS))
        raise ValueError(f"DATASETS.CHECK_IMAGES is {way!r}; expected one of {expected}")
    if way == "none":
        return
    names = (*(cfg.DATASETS.TRAIN if training else ()), *cfg.DATASETS.TEST)
    folder = os.path.abspath(cache_folder(cfg.DATASETS.CACHE_DIR))
    for name in dict.fromkeys(source_of_drawn(name) or name for name in names):
        if not makes and (name not in DatasetCatalog or is_made_at_first_use(name)):
            continue
        try:
            findings = _look(listing_of(name, folder), way == "decode", folder)
        except FileNotFoundError:
            if makes:
                raise
            continue
        if findings.errors:
            _look.cache_clear()  # they may be fixed before the next check
        yield findings


@functools.lru_cache(maxsize=64)
def _look(listing: Listing, decode: bool, folder: str) -> Findings:
    findings = Findings(listing.source)
    images = []
    for image in listing.read():
        if is_remote(image.path):
            findings.warn("image that is no local file, which is not looked at", image.path)
        else:
            images.append(image)
    with ImageStore(folder) as store:
        seen = _see([image.path for image in images], decode, store)
    faults = ImageFaults(findings)
    for image in images:
        faults.add(image, seen[image.path])
    return findings


def _see(paths: Sequence[str], decode: bool, store: ImageStore) -> dict[str, Seen]:
    """Get the facts about images from the store, or else from the files.

    One process of the machine reads the files.
    """
    states = dict(in_threads(_state, paths, THREADS, FILES_AT_ONCE))
    files = list(dict.fromkeys(s for s in states.values() if isinstance(s, FileState)))
    known = _known(files, decode, store)
    if len(known) < len(files):
        with store.lock():
            known = _known(files, decode, store)
            known |= _look_at([file for file in files if file.path not in known], decode, store)
    return {
        path: known[state.path] if isinstance(state, FileState) else state
        for path, state in states.items()
    }


def _known(files: Sequence[FileState], decode: bool, store: ImageStore) -> dict[str, Seen]:
    facts = store.facts(files)
    return {p: f for p, f in facts.items() if f.decoded or not decode}


def _look_at(files: Sequence[FileState], decode: bool, store: ImageStore) -> dict[str, Seen]:
    """Read the facts about files, and add them to the store every few seconds.

    Faults are not stored, as later versions of the readers may not have them.
    """

    def keep(new: dict[FileState, ImageFacts | Fault]) -> None:
        store.add_facts({f: facts for f, facts in new.items() if isinstance(facts, ImageFacts)})

    seen = work_through(
        "Decoding images" if decode else "Looking at images",
        lambda file: read_facts(file.path, decode),
        files,
        keep,
        (os.cpu_count() or 1) if decode else THREADS,
        HEADERS_AT_ONCE,
    )
    return {file.path: facts for file, facts in seen.items()}


def _state(path: str) -> FileState | Fault | None:
    """Get the state of a file. None if it does not exist."""
    try:
        return FileState.of(real_file(path))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        return Fault(f"cannot be read: {error}")
