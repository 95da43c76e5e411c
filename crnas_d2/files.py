"""Read files with errors that name them, and write files atomically."""

from __future__ import annotations

import codecs
import contextlib
import functools
import gc
import hashlib
import io
import json
import math
import os
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

from detectron2.utils.file_io import PathManager

from .paths import is_remote

MARK = "it begins with the byte order mark of"
BEGINNINGS = {  # first bytes of files that are not JSON in UTF-8
    codecs.BOM_UTF8: f"{MARK} UTF-8; save it without",
    codecs.BOM_UTF16_LE: f"{MARK} UTF-16; save it in UTF-8",
    codecs.BOM_UTF16_BE: f"{MARK} UTF-16; save it in UTF-8",
    b"\x1f\x8b": "it is compressed with gzip; unpack it",
}

TEMPORARY = re.compile(r".+\.[0-9a-f]{32}\.tmp")

# First line, a comment, of a text that a run may replace as long as nobody has edited it
SIGNATURE = "Written by crnas_d2. SHA-256 of the lines below: "


def file_sha256(path: str) -> str:
    """Compute the SHA-256 of a file, in hexadecimal.

    The result of a local file is cached for as long as its size and modification time stay the
    same.
    """
    if is_remote(path):
        return _sha256(path)
    status = os.stat(path)
    return _known_sha256(os.path.realpath(path), status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _known_sha256(path: str, size: int, modified: int) -> str:
    return _sha256(path)


def _sha256(path: str) -> str:
    with PathManager.open(path, "rb") as f:
        digest = hashlib.sha256()
        while block := f.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_file(path: str) -> bytes:
    """Read the content of a local file or a URI."""
    with PathManager.open(path, "rb") as f:
        return f.read()


def read_json(path: str) -> Any:
    """Read a JSON file.

    Raises:
        OSError: the file does not exist or cannot be read.
        ValueError: the file is not JSON in UTF-8. The message names the file and the position.
    """
    return parse_json(read_file(path), path)


def parse_json(content: bytes, path: str) -> Any:
    """Same as :func:`read_json`, for a file whose content has already been read."""
    try:
        with no_garbage_collection():
            return json.loads(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        text, place = content[: error.start].decode("utf-8"), error.start
        fault = f"the byte {content[place]:#04x} is no UTF-8"
    except json.JSONDecodeError as error:
        text, fault = error.doc[: error.pos], error.msg
        if text.rstrip().endswith(",") and error.doc[error.pos : error.pos + 1] in ("]", "}"):
            fault = f"there is a comma before {error.doc[error.pos]!r}"
    except RecursionError:
        raise ValueError(f"{path} is not JSON: it is nested too deeply") from None
    for beginning, meaning in BEGINNINGS.items():
        if content.startswith(beginning):
            text, fault = "", meaning
            break
    if not content:
        fault = "it is empty"
    line, column = text.count("\n") + 1, len(text) - text.rfind("\n")
    raise ValueError(
        f"{path} ({len(content)} bytes) is not JSON in UTF-8: line {line}, column {column}: {fault}"
    )


@contextlib.contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Disable Python's garbage collector within a ``with`` block.

    While millions of new objects are created, the collector would scan them repeatedly, which takes
    as long as creating them.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def write_atomically(path: str, content: bytes) -> None:
    """Write a local file so that readers see either its old content or all of the new one.

    A file that already has this content is left alone, so it does not need to be writable.
    """
    if _has_content(path, content):
        return
    with open_atomically(path) as f:
        f.write(content)


def _has_content(path: str, content: bytes) -> bool:
    try:
        if os.path.getsize(path) != len(content):
            return False
        with open(path, "rb") as f:
            return f.read() == content
    except OSError:
        return False


def write_json(path: str, content: Any) -> None:
    """Write ``content`` atomically as JSON, with one key or entry on each line."""
    write_atomically(path, (to_json(content, indent=1) + "\n").encode())


def to_json(content: Any, **options: Any) -> str:
    """Encode ``content`` as valid JSON, in which numbers that are not finite become null.

    Args:
        options: further arguments of :func:`json.dumps`.
    """
    return json.dumps(_finite(content), allow_nan=False, **options)


def _finite(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def write_signed(path: str, text: str) -> None:
    """Write a text with a signature by which :func:`is_signed` can tell whether it was edited.

    Args:
        path: a file in Markdown (".md"), or in a format whose comments begin with "#".
        text: the content below the signature.
    """
    content = text.encode()
    write_atomically(path, f"{_signature(path, content)}\n".encode() + content)


def is_signed(path: str) -> bool:
    """Tell whether a local file is unchanged since :func:`write_signed` wrote it."""
    with open(path, "rb") as f:
        signature, _, content = f.read().partition(b"\n")
    return signature.decode(errors="replace") == _signature(path, content)


def _signature(path: str, content: bytes) -> str:
    line = SIGNATURE + hashlib.sha256(content).hexdigest()
    return f"<!-- {line} -->" if path.endswith(".md") else f"# {line}"


@contextlib.contextmanager
def open_atomically(path: str) -> Iterator[BinaryIO]:
    """Open a local file for writing. It appears under its name once it is complete, or never.

    Raises:
        OSError: the file cannot be written, for example because the disk is full. The error names
            the file, even if the code that writes tensors or images raised another one instead.
    """
    temporary = f"{path}.{uuid.uuid4().hex}.tmp"
    with contextlib.ExitStack() as stack:
        stack.callback(_remove, temporary)
        try:
            raw = _Disk(temporary, "xb")
        except OSError as error:
            raise OSError(error.errno, error.strerror, path) from error
        try:
            with io.BufferedWriter(raw) as f:
                yield f
                f.flush()
                os.fsync(f.fileno())
            os.replace(temporary, path)
        except Exception as error:
            cause = raw.fault or error
            if isinstance(cause, OSError) and cause.filename is None and cause.errno:
                raise OSError(cause.errno, os.strerror(cause.errno), path) from error
            raise


class _Disk(io.FileIO):
    """A file that remembers the first error of its writes."""

    fault: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.fault = self.fault or error
            raise


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.remove(path)


def clean_temporaries(folder: str) -> None:
    """Remove the temporary files of killed processes from a local folder.

    No process may be writing there with :func:`open_atomically`. :func:`~crnas_d2.lock.folder_lock`
    calls this function once it holds the lock.
    """
    if is_remote(folder) or not os.path.isdir(folder):
        return
    for name in filter(TEMPORARY.fullmatch, os.listdir(folder)):
        _remove(os.path.join(folder, name))


def describe_error(error: Exception) -> str:
    """Describe an error in one sentence, which names the file if the error has one."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__


def raise_faults(path: str, faults: Sequence[str], shown: int = 5) -> None:
    """Raise one error for all faults of a file or folder. Do nothing if there are none.

    Args:
        path: the file or folder that has the faults.
        faults: one sentence for each fault.
        shown: maximum number of faults that the message lists.

    Raises:
        ValueError: there is a fault. The message has the first ones and the total number.
    """
    if not faults:
        return
    head = f"{path}: {len(faults)} fault{'s' if len(faults) > 1 else ''}"
    if len(faults) > shown:
        head += f", the first {shown}"
    raise ValueError("\n  ".join([f"{head}:", *faults[:shown]]))
