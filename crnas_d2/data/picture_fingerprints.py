"""The fingerprints of picture files, remembered."""

from __future__ import annotations

import os
from collections.abc import Sequence

from .fingerprints import METHOD, fingerprint
from .many_files import in_threads, work_through
from .picture_facts import FileState, PictureStore

FILES_AT_ONCE = 500  # of which a thread asks for size and time
PICTURES_AT_ONCE = 20
THREADS = 16


def states_of(paths: Sequence[str]) -> list[FileState]:
    """Those of the files that are there and can be asked, in order.

    Args:
        paths: real.
    """
    states = (state for _, state in in_threads(_state, paths, THREADS, FILES_AT_ONCE))
    return [state for state in states if state]


def count_unknown(files: Sequence[FileState], folder: str) -> int:
    """How many of the files :func:`fingerprints_of` would have to read.

    Args:
        folder: of the :class:`PictureStore`.
    """
    with PictureStore(folder) as store:
        return len(files) - len(store.hashes(files, METHOD))


def fingerprints_of(files: Sequence[FileState], folder: str) -> dict[str, bytes]:
    """By path; without those that cannot be read. One process of the machine reads them.

    Args:
        folder: of the :class:`PictureStore`.
    """
    with PictureStore(folder) as store:
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
                PICTURES_AT_ONCE,
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
    except Exception:  # Pillow's plugins raise whatever goes wrong in a damaged file
        return None
