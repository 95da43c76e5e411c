"""The terminal output of a running job, and its log file."""

from __future__ import annotations

import contextlib
import datetime
import errno
import logging
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TextIO

from tqdm import tqdm

from detectron2.utils import comm

from .forecast import Forecast, Work
from .log_file import COLORS, LogFile

OWN = "crnas_d2"
LOGGERS = (OWN, "detectron2", "fvcore", "pycocotools", "py.warnings")
SECONDS_BETWEEN_LINES = 30.0  # if the output is not a terminal


def open_terminal(verbose: bool = False) -> None:
    """Show the output of the main process on stdout, and none of all other processes.

    Args:
        verbose: show everything that the log file has.
    """
    handler = Terminal(sys.stdout, verbose) if comm.is_main_process() else logging.NullHandler()
    logging.captureWarnings(True)
    for name in LOGGERS:
        log = logging.getLogger(name)
        _remove(log, SHOWING)
        log.addHandler(handler)
        log.setLevel(logging.DEBUG)
        log.propagate = False


def open_log(folder: str) -> None:
    """Write everything that is logged from now on into ``log.txt`` of a folder, and no other file.

    Each process has its own file: "log.txt.rank1" and so on. The terminal is opened if it is not
    yet.
    """
    if not _has_handler(SHOWING):
        open_terminal()
    for name in LOGGERS:
        _remove(logging.getLogger(name), LogFile)
    try:
        log_file = LogFile(folder)
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES):
            raise
        logging.getLogger(__name__).warning(f"{folder} cannot be written: there is no log file")
        return
    for name in LOGGERS:
        logging.getLogger(name).addHandler(log_file)


@contextlib.contextmanager
def step(
    name: str, number: int = 1, count: int = 1, pixels: float = 1.0, later: Sequence[Work] = ()
) -> Iterator[None]:
    """Show the progress of a step on the terminal within a ``with`` block; see :func:`report`.

    Args:
        name: name of the step.
        number: number of the step, from 1.
        count: number of steps in the job.
        pixels: approximate number of pixels of one of its images.
        later: work of the steps after it.
    """
    terminals = _terminals()
    for terminal in terminals:
        terminal.begin(name, number, count, pixels, later)
    try:
        yield
    finally:
        for terminal in terminals:
            terminal.end()


def begin_part(title: str, later: Work) -> None:
    """Report that a part of the step begins.

    Args:
        title: title of the part.
        later: work of the step after this part.
    """
    for terminal in _terminals():
        terminal.begin_part(title, later)


def report(
    unit: str, done: int, total: int, images: float, backward: bool = False, detail: str = ""
) -> None:
    """Report the progress of the step.

    Args:
        unit: what is counted, such as "iteration".
        done: how many of them are finished.
        total: how many there are.
        images: number of images that pass through the network in one of them.
        backward: whether they have a backward pass.
        detail: additional text, such as the loss.
    """
    for terminal in _terminals():
        terminal.show(f"{unit} {done:,} of {total:,}", (total - done) * images, backward, detail)


def report_images(count: int, backward: bool = False) -> None:
    """Report that images have passed through the network.

    Args:
        count: number of images on all ranks together.
        backward: whether they had a backward pass.
    """
    for terminal in _terminals():
        terminal.passed(count, backward)


class Terminal(logging.Handler):
    """A log handler for standard output, with the progress of the work.

    It shows each distinct line of this package, and all warnings and errors. Progress is one live
    line on a terminal, and an occasional line in a file or a pipe.
    """

    def __init__(self, stream: TextIO, verbose: bool = False):
        """
        Args:
            stream: stream to write to.
            verbose: show every line of all packages.
        """
        super().__init__()
        self._stream = stream
        self._verbose = verbose
        self._is_live = stream.isatty()
        self._shown: set[str] = set()
        self._shown_in_step: set[str] = set()
        self._forecast = Forecast()
        self._live_line: _LiveLine | None = None
        self._title = self._part = self._place = self._detail = ""
        self._later_parts = Work()
        self._has_others = False
        self._backward = False
        self._last_line = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        try:
            clock = time.strftime("%H:%M:%S", time.localtime(record.created))
            if self._verbose:
                self._write(f"[{clock}] {record.name}: {self.format(record)}")
            elif self._is_news(record):
                level = f"{record.levelname} " if record.levelno >= logging.WARNING else ""
                self._write(f"[{clock}] {level}{self._abridged(record)}")
        except Exception:  # like all handlers: a line that cannot be shown stops no job
            self.handleError(record)

    def _is_news(self, record: logging.LogRecord) -> bool:
        """Whether a record is for the terminal and was not shown before.

        Lines of an earlier step may be shown again.
        """
        message, warns = record.getMessage(), record.levelno >= logging.WARNING
        own = _is_own(record) and record.levelno >= logging.INFO
        if message in self._shown | self._shown_in_step or not (warns or own):
            return False
        (self._shown_in_step if self._title and not warns else self._shown).add(message)
        return True

    def _abridged(self, record: logging.LogRecord) -> str:
        """Get the message, abridged if it is a long one of another package that the log file has."""
        message = record.getMessage().strip()
        first, *more = message.splitlines() or [""]
        if _is_own(record) or len(more) < 2 or not _has_handler(LogFile):
            return message
        return f"{first} ({len(more)} more lines in log.txt)"

    def _write(self, line: str) -> None:
        tqdm.write(COLORS.sub("", line), file=self._stream)
        self._stream.flush()

    def begin(
        self, name: str, number: int, count: int, pixels: float, later: Sequence[Work]
    ) -> None:
        """Begin a step, see :func:`step`."""
        self._forecast.begin(pixels, later)
        self._title = f"step {number} of {count}, {name}" if count > 1 else name
        self._has_others = count > 1
        self._part = self._place = self._detail = ""
        self._later_parts = Work()
        self._last_line = time.monotonic()
        if self._is_live:
            self._live_line = _LiveLine(
                desc=self.line(),
                bar_format="{desc}",
                file=self._stream,
                ncols=_width(),
                nrows=20,  # tqdm shows nothing if the terminal reports 0
                miniters=1,
                leave=False,
            )

    def begin_part(self, title: str, later: Work) -> None:
        """Begin a part of the step, see :func:`begin_part`."""
        self._part, self._later_parts = f"{title}, ", later
        self._forecast.expect(later.forward, backward=False)

    def end(self) -> None:
        """End the step, and remove the live line."""
        if self._live_line is not None:
            self._live_line.close()
            self._live_line = None
        self._title = ""
        self._shown_in_step.clear()

    def show(self, place: str, images_left: float, backward: bool, detail: str) -> None:
        """Show the progress of the step, see :func:`report`."""
        self._place, self._detail, self._backward = self._part + place, detail, backward
        later = self._later_parts.backward if backward else self._later_parts.forward
        self._forecast.expect(images_left + later, backward)
        self._refresh()

    def passed(self, images: int, backward: bool) -> None:
        """Count images that have passed through the network."""
        self._forecast.passed(images, backward)
        self._refresh()

    def _refresh(self) -> None:
        if not self._title:
            return
        if self._live_line is not None:
            self._live_line.ncols = _width()
            self._live_line.set_description_str(self.line(), refresh=False)
            self._live_line.update()  # draws it, at a limited rate
        elif not self._is_live and time.monotonic() > self._last_line + SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            self._write(f"[{time.strftime('%H:%M:%S')}] {self.line()}")

    def line(self) -> str:
        """Format the progress, throughput and remaining time of the step, and that of the job."""
        parts = [self._place or "begins"]
        rate = self._forecast.images_per_second(self._backward)
        step_left, all_left = self._forecast.step_left(), self._forecast.all_left()
        if rate is not None and step_left is not None and all_left is not None:
            whole = f" (all ~{_duration(all_left)})" if self._has_others else ""
            parts.append(f"{_duration(step_left)} left{whole}")
            parts.append(f"{rate:.3g} images/s")
        parts += [self._detail] if self._detail else []
        return f"{self._title}: {', '.join(parts)}"


SHOWING = (Terminal, logging.NullHandler)  # on the main process, and on all others


class _LiveLine(tqdm):
    monitor_interval = 0  # no monitor thread, next to which loaders would be forked


def _is_own(record: logging.LogRecord) -> bool:
    return record.name.split(".")[0] == OWN


def _has_handler(kind: type | tuple[type, ...]) -> bool:
    return any(isinstance(handler, kind) for handler in logging.getLogger(OWN).handlers)


def _terminals() -> list[Terminal]:
    """Get the terminal of this process, if it has one."""
    return [h for h in logging.getLogger(OWN).handlers if isinstance(h, Terminal)]


def _remove(log: logging.Logger, kinds: type | tuple[type, ...]) -> None:
    for handler in list(log.handlers):
        if isinstance(handler, kinds):
            log.removeHandler(handler)
            handler.close()


def _width() -> int:
    """Get the number of usable columns of the terminal, 79 if it does not report its size."""
    return shutil.get_terminal_size().columns - 1


def _duration(seconds: float) -> datetime.timedelta:
    return datetime.timedelta(seconds=round(seconds))
