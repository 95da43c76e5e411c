"""Faults of a run: a sentence for those who can fix them, the traceback for those who ask for it."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator

from ..files import describe_error
from .log_file import LogFile

EXIT_AFTER_FAULT = 1
EXIT_AFTER_SIGINT = 130
PACKAGE = __name__.partition(".")[0]

logger = logging.getLogger(__name__)


def tell_fault(error: Exception, show_traceback: bool) -> None:
    """Print an error to stderr, as a sentence if it is an expected one; see :func:`tell_faults`."""
    if show_traceback or not is_expected(error):
        traceback.print_exception(type(error), error, error.__traceback__)
    if is_expected(error):
        tell_sentence(sentence_of(error))


@contextlib.contextmanager
def tell_faults(
    show_traceback: bool, tell: Callable[[Exception, bool], None] = tell_fault
) -> Iterator[None]:
    """End the process if an exception or Ctrl-C occurs within a ``with`` block.

    An expected fault is printed to stderr in one sentence, with its traceback only in the log
    files. For any other exception, stderr shows the traceback.

    Args:
        show_traceback: print the traceback of an expected fault too.
        tell: prints the exception, given ``show_traceback``. The log files have it in any case.

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
    """Whether the message alone says what is wrong, unlike errors of torch or from bugs."""
    if isinstance(error, (ValueError, OSError, FloatingPointError)):
        return True
    return type(error) is RuntimeError and is_own(error)


def is_own(error: Exception) -> bool:
    """Whether an error was raised in this package."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame.f_globals.get("__name__", "").partition(".")[0] == PACKAGE


def tell_sentence(sentence: str) -> None:
    """Print a sentence to stderr, after the name of the program."""
    program = os.path.basename(sys.argv[0])
    print(f"{program}: error: {sentence}", file=sys.stderr, flush=True)


def sentence_of(error: Exception) -> str:
    """Get the message of an error, prefixed by its type if it is not an expected one."""
    if not is_expected(error):
        return traceback.format_exception_only(error)[-1].strip()
    return _said_by_worker(error) or describe_error(error)


def _said_by_worker(error: Exception) -> str:
    """Extract the original message of an error in a data worker.

    Torch raises it again with the traceback as the message. The result is empty for any other
    error.
    """
    if not re.match(r"Caught \w+ in DataLoader worker process", str(error)):
        return ""
    kind = type(error)
    name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
    return str(error).rpartition(f"\n{name}: ")[2].rstrip("\n")


def log_fault(sentence: str, error: Exception | None = None) -> None:
    """Write a fault to the log files only, with the traceback of an exception."""
    trace = None if error is None else (type(error), error, error.__traceback__)
    record = logger.makeRecord(logger.name, logging.ERROR, __file__, 0, sentence, (), trace)
    for handler in logging.getLogger(PACKAGE).handlers:
        if isinstance(handler, LogFile):
            handler.handle(record)


def _is_no_exception(record: logging.LogRecord) -> bool:
    """Filter out the tracebacks that Detectron2's training loop would also log to the terminal."""
    return not record.exc_info
