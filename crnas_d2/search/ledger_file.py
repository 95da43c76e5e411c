"""The SQLite file of a ledger: its tables, and how damage to it is noticed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..architecture import Code, parse_code
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
SQLITE_ERROR = 1  # sqlite3 has the name from Python 3.11 on


class LedgerError(ValueError):
    """The file is not a ledger, is damaged, or belongs to a search with other settings."""


class Content(NamedTuple):
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


@contextlib.contextmanager
def connect(path: str, mode: str) -> Iterator[sqlite3.Connection]:
    uri = f"{Path(path).absolute().as_uri()}?mode={mode}"
    with errors_of(path):
        db = sqlite3.connect(uri, timeout=BUSY_SECONDS, isolation_level="IMMEDIATE", uri=True)
    with contextlib.closing(db):
        # damage is found by the digest
        db.text_factory = lambda text: text.decode(errors="replace")
        yield db


@contextlib.contextmanager
def errors_of(path: str) -> Iterator[None]:
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


def read_content(db: sqlite3.Connection, path: str) -> Content | None:
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
        content = Content(texts, {}, {}, version)
    except ValueError as error:
        raise _damaged(path, error) from None
    settings_digest = json_sha256(sorted(content.settings.items()))
    for number, *row, digest in rows:
        if digest == row_digest(row, settings_digest):
            trial = as_trial(row)
            content.rows[trial.code, trial.images] = trial
        else:
            content.damaged[number] = str(row[0])
    return content


def as_trial(row: Sequence[Any]) -> Trial:
    code, status, metrics, images, reason, seconds, metric, content = row
    resampled = None if metric is None else Resampled(metric, content)
    scores = json.loads(metrics)
    return Trial(parse_code(code), status, scores, images, reason, seconds, resampled)


def row_digest(row: Sequence[Any], settings_digest: str) -> str:
    """Compute the digest of a row, without its stored digest, and of the settings.

    A row without resamples has the digest that version 2 gave it.
    """
    *values, metric, content = row
    if metric is not None or content is not None:
        values += [metric, content]
    return json_sha256([*values, settings_digest])


def json_sha256(values: Sequence[Any]) -> str:
    return hashlib.sha256(json.dumps(values, default=repr).encode()).hexdigest()
