"""A cache of the results of checks on this machine, which persists across runs."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from iopath.common.file_io import file_lock
from portalocker import LockException

from ..files import read_json, write_atomically
from ..paths import is_remote

__all__ = ["file_state", "remembered", "state_of"]


def remembered(folder: str, kind: str, key: Any, make: Callable[[], Any]) -> Any:
    """Get a cached result, or let one process compute it while all others on the machine wait.

    Another version of the checks computes it anew. If the folder is not writable, each process
    computes its own result.

    Args:
        folder: see :func:`..files.cache_folder`. It is created if needed.
        kind: kind of result and prefix of its file's name, such as "coco_json".
        key: everything that the result depends on apart from the code, as JSON, such as
            :func:`file_state`.
        make: computes the result as JSON. Its exceptions are propagated and not cached.

    Returns:
        The result as read back from JSON. It may be modified.
    """
    text = json.dumps([key, _code_sha256()], sort_keys=True)
    known = _known(os.path.abspath(folder), kind, text)
    if not known:
        path = os.path.join(folder, f"{kind}_{hashlib.sha256(text.encode()).hexdigest()[:32]}.json")
        known.append(json.dumps(_read_or_make(path, text, make)))
    return json.loads(known[0])


def file_state(path: str) -> list[Any]:
    """Get the real path, size and modification time of a local file, which identify its content.

    Raises:
        FileNotFoundError: there is no such file.
    """
    status = os.stat(path)
    return [os.path.realpath(path), status.st_size, status.st_mtime_ns]


def state_of(path: str) -> tuple[Any, ...] | None:
    """Same as :func:`file_state`. None for a URI, whose state is unknown."""
    return None if is_remote(path) else tuple(file_state(path))


@functools.lru_cache(maxsize=256)
def _known(folder: str, kind: str, text: str) -> list[str]:
    """Get the list that holds the result of a key once this process knows it."""
    return []


def _read_or_make(path: str, text: str, make: Callable[[], Any]) -> Any:
    found = _read(path, text)
    with contextlib.ExitStack() as stack:
        if not found:
            try:
                stack.enter_context(file_lock(path))
            except (OSError, LockException) as error:
                return _not_remembered(path, error, make())
            found = _read(path, text)
        if found:
            return found[0]
        result = make()
        try:
            write_atomically(path, json.dumps({"key": text, "result": result}).encode())
        except OSError as error:
            _not_remembered(path, error, result)
        return result


def _read(path: str, text: str) -> list[Any]:
    """Read the stored result as a list of one entry. Empty if there is none."""
    try:
        content = read_json(path)
        return [content["result"]] if content["key"] == text else []
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _not_remembered(path: str, error: Exception, result: Any) -> Any:
    logging.getLogger(__name__).debug(f"{path} cannot be written, so it is not remembered: {error}")
    return result


@functools.cache
def _code_sha256() -> str:
    """Compute the SHA-256 of the code that checks datasets."""
    folder = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("*.py"), folder.parent / "files.py"]):
        digest.update(path.read_bytes())
    return digest.hexdigest()
