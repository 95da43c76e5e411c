"""The fingerprints of image files, with a cache."""

from __future__ import annotations

import os
from collections.abc import Sequence

from .fingerprints import METHOD, fingerprint
from .image_facts import FileState, ImageStore
from .many_files import in_threads, work_through

FILES_AT_ONCE = 500  # number of files whose size and time a thread queries
IMAGES_AT_ONCE = 20
THREADS = 16


def states_of(paths: Sequence[str]) -> list[FileState]:
    """Get the states of the files that are accessible, in order.

    Args:
        paths: real paths.
    """
    states = (state for _, state in in_threads(_state, paths, THREADS, FILES_AT_ONCE))
    return [state for state in states if state]


def count_unknown(files: Sequence[FileState], folder: str) -> int:
    """Count the files that :func:`fingerprints_of` would have to read.

    Args:
        files: the files.
        folder: folder of the :class:`ImageStore`.
    """
    with ImageStore(folder) as store:
        return len(files) - len(store.hashes(files, METHOD))


def fingerprints_of(files: Sequence[FileState], folder: str) -> dict[str, bytes]:
    """Get fingerprints by path, without unreadable files. One process of the machine reads them.

    Args:
        files: the files.
        folder: folder of the :class:`ImageStore`.
    """
    with ImageStore(folder) as store:
        known = store.hashes(files, METHOD)
        if len(known) == len(files):
            return known
        with store.lock():
            known = store.hashes(files, METHOD)
            unknown = [file for file in files if file.path not in known]

            def keep(new: dict[FileState, bytes | None]) -> None:
                store.add_hashes({file: hashes for file, hashes in new.items() if hashes}, METHOD)

            made = work_through(
                "Looking for near-copies",
                lambda file: _fingerprint(file.path),
                unknown,
                keep,
                os.cpu_count() or 1,
                IMAGES_AT_ONCE,
            )
    known.update((file.path, hashes) for file, hashes in made.items() if hashes)
    return known


def _state(path: str) -> FileState | None:
    try:
        return FileState.of(path)
    except (OSError, ValueError):
        return None


def _fingerprint(path: str) -> bytes | None:
    try:
        return fingerprint(path)
    except Exception:  # plugins of Pillow may raise anything on a damaged file
        return None
