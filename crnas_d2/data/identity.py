"""What identifies a dataset: the SHA-256 of its annotations, and size and time of its images."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, MutableMapping, Sequence

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from ..files import file_sha256
from ..paths import cache_folder, is_remote, real_file
from .cache import remembered, state_of
from .catalog import register_own
from .image_facts import FileState, ImageStore
from .listing import Listing, listing_of
from .many_files import in_threads, work_through
from .shared_images import is_made_at_first_use, source_of_drawn

THREADS = 16
FILES_AT_ONCE = 500
CONTENT = "sha256"  # name of the method in the store of images


Seen = MutableMapping[tuple[Listing, bool], tuple[str, str]]


def identify_data(cfg: CfgNode, names: Iterable[str], seen: Seen) -> dict[str, str]:
    """Get everything about some datasets that training and scores depend on.

    Nothing is written except cached results. Split parts are identified by the split and by their
    source. Datasets that are generated on first use are always the same and are identified by
    name.

    Args:
        cfg: config, whose custom datasets are registered here.
        names: names in TRAIN or TEST.
        seen: results of this run, which are reused.

    Returns:
        Identifying strings by their subject, such as "images of cells_train".

    Raises:
        ValueError: a custom dataset has a fault.
    """
    identity, folder = {}, os.path.abspath(cache_folder(cfg.DATASETS.CACHE_DIR))
    by_content = cfg.DATASETS.HASH_IMAGES
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
                    known = _annotations(name, folder), _images(listing, by_content, folder)
                    seen[listing, by_content] = known
                way = "content" if by_content else "size and time"
                keys = f"annotations of {name}", f"images of {name}, by {way}"
                identity.update(zip(keys, seen[listing, by_content]))
    except FileNotFoundError as error:
        identity["data"] = f"not there: {error}"
    return identity


def _annotations(name: str, folder: str) -> str:
    meta = MetadataCatalog.get(name)
    if meta.get("evaluator_type") in ("coco", "lvis") and meta.get("json_file"):
        return _sha256(os.fspath(meta.get("source") or meta.json_file), folder)
    # Independent of the folder, as images are identified by their own sizes and times
    records = [
        {**r, "file_name": os.path.basename(r["file_name"])} for r in DatasetCatalog.get(name)
    ]
    known = [meta.get("thing_classes"), meta.get("year"), records]
    return hashlib.sha256(json.dumps(known, default=str, sort_keys=True).encode()).hexdigest()


def _sha256(path: str, folder: str) -> str:
    state = state_of(path)
    return remembered(folder, "sha256", state, lambda: file_sha256(path)) if state else path


def _images(listing: Listing, by_content: bool, folder: str) -> str:
    """Identify all images, in the order of the dataset."""
    paths = [image.path for image in listing.read()]
    states = dict(in_threads(_state, paths, THREADS, FILES_AT_ONCE))
    files = [state for state in states.values() if isinstance(state, FileState)]
    contents = _contents(files, folder) if by_content else {}
    digest = hashlib.sha256()
    for path in paths:
        state = states[path]
        told: object = state
        if isinstance(state, FileState):
            # Seconds, as a copy may lose fractions
            times = (state.size, state.mtime_ns // 10**9)
            told = contents[state.path].hex() if by_content else times
        digest.update(f"{told}\n".encode())
    return digest.hexdigest()


def _state(path: str) -> FileState | str:
    """Get the state of a file, a URI itself, or an empty string for an unreadable image."""
    try:
        return path if is_remote(path) else FileState.of(real_file(path))
    except (OSError, ValueError):
        return ""


def _contents(files: Sequence[FileState], folder: str) -> dict[str, bytes]:
    """Compute the SHA-256 of files by path, which is cached for unchanged files."""
    with ImageStore(folder) as store:
        known = store.hashes(files, CONTENT)
        new = work_through(
            "Reading images",
            lambda file: bytes.fromhex(file_sha256(file.path)),
            [file for file in dict.fromkeys(files) if file.path not in known],
            lambda hashes: store.add_hashes(hashes, CONTENT),
            THREADS,
            20,
        )
    return known | {file.path: content for file, content in new.items()}
