"""What is known of picture files that were looked at: remembered by path, size and time."""

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

VERSION = 1  # of what the columns mean
COLUMNS = "width, height, mode, orientation, format, decoded"
SCHEMA = (
    "CREATE TABLE IF NOT EXISTS facts (path BLOB PRIMARY KEY, size INTEGER, mtime_ns INTEGER, "
    f"{COLUMNS})",
    "CREATE TABLE IF NOT EXISTS hashes (path BLOB, size INTEGER, mtime_ns INTEGER, method TEXT, "
    "hashes BLOB, PRIMARY KEY (path, method))",
)
BUSY_SECONDS = 60  # for which a writer and a reader wait for each other
PATHS_PER_QUERY = 500


class FileState(NamedTuple):
    """A file as it was when it was looked at.

    Attributes:
        path: real, see :func:`~crnas_d2.files.real_file`.
        size: in bytes.
        mtime_ns: when it was changed last.
    """

    path: str
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: str) -> FileState:
        """
        Raises:
            OSError, ValueError: there is no such file, or no file can have this name.
        """
        stat = os.stat(path)
        return cls(path, stat.st_size, stat.st_mtime_ns)


class PictureFacts(NamedTuple):
    """What a picture that Detectron2 reads right is.

    Attributes:
        width, height: in pixels, as they are stored.
        mode: Pillow's, such as "RGB".
        orientation: in EXIF data, 1 to 8; 1 where none is.
        format: Pillow's name of the file format, such as "JPEG".
        decoded: whether the whole file was read, or else the header alone.
    """

    width: int
    height: int
    mode: str
    orientation: int
    format: str
    decoded: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of what Detectron2 reads: turned, but a TIFF, which Pillow has turned
        before, so that it has its sides again."""
        turned = self.orientation >= 5 and self.format != "TIFF"
        return (self.height, self.width) if turned else (self.width, self.height)


class PictureStore:
    """Facts and hashes of pictures in an SQLite file, which a process that is killed leaves as it
    was after the last call. What cannot be read or written there is kept in memory alone.

    Several processes may read and write it; use an object from one thread, as a context manager.

    Args:
        folder: of the file; made where it is not there.
    """

    def __init__(self, folder: str):
        # Another version of Pillow may read them in another way.
        name = f"pictures_v{VERSION}_pillow{PIL.__version__}.sqlite"
        self.path = os.path.join(folder, name)
        try:
            os.makedirs(folder, exist_ok=True)
            self._db = _open(self.path)
        except (OSError, sqlite3.Error) as error:
            self._go_on_in_memory(error)

    def __enter__(self) -> PictureStore:
        return self

    def __exit__(self, *_: Any) -> None:
        self._db.close()

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Within it, no other process of this kind is: others wait, and find what it has added."""
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(file_lock(self.path))
            except Exception as error:  # of the operating system, or of the lock's library
                logger.debug(f"{self.path} is not locked: {error}")
            yield

    def facts(self, files: Sequence[FileState]) -> dict[str, PictureFacts]:
        """Those that are known, by path."""
        rows = self._find(f"SELECT path, size, mtime_ns, {COLUMNS} FROM facts WHERE", files)
        return {path: PictureFacts._make(row) for path, row in rows}

    def add_facts(self, facts: Mapping[FileState, PictureFacts]) -> None:
        rows = ((*_key(file), *known) for file, known in facts.items())
        self._insert("INSERT OR REPLACE INTO facts VALUES (?,?,?,?,?,?,?,?,?)", rows)

    def hashes(self, files: Sequence[FileState], method: str) -> dict[str, bytes]:
        """Those that are known, by path.

        Args:
            method: by which they were made, with its version.
        """
        query = "SELECT path, size, mtime_ns, hashes FROM hashes WHERE method = ? AND"
        return {path: hashes for path, (hashes,) in self._find(query, files, method)}

    def add_hashes(self, hashes: Mapping[FileState, bytes], method: str) -> None:
        rows = ((*_key(file), method, known) for file, known in hashes.items())
        self._insert("INSERT OR REPLACE INTO hashes VALUES (?,?,?,?,?)", rows)

    def _find(self, query: str, files: Sequence[FileState], *values: Any) -> list[tuple[str, list]]:
        """Rows of files that are still as they were, without path, size and time."""
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
        if type(error) is sqlite3.DatabaseError:  # it is damaged: the next one makes it anew
            with contextlib.suppress(OSError):
                os.remove(self.path)
        self._db = _open(":memory:")


def _open(path: str) -> sqlite3.Connection:
    """
    Raises:
        sqlite3.Error: it can be neither read nor written.
    """
    db = sqlite3.connect(path, timeout=BUSY_SECONDS)
    try:
        # The order of writes is kept, so that a cut of the power damages nothing.
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
