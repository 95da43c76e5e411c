"""The trainings of a short list as a table that others can ask: SQLite."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Mapping
from dataclasses import astuple, dataclass

from ..architecture import Code, format_code, parse_code
from ..files import to_json

COLUMNS = "code, rung, seed, iterations, images, status, metrics, reason, seconds"


@dataclass(frozen=True)
class TrainingRow:
    """A training that has ended.

    Attributes:
        code: of its candidate.
        rung: from 1.
        seed: of its config.
        iterations, images: that it had, the images forward and backward.
        status: "done", or "failed".
        metrics: in percent, by names such as "bbox/AP"; None for one that is not finite. None of one
            that diverged.
        reason: why it failed.
        seconds: that its last run took.
    """

    code: Code
    rung: int
    seed: int
    iterations: int
    images: int
    status: str
    metrics: Mapping[str, float | None]
    reason: str
    seconds: float


class TrainingLedger:
    """``ledger.sqlite`` of a short list: one table, ``trainings``.

    It is made of what each training has left in its own folder, from where a short list goes on, and
    made anew when it does: nothing depends on what is in it.

    Args:
        path: a local file, in an existing folder; what is there is replaced.
    """

    def __init__(self, path: str):
        self._path = path
        with contextlib.suppress(FileNotFoundError):
            os.remove(path)
        with contextlib.closing(sqlite3.connect(path)) as db, db:
            db.execute(f"CREATE TABLE trainings ({COLUMNS}, PRIMARY KEY (code, rung, seed))")

    def record(self, row: TrainingRow) -> None:
        """Add a training, on the disk when this returns."""
        values = [format_code(row.code), *astuple(row)[1:]]
        values[6] = to_json(row.metrics)
        with contextlib.closing(sqlite3.connect(self._path)) as db, db:
            marks = ", ".join("?" * len(values))
            db.execute(f"INSERT INTO trainings VALUES ({marks})", values)

    @staticmethod
    def read(path: str) -> list[TrainingRow]:
        """All rows, in the order in which they were added.

        Raises:
            FileNotFoundError: there is no such file.
            sqlite3.DatabaseError: it is another one.
        """
        if not os.path.isfile(path):
            raise FileNotFoundError(f"{path}: there is no such ledger")
        with contextlib.closing(sqlite3.connect(path)) as db:
            rows = db.execute(f"SELECT {COLUMNS} FROM trainings ORDER BY rowid").fetchall()
        return [
            TrainingRow(parse_code(code), *numbers, json.loads(metrics), reason, seconds)
            for code, *numbers, metrics, reason, seconds in rows
        ]
