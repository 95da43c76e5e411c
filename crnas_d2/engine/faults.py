"""Faults of a run: one sentence for whoever can mend them, the traceback for whoever asks."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from ..files import describe_error
from .terminal import LogFile

EXIT_AFTER_FAULT = 1
EXIT_AFTER_SIGINT = 130
PACKAGE = __name__.partition(".")[0]

Turn = Callable[[Exception], AbstractContextManager[bool]]

logger = logging.getLogger(__name__)


def _always(_: Exception) -> AbstractContextManager[bool]:
    return contextlib.nullcontext(True)


@contextlib.contextmanager
def tell_faults(show_traceback: bool, turn: Turn = _always) -> Iterator[None]:
    """End the process where an exception or Ctrl-C ends what is done here.

    An expected fault is told on stderr in one sentence, its traceback goes to the log files alone;
    of any other exception stderr has the traceback.

    Args:
        show_traceback: on stderr, of an expected fault too.
        turn: waits for the turn of this process; whether it is to tell this fault. The log files
            have it anyway.

    Raises:
        SystemExit: with :data:`EXIT_AFTER_FAULT` or :data:`EXIT_AFTER_SIGINT`.
    """
    trainer_log = logging.getLogger("detectron2.engine.train_loop")
    trainer_log.addFilter(_is_no_exception)
    try:
        yield
    except KeyboardInterrupt:
        raise SystemExit(EXIT_AFTER_SIGINT) from None
    except Exception as error:
        _write_to_log_files(error)
        with turn(error) as is_mine:
            if is_mine:
                _tell(error, show_traceback)
        raise SystemExit(EXIT_AFTER_FAULT) from None
    finally:
        trainer_log.removeFilter(_is_no_exception)


def is_expected(error: Exception) -> bool:
    """Whether its message alone says what is wrong. One of torch or of a bug does not."""
    if isinstance(error, (ValueError, OSError, FloatingPointError)):
        return True
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    raised_here = frame.f_globals.get("__name__", "").partition(".")[0] == PACKAGE
    return raised_here and type(error) is RuntimeError


def _tell(error: Exception, show_traceback: bool) -> None:
    if show_traceback or not is_expected(error):
        traceback.print_exception(type(error), error, error.__traceback__)
    if is_expected(error):
        program = os.path.basename(sys.argv[0])
        print(f"{program}: error: {sentence_of(error)}", file=sys.stderr, flush=True)


def sentence_of(error: Exception) -> str:
    """What an expected fault tells."""
    return _said_by_worker(error) or describe_error(error)


def _said_by_worker(error: Exception) -> str:
    """The message of a fault in a data worker, which torch raises here with the traceback as its
    message; empty where it is no such fault."""
    if not re.match(r"Caught \w+ in DataLoader worker process", str(error)):
        return ""
    kind = type(error)
    name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
    return str(error).rpartition(f"\n{name}: ")[2].rstrip("\n")


def _write_to_log_files(error: Exception) -> None:
    record = logger.makeRecord(
        logger.name,
        logging.ERROR,
        __file__,
        0,
        sentence_of(error),
        (),
        (type(error), error, error.__traceback__),
    )
    for handler in logging.getLogger(PACKAGE).handlers:
        if isinstance(handler, LogFile):
            handler.handle(record)


def _is_no_exception(record: logging.LogRecord) -> bool:
    """Of Detectron2's training loop, which logs the traceback to the terminal too."""
    return not record.exc_info
