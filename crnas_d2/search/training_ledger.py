"""The trainings of a short list as an SQLite table for queries."""

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
    """A finished training.

    Attributes:
        code: code of its candidate.
        rung: number of its rung, from 1.
        seed: seed of its config.
        iterations, images: number of iterations, and of images in its forward and backward passes.
        status: "done" or "failed".
        metrics: metrics in percent by names such as "bbox/AP". None for a metric that is not
            finite. Empty for a training that diverged.
        reason: why it failed.
        seconds: duration of its last run. None if it is unknown.
    """

    code: Code
    rung: int
    seed: int
    iterations: int
    images: int
    status: str
    metrics: Mapping[str, float | None]
    reason: str
    seconds: float | None


class TrainingLedger:
    """The ``ledger.sqlite`` of a short list, with a single table ``trainings``.

    It is derived from the results in each training's own folder, from which a short list resumes,
    and is created anew when it does. Nothing depends on its content.

    Args:
        path: a local file in an existing folder. An existing file is replaced.
    """

    def __init__(self, path: str):
        self._path = path
        with contextlib.suppress(FileNotFoundError):
            os.remove(path)
        with contextlib.closing(sqlite3.connect(path)) as db, db:
            db.execute(f"CREATE TABLE trainings ({COLUMNS}, PRIMARY KEY (code, rung, seed))")

    def record(self, row: TrainingRow) -> None:
        """Add a training, which is on disk when this returns."""
        values = [format_code(row.code), *astuple(row)[1:]]
        values[6] = to_json(row.metrics)
        with contextlib.closing(sqlite3.connect(self._path)) as db, db:
            marks = ", ".join("?" * len(values))
            db.execute(f"INSERT INTO trainings VALUES ({marks})", values)

    @staticmethod
    def read(path: str) -> list[TrainingRow]:
        """Read all rows in the order in which they were added.

        Raises:
            FileNotFoundError: there is no such file.
            sqlite3.DatabaseError: the file is not such a ledger.
        """
        if not os.path.isfile(path):
            raise FileNotFoundError(f"{path}: there is no such ledger")
        with contextlib.closing(sqlite3.connect(path)) as db:
            rows = db.execute(f"SELECT {COLUMNS} FROM trainings ORDER BY rowid").fetchall()
        return [
            TrainingRow(
                parse_code(code),
                rung,
                seed,
                iterations,
                images,
                status,
                json.loads(metrics),
                reason,
                seconds,
            )
            for code, rung, seed, iterations, images, status, metrics, reason, seconds in rows
        ]
