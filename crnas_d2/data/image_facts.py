"""Facts about image files, stored by path, size and time."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import PIL
from iopath.common.file_io import file_lock

logger = logging.getLogger(__name__)

VERSION = 1  # of the meaning of the columns
COLUMNS = "width, height, mode, orientation, format, decoded"
SCHEMA = (
    "CREATE TABLE IF NOT EXISTS facts (path BLOB PRIMARY KEY, size INTEGER, mtime_ns INTEGER, "
    f"{COLUMNS})",
    "CREATE TABLE IF NOT EXISTS hashes (path BLOB, size INTEGER, mtime_ns INTEGER, method TEXT, "
    "hashes BLOB, PRIMARY KEY (path, method))",
)
BUSY_SECONDS = 60  # timeout for which a writer and a reader wait for each other
PATHS_PER_QUERY = 500


class FileState(NamedTuple):
    """A file in the state in which it was read.

    Attributes:
        path: real path, see :func:`~crnas_d2.files.real_file`.
        size: size in bytes.
        mtime_ns: time of the last modification.
    """

    path: str
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: str) -> FileState:
        """Get the current state of a file.

        Raises:
            OSError, ValueError: there is no such file, or the name is invalid.
        """
        stat = os.stat(path)
        return cls(path, stat.st_size, stat.st_mtime_ns)


class ImageFacts(NamedTuple):
    """The facts about an image that Detectron2 reads correctly.

    Attributes:
        width, height: size in pixels, as stored.
        mode: Pillow's mode, such as "RGB".
        orientation: EXIF orientation from 1 to 8. 1 if there is none.
        format: Pillow's name of the file format, such as "JPEG".
        decoded: whether the whole file was read. Otherwise only the header was.
    """

    width: int
    height: int
    mode: str
    orientation: int
    format: str
    decoded: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """The (width, height) that Detectron2 reads.

        Images are turned by their orientation. A TIFF is turned by Pillow before, so it has its
        stored sides again.
        """
        turned = self.orientation >= 5 and self.format != "TIFF"
        return (self.height, self.width) if turned else (self.width, self.height)


class ImageStore:
    """Facts and hashes of images in an SQLite file.

    If a process is killed, the file keeps the state after its last call. If the file cannot be read
    or written, everything is kept in memory only. Several processes may read and write the file. An
    instance has to be used from one thread, as a context manager.

    Args:
        folder: folder of the file, which is created if needed.
    """

    def __init__(self, folder: str):
        # Another version of Pillow may read images differently.
        name = f"images_v{VERSION}_pillow{PIL.__version__}.sqlite"
        self.path = os.path.join(folder, name)
        try:
            os.makedirs(folder, exist_ok=True)
            self._db = _open(self.path)
        except (OSError, sqlite3.Error) as error:
            self._go_on_in_memory(error)

    def __enter__(self) -> ImageStore:
        return self

    def __exit__(self, *_: Any) -> None:
        self._db.close()

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the lock of the store within a ``with`` block.

        Other processes wait, and find what was added.
        """
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(file_lock(self.path))
            except Exception as error:  # from the operating system or the lock's library
                logger.debug(f"{self.path} is not locked: {error}")
            yield

    def facts(self, files: Sequence[FileState]) -> dict[str, ImageFacts]:
        """Get the known facts by path."""
        rows = self._find(f"SELECT path, size, mtime_ns, {COLUMNS} FROM facts WHERE", files)
        return {path: ImageFacts._make(row) for path, row in rows}

    def add_facts(self, facts: Mapping[FileState, ImageFacts]) -> None:
        rows = ((*_key(file), *known) for file, known in facts.items())
        self._insert("INSERT OR REPLACE INTO facts VALUES (?,?,?,?,?,?,?,?,?)", rows)

    def hashes(self, files: Sequence[FileState], method: str) -> dict[str, bytes]:
        """Get the known hashes by path.

        Args:
            files: the files.
            method: name and version of the method that computes them.
        """
        query = "SELECT path, size, mtime_ns, hashes FROM hashes WHERE method = ? AND"
        return {path: hashes for path, (hashes,) in self._find(query, files, method)}

    def add_hashes(self, hashes: Mapping[FileState, bytes], method: str) -> None:
        rows = ((*_key(file), method, known) for file, known in hashes.items())
        self._insert("INSERT OR REPLACE INTO hashes VALUES (?,?,?,?,?)", rows)

    def _find(self, query: str, files: Sequence[FileState], *values: Any) -> list[tuple[str, list]]:
        """Find the rows of unchanged files, without path, size and time."""
        found = []
        for start in range(0, len(files), PATHS_PER_QUERY):
            wanted = {_key(file): file.path for file in files[start : start + PATHS_PER_QUERY]}
            paths = [path for path, *_ in wanted]
            marks = ",".join("?" * len(paths))
            try:
                rows = self._db.execute(f"{query} path IN ({marks})", (*values, *paths)).fetchall()
            except sqlite3.Error as error:
                self._go_on_in_memory(error)
                return []
            found += [(wanted[row[:3]], row[3:]) for row in rows if row[:3] in wanted]
        return found

    def _insert(self, statement: str, rows: Iterable[tuple]) -> None:
        rows = list(rows)
        try:
            with self._db:
                self._db.executemany(statement, rows)
        except sqlite3.Error as error:
            self._go_on_in_memory(error)
            with self._db:
                self._db.executemany(statement, rows)

    def _go_on_in_memory(self, error: Exception) -> None:
        logger.debug(f"{self.path} cannot be used, so nothing is remembered there: {error}")
        if type(error) is sqlite3.DatabaseError:  # it is damaged; the next process creates it anew
            with contextlib.suppress(OSError):
                os.remove(self.path)
        self._db = _open(":memory:")


def _open(path: str) -> sqlite3.Connection:
    """Open or create the database.

    Raises:
        sqlite3.Error: it can be neither read nor written.
    """
    db = sqlite3.connect(path, timeout=BUSY_SECONDS)
    try:
        # Preserves the order of writes, so that a power failure damages nothing
        db.execute("PRAGMA synchronous = NORMAL")
        with db:
            for statement in SCHEMA:
                db.execute(statement)
    except sqlite3.Error:
        db.close()
        raise
    return db


def _key(file: FileState) -> tuple[bytes, int, int]:
    return os.fsencode(file.path), file.size, file.mtime_ns
