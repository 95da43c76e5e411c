"""Faults of a run: one sentence for whoever can mend them, the traceback for whoever asks."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator

from ..files import describe_error
from .terminal import LogFile

EXIT_AFTER_FAULT = 1
EXIT_AFTER_SIGINT = 130
PACKAGE = __name__.partition(".")[0]

logger = logging.getLogger(__name__)


def tell_fault(error: Exception, show_traceback: bool) -> None:
    """On stderr, in a sentence if it is an expected one; see :func:`tell_faults`."""
    if show_traceback or not is_expected(error):
        traceback.print_exception(type(error), error, error.__traceback__)
    if is_expected(error):
        tell_sentence(sentence_of(error))


@contextlib.contextmanager
def tell_faults(
    show_traceback: bool, tell: Callable[[Exception, bool], None] = tell_fault
) -> Iterator[None]:
    """End the process where an exception or Ctrl-C ends what is done here.

    An expected fault is told on stderr in one sentence, its traceback goes to the log files alone;
    of any other exception stderr has the traceback.

    Args:
        show_traceback: on stderr, of an expected fault too.
        tell: takes the exception and ``show_traceback``. The log files have it anyway.

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
        log_fault(sentence_of(error), error)
        tell(error, show_traceback)
        raise SystemExit(EXIT_AFTER_FAULT) from None
    finally:
        trainer_log.removeFilter(_is_no_exception)


def is_expected(error: Exception) -> bool:
    """Whether its message alone says what is wrong. One of torch or of a bug does not."""
    if isinstance(error, (ValueError, OSError, FloatingPointError)):
        return True
    return type(error) is RuntimeError and is_own(error)


def is_own(error: Exception) -> bool:
    """Whether it was raised in this package."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame.f_globals.get("__name__", "").partition(".")[0] == PACKAGE


def tell_sentence(sentence: str) -> None:
    """On stderr, under the name of the program."""
    program = os.path.basename(sys.argv[0])
    print(f"{program}: error: {sentence}", file=sys.stderr, flush=True)


def sentence_of(error: Exception) -> str:
    """What a fault tells; one that is not expected has its kind before it."""
    if not is_expected(error):
        return traceback.format_exception_only(error)[-1].strip()
    return _said_by_worker(error) or describe_error(error)


def _said_by_worker(error: Exception) -> str:
    """The message of a fault in a data worker, which torch raises here with the traceback as its
    message; empty where it is no such fault."""
    if not re.match(r"Caught \w+ in DataLoader worker process", str(error)):
        return ""
    kind = type(error)
    name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
    return str(error).rpartition(f"\n{name}: ")[2].rstrip("\n")


def log_fault(sentence: str, error: Exception | None = None) -> None:
    """Into the log files alone, with the traceback of an exception."""
    trace = error and (type(error), error, error.__traceback__)
    record = logger.makeRecord(logger.name, logging.ERROR, __file__, 0, sentence, (), trace)
    for handler in logging.getLogger(PACKAGE).handlers:
        if isinstance(handler, LogFile):
            handler.handle(record)


def _is_no_exception(record: logging.LogRecord) -> bool:
    """Of Detectron2's training loop, which logs the traceback to the terminal too."""
    return not record.exc_info
