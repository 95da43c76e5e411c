"""The ledger of a search: its cache, resume point and result table in one SQLite file."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..architecture import Code, format_code, parse_code
from ..config import list_differences
from ..config_effects import forget_trainings
from ..files import is_remote
from .trial import Resampled, Trial

SCHEMA_VERSION = 3
APPLICATION_ID = 0x43524E53  # "CRNS" in the file header, which identifies a ledger
# There is no index: it would duplicate the codes, while the table is always read completely.
SCHEMA = (
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
    "CREATE TABLE settings (key TEXT, value TEXT)",
    "CREATE TABLE trials (code TEXT, status TEXT, metrics TEXT, images INTEGER, reason TEXT, "
    "seconds REAL, digest TEXT, resampled_metric TEXT, resampled BLOB)",
)
COLUMNS = "code, status, metrics, images, reason, seconds, resampled_metric, resampled, digest"
# Version 2 had no resamples
COLUMNS_2 = COLUMNS.replace("resampled_metric, resampled", "NULL, NULL")
FROM_2 = (
    "ALTER TABLE trials ADD COLUMN resampled_metric TEXT",
    "ALTER TABLE trials ADD COLUMN resampled BLOB",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)
BUSY_SECONDS = 60  # timeout for which a writer and a reader wait for each other

logger = logging.getLogger(__name__)
SQLITE_ERROR = 1  # sqlite3 has the name from Python 3.11 on


class LedgerError(ValueError):
    """The file is not a ledger, is damaged, or belongs to a search with other settings."""


class Records(NamedTuple):
    """The content of a ledger.

    Attributes:
        settings: the settings that it was created with, by key.
        trials: all finished trials, by code in lexicographic order. Of an architecture with several
            trials, the one on the most images.
    """

    settings: dict[str, Any]
    trials: dict[Code, Trial]


class _Content(NamedTuple):
    """The raw content of a ledger's file.

    Attributes:
        settings: settings as JSON, by key.
        rows: trials by code and number of images.
        damaged: text in the code column of each damaged row, by row number.
        version: version of the schema.
    """

    settings: dict[str, str]
    rows: dict[tuple[Code, int], Trial]
    damaged: dict[int, str]
    version: int = SCHEMA_VERSION

    def in_order(self) -> list[Trial]:
        """Get all trials sorted by code, then by number of images."""
        return [self.rows[key] for key in sorted(self.rows)]

    def by_code(self) -> dict[Code, Trial]:
        """Get the trial on the most images of each architecture, in lexicographic order of codes."""
        return {trial.code: trial for trial in self.in_order()}

    def describe_damage(self) -> str:
        shown = ", ".join([*self.damaged.values()][:5])
        return (
            f"{len(self.damaged)} of {len(self.damaged) + len(self.rows)} rows were changed after "
            f"they were written ({shown}{', ...' if len(self.damaged) > 5 else ''})"
        )


class Ledger:
    """The trials of one search, in an SQLite file that a single process writes.

    Each trial is one transaction, which is on disk when the call returns: SIGKILL or a power
    failure at any moment loses what is in flight and nothing else. It uses the rollback journal
    (SQLite's default) rather than the write-ahead log, which needs memory shared by all processes,
    which network file systems do not provide, and keeps the newest rows in a second file.

    SQLite does not notice a changed byte inside a value. So each row carries a SHA-256 of itself
    and of the settings. A row that does not match its digest is deleted with a warning when the
    ledger is opened, and its architecture is evaluated again.

    A ledger is a context manager. It has to be used from one thread, within
    :func:`~crnas_d2.lock.folder_lock` of its folder, so that no other process writes to it.

    Args:
        path: a local file in an existing folder. It is created if it is absent or empty.
        settings: everything that the trials depend on, by key. Values have to be valid JSON.

    Raises:
        LedgerError: the ledger was created with other settings, which the message lists, or the
            file is damaged as a whole or not a ledger. The file is left unchanged.
        ValueError: the path is a URI, or a setting is not valid JSON.
        OSError: the folder does not exist, or the file cannot be read or written.
    """

    def __init__(self, path: str | os.PathLike[str], settings: Mapping[str, Any]):
        self._path = _local(path)
        now = _as_json(settings)
        folder = os.path.dirname(os.path.realpath(self._path))
        if not os.path.isdir(folder):
            raise FileNotFoundError(f"{self._path}: there is no folder {folder}")
        with contextlib.ExitStack() as stack:
            self._db = stack.enter_context(_connect(self._path, "rwc"))
            with _errors_of(self._path):
                # EXTRA is FULL plus a sync of the folder, so that a removed journal stays removed.
                self._db.execute("PRAGMA synchronous = EXTRA")
                content = _read(self._db, self._path)
                if content is None:
                    self._change(SCHEMA, now)
                    content = _Content(now, {}, {})
            _compare(self._path, content.settings, now)
            if content.version < SCHEMA_VERSION:
                with _errors_of(self._path):
                    self._change(FROM_2, {})
            self._content = content
            self._take_out_damaged()
            self._resources = stack.pop_all()

    def _change(self, schema: Sequence[str], settings: Mapping[str, str]) -> None:
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            for statement in schema:
                self._db.execute(statement)
            self._db.executemany("INSERT INTO settings VALUES (?, ?)", settings.items())

    def _take_out_damaged(self) -> None:
        if not self._content.damaged:
            return
        logger.warning(
            f"{self._path}: {self._content.describe_damage()}; these architectures are evaluated "
            "again"
        )
        with _errors_of(self._path), self._db:
            numbers = [(number,) for number in self._content.damaged]
            self._db.executemany("DELETE FROM trials WHERE rowid = ?", numbers)

    @staticmethod
    def read(path: str | os.PathLike[str]) -> Records:
        """Read everything that is recorded, even while another process writes the ledger.

        Raises:
            FileNotFoundError: there is no such file.
            LedgerError: the file is empty, damaged or not a ledger.
            ValueError: the path is a URI.
            OSError: the file cannot be read.
        """
        path = _local(path)
        if not os.path.exists(path):
            raise FileNotFoundError(f"{path}: there is no such ledger")
        # With "ro", a transaction that a killed writer left behind could not be rolled back.
        with _connect(path, "rw") as db, _errors_of(path):
            content = _read(db, path)
        if content is None:
            raise LedgerError(f"{path} is empty: its search has not begun")
        if content.damaged:
            raise LedgerError(
                f"{path} is damaged: {content.describe_damage()}; start its search again, which "
                "evaluates these architectures anew"
            )
        settings = {key: json.loads(value) for key, value in content.settings.items()}
        return Records(settings, content.by_code())

    @property
    def trials(self) -> dict[Code, Trial]:
        """The finished trials, as in :class:`Records`."""
        return self._content.by_code()

    @property
    def recorded(self) -> list[Trial]:
        """All finished trials, including those on a part of archval."""
        return self._content.in_order()

    def record(self, trial: Trial) -> None:
        """Add the trial of an architecture.

        The architecture must not have a trial on the same number of images yet, unless the new one
        has additional metrics, in which case it replaces the old one.

        Args:
            trial: "failed" with a reason and no metrics, or "done" or "dropped" with finite metrics
                and no reason.

        Raises:
            ValueError: the trial is not as above.
            LedgerError: the architecture already has such a trial.
            OSError: the trial cannot be written, for example because the disk is full. All earlier
                records are kept.
        """
        _check(trial)
        key = trial.code, trial.images
        before = self._content.rows.get(key)
        if before and not trial.metrics.keys() - before.metrics.keys():
            raise LedgerError(f"{self._path}: {format_code(trial.code)} has a trial already")
        row = (
            format_code(trial.code),
            trial.status,
            json.dumps({name: float(value) for name, value in trial.metrics.items()}),
            int(trial.images),
            trial.reason,
            float(trial.seconds),
            *(trial.resampled or (None, None)),
        )
        with _errors_of(self._path), self._db:
            self._db.execute("DELETE FROM trials WHERE code = ? AND images = ?", (row[0], row[3]))
            digest = _digest(row, _sha256(sorted(self._content.settings.items())))
            marks = ", ".join("?" * (len(row) + 1))
            self._db.execute(f"INSERT INTO trials ({COLUMNS}) VALUES ({marks})", (*row, digest))
        self._content.rows[key] = _as_trial(row)

    def close(self) -> None:
        """Close the file, so that other processes can write it."""
        self._resources.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _local(path: str | os.PathLike[str]) -> str:
    path = os.fspath(path)
    if is_remote(path):
        raise ValueError(f"{path}: a ledger is a local file; expected a path without ://")
    return path


def _as_json(settings: Mapping[str, Any]) -> dict[str, str]:
    texts = {}
    for key, value in settings.items():
        try:
            texts[key] = json.dumps(value, sort_keys=True, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"setting {key} = {value!r} is not JSON: {error}") from None
    return texts


def _compare(path: str, there: dict[str, str], now: dict[str, str]) -> None:
    differences = list_differences(forget_trainings(there, now), now)
    if differences:
        raise LedgerError(
            "\n  ".join([f"{path} holds trials under other settings:", *differences])
            + "\nGo on with the settings there, or move the file away to start over."
        )


@contextlib.contextmanager
def _connect(path: str, mode: str) -> Iterator[sqlite3.Connection]:
    uri = f"{Path(path).absolute().as_uri()}?mode={mode}"
    with _errors_of(path):
        db = sqlite3.connect(uri, timeout=BUSY_SECONDS, isolation_level="IMMEDIATE", uri=True)
    with contextlib.closing(db):
        # damage is found by the digest
        db.text_factory = lambda text: text.decode(errors="replace")
        yield db


@contextlib.contextmanager
def _errors_of(path: str) -> Iterator[None]:
    """Turn errors of SQLite into a LedgerError or an OSError that names the file."""
    try:
        yield
    except UnicodeDecodeError as error:  # in a name of the schema, or in an error message of SQLite
        raise _damaged(path, error) from error
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", SQLITE_ERROR)
        if type(error) is sqlite3.OperationalError and code != SQLITE_ERROR:
            raise OSError(f"{path}: {error}; what was recorded before is kept") from error
        if type(error) in (sqlite3.OperationalError, sqlite3.DatabaseError):
            raise _damaged(path, error) from error
        raise


def _damaged(path: str, why: object) -> LedgerError:
    return LedgerError(f"{path} is damaged or no ledger ({why}); move it away to start over")


def _read(db: sqlite3.Connection, path: str) -> _Content | None:
    """Check the whole file and read a consistent snapshot of it. None if it is empty."""
    with db:
        db.execute("BEGIN")
        pages, page_size, application_id, version = (
            db.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "page_size", "application_id", "user_version")
        )
        size = os.path.getsize(path)
        if size == 0:
            return None
        if size != pages * page_size:
            raise _damaged(path, f"{size} bytes; expected {pages} pages of {page_size}")
        if application_id != APPLICATION_ID:
            raise _damaged(path, "an SQLite database of something else")
        if version not in (2, SCHEMA_VERSION):
            raise LedgerError(
                f"{path} is a ledger of version {version}; expected {SCHEMA_VERSION}; go on with "
                "the release that made it, or move it away to start over"
            )
        columns = COLUMNS_2 if version == 2 else COLUMNS
        check = db.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if check != "ok":
            raise _damaged(path, check.splitlines()[-1])
        settings = db.execute("SELECT key, value FROM settings").fetchall()
        rows = db.execute(f"SELECT rowid, {columns} FROM trials").fetchall()
    try:
        texts = {str(k): json.dumps(json.loads(str(v))) for k, v in settings}
        content = _Content(texts, {}, {}, version)
    except ValueError as error:
        raise _damaged(path, error) from None
    settings_digest = _sha256(sorted(content.settings.items()))
    for number, *row, digest in rows:
        if digest == _digest(row, settings_digest):
            trial = _as_trial(row)
            content.rows[trial.code, trial.images] = trial
        else:
            content.damaged[number] = str(row[0])
    return content


def _as_trial(row: Sequence[Any]) -> Trial:
    code, status, metrics, images, reason, seconds, metric, content = row
    resampled = None if metric is None else Resampled(metric, content)
    scores = json.loads(metrics)
    return Trial(parse_code(code), status, scores, images, reason, seconds, resampled)


def _digest(row: Sequence[Any], settings_digest: str) -> str:
    """Compute the digest of a row, without its stored digest, and of the settings.

    A row without resamples has the digest that version 2 gave it.
    """
    *values, metric, content = row
    if metric is not None or content is not None:
        values += [metric, content]
    return _sha256([*values, settings_digest])


def _sha256(values: Sequence[Any]) -> str:
    return hashlib.sha256(json.dumps(values, default=repr).encode()).hexdigest()


def _check(trial: Trial) -> None:
    code, seconds = trial.code, trial.seconds
    if not isinstance(code, tuple) or not all(type(n) is int and n >= 0 for n in code):
        raise ValueError(f"code is {code!r}; expected a tuple of integers from 0")
    what = f"trial of {format_code(trial.code)}"
    if trial.status not in ("done", "failed", "dropped"):
        raise ValueError(f"{what}: status is {trial.status!r}; expected done, failed or dropped")
    failed = trial.status == "failed"
    if failed == bool(trial.metrics) or failed != bool(trial.reason):
        expected = "a reason and no metrics" if failed else "metrics and no reason"
        raise ValueError(
            f"{what}: {trial.status}, with the metrics {dict(trial.metrics)} and the "
            f"reason is {trial.reason!r}; expected {expected}"
        )
    for name, value in trial.metrics.items():
        if not math.isfinite(value):
            raise ValueError(
                f"{what}: {name} is {value}; expected a finite number, or a failed trial"
            )
    if not (math.isfinite(seconds) and seconds >= 0):
        raise ValueError(f"{what}: {seconds} seconds; expected a finite number from 0")
