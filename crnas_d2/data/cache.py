"""Results of checks, remembered on this machine from one start to the next."""

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

from ..files import is_remote, read_json, write_atomically

__all__ = ["file_state", "remembered", "state_of"]


def remembered(folder: str, kind: str, key: Any, make: Callable[[], Any]) -> Any:
    """A result that one process makes; all others on the machine wait for it, and read it.

    A newer version of the checks makes it anew. Where the folder cannot be written, each process
    makes its own.

    Args:
        folder: see :func:`..files.cache_folder`. It is made.
        kind: of result, the beginning of the name of its file, such as "coco_json".
        key: all that the result depends on but the code, as JSON, such as :func:`file_state`.
        make: gives the result, as JSON. What it raises is raised here, and not remembered.

    Returns:
        the result, as it is when read back from JSON. It may be changed.
    """
    text = json.dumps([key, _code_sha256()], sort_keys=True)
    known = _known(os.path.abspath(folder), kind, text)
    if not known:
        path = os.path.join(folder, f"{kind}_{hashlib.sha256(text.encode()).hexdigest()[:32]}.json")
        known.append(json.dumps(_read_or_make(path, text, make)))
    return json.loads(known[0])


def file_state(path: str) -> list[Any]:
    """By what a local file is known to be unchanged: its real path, size, and time.

    Raises:
        FileNotFoundError: there is no such file.
    """
    status = os.stat(path)
    return [os.path.realpath(path), status.st_size, status.st_mtime_ns]


def state_of(path: str) -> tuple[Any, ...] | None:
    """As :func:`file_state`; None of a URI, of which that cannot be told."""
    return None if is_remote(path) else tuple(file_state(path))


@functools.lru_cache(maxsize=256)
def _known(folder: str, kind: str, text: str) -> list[str]:
    """Holds the result of this key as soon as this process knows it."""
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
    """The one result that is there, or none."""
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
    """Of the code that checks data sets."""
    folder = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("*.py"), folder.parent / "files.py"]):
        digest.update(path.read_bytes())
    return digest.hexdigest()
