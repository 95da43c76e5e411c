"""The ledger of a search: its cache, resume point and result table in one SQLite file."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..architecture import Code, format_code
from ..config import list_differences
from ..config_effects import forget_trainings
from ..paths import is_remote
from .ledger_file import (
    COLUMNS,
    FROM_2,
    SCHEMA,
    SCHEMA_VERSION,
    Content,
    LedgerError,
    as_trial,
    connect,
    errors_of,
    json_sha256,
    read_content,
    row_digest,
)
from .trial import Trial

logger = logging.getLogger(__name__)


class Records(NamedTuple):
    """The content of a ledger.

    Attributes:
        settings: the settings that it was created with, by key.
        trials: all finished trials, by code in lexicographic order. Of an architecture with several
            trials, the one on the most images.
    """

    settings: dict[str, Any]
    trials: dict[Code, Trial]


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
            self._db = stack.enter_context(connect(self._path, "rwc"))
            with errors_of(self._path):
                # EXTRA is FULL plus a sync of the folder, so that a removed journal stays removed.
                self._db.execute("PRAGMA synchronous = EXTRA")
                content = read_content(self._db, self._path)
                if content is None:
                    self._change(SCHEMA, now)
                    content = Content(now, {}, {})
            _compare(self._path, content.settings, now)
            if content.version < SCHEMA_VERSION:
                with errors_of(self._path):
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
        with errors_of(self._path), self._db:
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
        with connect(path, "rw") as db, errors_of(path):
            content = read_content(db, path)
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
        with errors_of(self._path), self._db:
            self._db.execute("DELETE FROM trials WHERE code = ? AND images = ?", (row[0], row[3]))
            digest = row_digest(row, json_sha256(sorted(self._content.settings.items())))
            marks = ", ".join("?" * (len(row) + 1))
            self._db.execute(f"INSERT INTO trials ({COLUMNS}) VALUES ({marks})", (*row, digest))
        self._content.rows[key] = as_trial(row)

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
