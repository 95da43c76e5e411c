"""Files: read with errors that name them, written so that they are whole or absent."""

from __future__ import annotations

import codecs
import contextlib
import functools
import gc
import glob
import hashlib
import io
import json
import math
import os
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

from detectron2.utils.file_io import PathManager

__all__ = [
    "cache_folder",
    "check_not_read",
    "clean_temporaries",
    "datasets_root",
    "describe_error",
    "expand_path",
    "file_sha256",
    "is_remote",
    "is_signed",
    "no_garbage_collection",
    "open_atomically",
    "parse_json",
    "raise_faults",
    "read_file",
    "read_json",
    "real_file",
    "real_path",
    "to_json",
    "write_atomically",
    "write_json",
    "write_signed",
]

MARK = "it begins with the byte order mark of"
BEGINNINGS = {  # of files that are no JSON in UTF-8
    codecs.BOM_UTF8: f"{MARK} UTF-8; save it without",
    codecs.BOM_UTF16_LE: f"{MARK} UTF-16; save it in UTF-8",
    codecs.BOM_UTF16_BE: f"{MARK} UTF-16; save it in UTF-8",
    b"\x1f\x8b": "it is compressed with gzip; unpack it",
}

TEMPORARY = re.compile(r".+\.[0-9a-f]{32}\.tmp")

# First line, a comment, of a text that a run may replace, as nobody has changed it since it was written
SIGNATURE = "Written by crnas_d2. SHA-256 of the lines below: "


def datasets_root() -> str:
    """Detectron2's folder of data sets: ``$DETECTRON2_DATASETS``, or ``datasets``."""
    return os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets"))


def cache_folder(configured: str) -> str:
    """Where results of checks are remembered: ``DATASETS.CACHE_DIR``, or the folder for it below
    Detectron2's folder of data sets. It need not be there."""
    return configured or os.path.join(datasets_root(), "crnas_d2_cache")


def expand_path(path: str) -> str:
    """The path with ``~`` and variables of the environment replaced, as a shell does it."""
    return os.path.expanduser(os.path.expandvars(path))


def is_remote(path: str) -> bool:
    """Whether a path is a URI such as ``s3://...``, which only ``PathManager`` can open."""
    return "://" in path


def real_path(path: str) -> str:
    """What two names of one file have in common: the absolute path, symbolic links resolved."""
    return path if is_remote(path) else os.path.realpath(path)


def real_file(path: str) -> str:
    """As :func:`real_path`, fast for many files of one folder."""
    if is_remote(path):
        return path
    folder, name = os.path.split(path)
    path = os.path.join(_real_folder(folder), name)
    return os.path.realpath(path) if os.path.islink(path) else path


@functools.lru_cache(maxsize=1024)
def _real_folder(path: str) -> str:
    return os.path.realpath(path)


def file_sha256(path: str) -> str:
    """SHA-256 of a file, in hexadecimal. A process reads a local file once, as long as its size and
    time stay."""
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
    """The content of a local file or a URI."""
    with PathManager.open(path, "rb") as f:
        return f.read()


def read_json(path: str) -> Any:
    """
    Raises:
        OSError: there is no such file, or it cannot be read.
        ValueError: it is no JSON in UTF-8. The message names the file and the place.
    """
    return parse_json(read_file(path), path)


def parse_json(content: bytes, path: str) -> Any:
    """As :func:`read_json`, of a file that was read already."""
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
    """Within it, Python does not look through millions of new objects again and again, which would
    take as long as to make them."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def write_atomically(path: str, content: bytes) -> None:
    """Write a local file so that others, at any moment, see all of it or what was there before.

    A file that has the very content is left alone, so that it need not be writable.
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
    """As :func:`write_atomically`, of :func:`to_json` with one key or entry a line."""
    write_atomically(path, (to_json(content, indent=1) + "\n").encode())


def to_json(content: Any, **options: Any) -> str:
    """Valid JSON: numbers that are not finite, which JSON does not have, become null.

    Args:
        options: of :func:`json.dumps`.
    """
    return json.dumps(_finite(content), allow_nan=False, **options)


def _finite(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def write_signed(path: str, text: str) -> None:
    """Write a text in Markdown, ".md", or in a format that has "#" for comments, so that
    :func:`is_signed` knows it again."""
    content = text.encode()
    write_atomically(path, f"{_signature(path, content)}\n".encode() + content)


def check_not_read(output: str, inputs: Iterable[str]) -> None:
    """Check before any work that what a command writes is not what it reads.

    Raises:
        ValueError: it is.
    """
    for path in inputs:
        if path and real_path(path) == real_path(output):
            raise ValueError(f"output {output} is read too, as {path}; expected another file")


def is_signed(path: str) -> bool:
    """Whether a local file is as :func:`write_signed` has written it."""
    with open(path, "rb") as f:
        signature, _, content = f.read().partition(b"\n")
    return signature.decode(errors="replace") == _signature(path, content)


def _signature(path: str, content: bytes) -> str:
    line = SIGNATURE + hashlib.sha256(content).hexdigest()
    return f"<!-- {line} -->" if path.endswith(".md") else f"# {line}"


@contextlib.contextmanager
def open_atomically(path: str) -> Iterator[BinaryIO]:
    """Open a local file for writing; it takes its name at the end, whole, or not at all.

    Raises:
        OSError: it cannot be written, as where the disk is full. It names the file, and is raised
            whatever a writer of tensors or pictures has made of it.
    """
    temporary = f"{path}.{uuid.uuid4().hex}.tmp"
    with contextlib.ExitStack() as stack:
        stack.callback(_remove, temporary)
        try:
            raw = _Disk(temporary, "xb")
        except OSError as error:
            raise OSError(error.errno, os.strerror(error.errno), path) from error
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
    """A file that remembers why it could not be written."""

    fault: OSError | None = None

    def write(self, data: Any) -> int | None:
        try:
            return super().write(data)
        except OSError as error:
            self.fault = self.fault or error
            raise


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.remove(path)


def clean_temporaries(folder: str) -> None:
    """Remove from a local folder what :func:`open_atomically` has begun in processes that were
    killed. Nothing may be written there at the time: see :func:`~crnas_d2.lock.folder_lock`, which
    does it."""
    if is_remote(folder) or not os.path.isdir(folder):
        return
    for name in filter(TEMPORARY.fullmatch, os.listdir(folder)):
        _remove(os.path.join(folder, name))


def tell_places(folder: str, pattern: str) -> str:
    """For an error: below which folders there are such files; empty where there are none."""
    found = sorted(glob.glob(os.path.join(glob.escape(folder), pattern)))
    return f"; there is one in {', '.join(map(os.path.dirname, found))}" if found else ""


def describe_error(error: Exception) -> str:
    """In one sentence, which names the file of an error that has one."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__


def raise_faults(path: str, faults: Sequence[str], shown: int = 5) -> None:
    """
    Args:
        path: the file or folder that has the faults.
        faults: one sentence each.
        shown: how many of them the message lists.

    Raises:
        ValueError: there is a fault. The message has the first ones and the number of all.
    """
    if not faults:
        return
    head = f"{path}: {len(faults)} fault{'s' if len(faults) > 1 else ''}"
    if len(faults) > shown:
        head += f", the first {shown}"
    raise ValueError("\n  ".join([f"{head}:", *faults[:shown]]))
