"""The log file of a job, and what is logged of its results and of packages that print."""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import create_small_table

COLORS = re.compile(r"\x1b\[[0-9;]*m")


def log_results(results: Mapping[str, Any], datasets: Sequence[str]) -> None:
    """Log a small table for each task, with the metrics over all classes.

    Args:
        results: results of :meth:`DefaultTrainer.test`, by task, or by dataset and task.
        datasets: the datasets that they belong to.
    """
    for name, values in results.items():
        if any(isinstance(value, Mapping) for value in values.values()):
            log_results(values, [name])
            continue
        metrics = {
            metric: "-" if math.isnan(value) else value  # there is no object that it counts
            for metric, value in values.items()
            if "-" not in metric
        }
        if metrics:
            logging.getLogger(__name__).info(
                f"{name} of {', '.join(datasets)}:\n{create_small_table(metrics)}"
            )


class LogFile(logging.StreamHandler):
    """The ``log.txt`` of a folder, with Detectron2's name and format, but without colors."""

    def __init__(self, folder: str):
        rank = comm.get_rank()
        PathManager.mkdirs(folder)
        path = os.path.join(folder, f"log.txt.rank{rank}" if rank else "log.txt")
        super().__init__(PathManager.open(path, "a"))
        self.setFormatter(
            logging.Formatter(
                "[%(asctime)s] %(name)s %(levelname)s: %(message)s", datefmt="%m/%d %H:%M:%S"
            )
        )

    def format(self, record: logging.LogRecord) -> str:
        return COLORS.sub("", super().format(record))

    def close(self) -> None:
        self.stream.close()
        super().close()


class LoggedLines:
    """A file-like object that logs each line written to it, for packages that print.

    Args:
        name: name of the logger.
    """

    def __init__(self, name: str):
        self._log = logging.getLogger(name)
        self._begun = ""

    def write(self, text: str) -> int:
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            self._log.info(line)
        return len(text)

    def flush(self) -> None:
        """Do nothing, as only an unfinished line is buffered."""
