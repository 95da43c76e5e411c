"""By what a data set is known again: its annotations by SHA-256, its pictures by size and time."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, MutableMapping, Sequence

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from ..files import cache_folder, file_sha256, is_remote, real_file
from .cache import remembered, state_of
from .catalog import register_own
from .listing import Listing, listing_of
from .many_files import in_threads, work_through
from .picture_facts import FileState, PictureStore
from .shared_images import is_made_at_first_use, source_of_drawn

THREADS = 16
FILES_AT_ONCE = 500
CONTENT = "sha256"  # method, of the store of pictures


Seen = MutableMapping[tuple[Listing, bool], tuple[str, str]]


def identify_data(cfg: CfgNode, names: Iterable[str], seen: Seen) -> dict[str, str]:
    """What training and scores depend on, of some data sets. Nothing is written but what is
    remembered.

    Parts that are drawn are known by the draw and by what they are drawn from; data sets that are
    made at first use, always the same, by their names.

    Args:
        cfg: whose own data sets are registered here.
        names: of TRAIN or TEST.
        seen: what was looked at in this run; it is not looked at again.

    Returns:
        Texts by the names of what they are of, such as "pictures of cells_train".

    Raises:
        ValueError: an own data set has a fault.
    """
    identity, folder = {}, os.path.abspath(cache_folder(cfg.DATASETS.CACHE_DIR))
    by_content = cfg.DATASETS.HASH_PICTURES
    try:
        register_own(cfg)
        for name in names:
            source = source_of_drawn(name)
            if source:
                archval = cfg.DATASETS.ARCHVAL
                draw = [archval.SIZE, archval.SEED, archval.GROUP_KEY]
                identity[f"draw of {name}"] = str(draw)
                name = source
            if not is_made_at_first_use(name):
                listing = listing_of(name, folder)
                if (listing, by_content) not in seen:
                    known = _annotations(name, folder), _pictures(listing, by_content, folder)
                    seen[listing, by_content] = known
                way = "content" if by_content else "size and time"
                keys = f"annotations of {name}", f"pictures of {name}, by {way}"
                identity.update(zip(keys, seen[listing, by_content]))
    except FileNotFoundError as error:
        identity["data"] = f"not there: {error}"
    return identity


def _annotations(name: str, folder: str) -> str:
    meta = MetadataCatalog.get(name)
    if meta.get("evaluator_type") in ("coco", "lvis") and meta.get("json_file"):
        return _sha256(os.fspath(meta.get("source") or meta.json_file), folder)
    # Wherever the folder lies; the pictures are told apart by their own sizes and times.
    records = [
        {**r, "file_name": os.path.basename(r["file_name"])} for r in DatasetCatalog.get(name)
    ]
    known = [meta.get("thing_classes"), meta.get("year"), records]
    return hashlib.sha256(json.dumps(known, default=str, sort_keys=True).encode()).hexdigest()


def _sha256(path: str, folder: str) -> str:
    state = state_of(path)
    return remembered(folder, "sha256", state, lambda: file_sha256(path)) if state else path


def _pictures(listing: Listing, by_content: bool, folder: str) -> str:
    """Of all of them, in the order of the data set."""
    paths = [picture.path for picture in listing.read()]
    states = dict(in_threads(_state, paths, THREADS, FILES_AT_ONCE))
    files = [state for state in states.values() if isinstance(state, FileState)]
    contents = _contents(files, folder) if by_content else {}
    digest = hashlib.sha256()
    for path in paths:
        state = states[path]
        told: object = state
        if isinstance(state, FileState):
            # Seconds, as a copy may keep no parts of them
            times = (state.size, state.mtime_ns // 10**9)
            told = contents[state.path].hex() if by_content else times
        digest.update(f"{told}\n".encode())
    return digest.hexdigest()


def _state(path: str) -> FileState | str:
    """A URI stands for itself, and a picture that cannot be read for nothing."""
    try:
        return path if is_remote(path) else FileState.of(real_file(path))
    except (OSError, ValueError):
        return ""


def _contents(files: Sequence[FileState], folder: str) -> dict[str, bytes]:
    """SHA-256 by path; those of files that are as they were are remembered."""
    with PictureStore(folder) as store:
        known = store.hashes(files, CONTENT)
        new = work_through(
            "Reading pictures",
            lambda file: bytes.fromhex(file_sha256(file.path)),
            [file for file in dict.fromkeys(files) if file.path not in known],
            lambda hashes: store.add_hashes(hashes, CONTENT),
            THREADS,
            20,
        )
    return known | {file.path: content for file, content in new.items()}
