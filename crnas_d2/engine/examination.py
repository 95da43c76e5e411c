"""The findings of the checks before a run. A run stops at the first fault, a dry run lists all."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from detectron2.config import CfgNode

from ..config_files import place_of, read_config_files
from ..data.examine import examine
from ..data.findings import Findings
from .faults import PACKAGE, is_expected, sentence_of

T = TypeVar("T")
SHOWN_FAULTS = 100  # per dataset
PLACE = "; it is set "  # separates a fault from the place where its value was set


def call(check: Callable[..., T], *args: Any, **options: Any) -> T:
    """Run a check, and let its exception end the run."""
    return check(*args, **options)


def telling_places(
    check: Callable[..., Any], config: str, opts: Sequence[Any], common: Sequence[str] = ()
) -> Callable[..., Any]:
    """Wrap ``check`` so that a fault in a value of a config also names the place where it was set.

    Args:
        check: a function like :func:`call`.
        config: the config file. Empty if the config comes from elsewhere.
        opts: keys and values of the command line.
        common: config files that override it.
    """

    def run(function: Callable[..., T], *args: Any, **options: Any) -> T:
        try:
            return function(*args, **options)
        except ValueError as error:
            files = [file for path in (config, *common) if path for file in read_config_files(path)]
            place = place_of(str(error), files, opts)
            if type(error) is not ValueError or not place or place in str(error):
                raise
            raise ValueError(f"{error}{PLACE}{place}") from error.__cause__

    return functools.partial(check, run)


class NotYet(Exception):
    """Raised for something that cannot be checked yet, which is not a fault."""


class Examination:
    """Collects the distinct findings of checks."""

    def __init__(self) -> None:
        self._faults: dict[str, None] = {}
        self._warnings: dict[str, None] = {}
        self._not_checked: dict[str, None] = {}
        self._told: set[str] = set()  # errors that are among the faults in other words

    def check(self, check: Callable[..., T], *args: Any, **options: Any) -> T | None:
        """Run a check like :func:`call`, but collect a fault and return None."""
        try:
            with self._collect_warnings():
                return check(*args, **options)
        except NotYet as reason:
            self._not_checked[str(reason)] = None
            return None
        except Exception as error:
            if not is_expected(error):
                raise
            sentence = sentence_of(error)
            is_told = any(fault.startswith(f"{sentence}{PLACE}") for fault in self._faults)
            if sentence not in self._told and not is_told:
                self._faults.pop(sentence.rpartition(PLACE)[0], None)
                self._faults[sentence] = None
            return None

    def examine_data(self, cfg: CfgNode) -> None:
        """Examine every dataset of a config on its own."""
        self.add(self.check(examine, cfg) or [])

    def add(self, found: Iterable[Findings]) -> None:
        """Add findings about datasets."""
        for findings in found:
            self._told.update(findings.errors)
            try:
                findings.raise_errors()
            except ValueError as error:
                self._told.add(str(error))
            shown = findings.errors[:SHOWN_FAULTS]
            self._faults.update((_with_path(findings.path, error), None) for error in shown)
            left = len(findings.errors) - len(shown)
            if left:
                self._faults[f"{findings.path}: {left:,} faults more"] = None
            self._warnings.update(dict.fromkeys(findings.describe_warnings()))

    @property
    def faults(self) -> list[str]:
        """All faults that have to be fixed."""
        return list(self._faults)

    @property
    def is_ready(self) -> bool:
        """Whether there are no faults."""
        return not self._faults

    def describe(self) -> str:
        """List the warnings, followed by the faults, or by a statement that there are none."""
        lines = [f"Warning: {warning}" for warning in self._warnings]
        lines += [f"Not checked: {reason}" for reason in self._not_checked]
        return "\n".join([*lines, *self._verdict()])

    def _verdict(self) -> list[str]:
        count = len(self._faults)
        if not count:
            return ["Ready: all checks that a run begins with have passed"]
        return [
            f"To be mended, {count} fault{'s' if count > 1 else ''}:",
            *map(_indent, self._faults),
        ]

    @contextlib.contextmanager
    def _collect_warnings(self) -> Iterator[None]:
        log, handler = logging.getLogger(PACKAGE), _Collector(self._warnings)
        log.addHandler(handler)
        try:
            yield
        finally:
            log.removeHandler(handler)


class _Collector(logging.Handler):
    """Collects the warnings that are logged."""

    def __init__(self, kept: dict[str, None]):
        super().__init__(logging.WARNING)
        self._kept = kept

    def emit(self, record: logging.LogRecord) -> None:
        self._kept[record.getMessage()] = None


def _with_path(path: str, error: str) -> str:
    return error if path in error else f"{path}: {error}"


def _indent(text: str) -> str:
    return "  " + text.replace("\n", "\n  ")
