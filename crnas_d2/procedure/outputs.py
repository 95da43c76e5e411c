"""The files that a search writes, kept apart from its inputs and from files of the user."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable, Iterator, Sequence

from detectron2.config import CfgNode

from ..config_files import find_config_file, read_config_files
from ..config_values import CUSTOM_DATASETS
from ..files import TEMPORARY, describe_error, is_signed
from ..lock import LOCK_FILE, check_unlocked
from ..paths import is_remote, real_path
from ..search.latencies import LATENCY_FILE
from ..search.result import ARCHITECTURE_FILE, FINAL_FILE, RESULT_FILE, is_result
from .readme import README_FILE
from .recipe import find_config
from .state import STATE_FILE

LEDGER_FILE = "ledger.sqlite"
PAGE = os.path.join("report", "index.html")
FOR_USERS = (ARCHITECTURE_FILE, FINAL_FILE, PAGE)
OF_A_RECIPE = (*FOR_USERS, RESULT_FILE, README_FILE)
PAGE_MARK = b'<meta name="generator" content="crnas_d2'

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def report_if_possible() -> Iterator[None]:
    """Make a report within a ``with`` block, and log any exception instead of raising it."""
    try:
        yield
    except Exception as error:
        logger.warning(f"The report was not made: {type(error).__name__}: {describe_error(error)}")
        logger.debug("What ended the report:", exc_info=True)


def check_outputs(output: str, names: Iterable[str], read: Iterable[str]) -> None:
    """Refuse an ``OUTPUT_DIR`` in which a search would overwrite foreign files or its own inputs.

    Nothing is written here.

    Args:
        output: ``OUTPUT_DIR`` of a procedure or of one search.
        names: names of what is written there in addition to the files that every search writes,
            such as the folders of the steps that are still to run.
        read: files or folders of configs, weights and data.

    Raises:
        ValueError: a file would be overwritten. The message names it.
        BlockingIOError: another run writes there.
    """
    if not output:
        raise ValueError("OUTPUT_DIR is ''; expected a folder for what the search writes")
    check_unlocked(output)
    places = [os.path.join(output, name) for name in (*FOR_USERS, *names)]
    for path in read:
        for place in places:
            if _is_in(path, place):
                raise ValueError(
                    f"OUTPUT_DIR is {output!r}, where the search writes {place}; {path} is read from "
                    "there. Choose another OUTPUT_DIR"
                )
    for place in places:
        if os.path.exists(place) and not _is_own(place):
            raise ValueError(
                f"OUTPUT_DIR is {output!r}, where the search writes {place}; there is one already "
                "that it has not written, or that was changed since. Move it away, or choose another "
                "OUTPUT_DIR"
            )


def check_search_outputs(cfg: CfgNode, config: str) -> None:
    """Apply :func:`check_outputs` to a search over one supernet.

    Args:
        cfg: config of the search.
        config: file of that config.
    """
    configs = [config]
    if cfg.SEARCH.FINAL:
        configs.append(find_config("SEARCH.FINAL", cfg.SEARCH.FINAL, config))
    check_outputs(cfg.OUTPUT_DIR, [RESULT_FILE], files_read(configs, [cfg]))


def files_read(configs: Iterable[str], cfgs: Sequence[CfgNode]) -> Iterator[str]:
    """Iterate over all inputs apart from the datasets that are already registered.

    Args:
        configs: config files, each of which is read with its bases.
        cfgs: the configs in use, without weights that an earlier step produces.
    """
    for path in configs:
        yield from (file for file, _ in read_config_files(find_config_file(path)))
    for cfg in cfgs:
        if cfg.MODEL.WEIGHTS:
            yield cfg.MODEL.WEIGHTS
        for key, count in CUSTOM_DATASETS.items():
            for entry in cfg.DATASETS[key]:
                if isinstance(entry, (list, tuple)):  # other entries are refused with the datasets
                    yield from map(str, entry[1 : 1 + count])


def _is_in(path: str, place: str) -> bool:
    """Whether a file or folder is at a place or below it."""
    if is_remote(path) or is_remote(place):
        return path == place
    path, place = real_path(path), real_path(place)
    return path == place or path.startswith(os.path.join(place, ""))


def _is_own(place: str) -> bool:
    """Whether an earlier run has written what is at a place."""
    if os.path.isdir(place):
        known = {STATE_FILE, LEDGER_FILE, LATENCY_FILE, LOCK_FILE}
        content = [name for name in os.listdir(place) if not TEMPORARY.fullmatch(name)]
        return not content or not known.isdisjoint(content)
    if os.path.basename(place) == RESULT_FILE:
        return is_result(place)
    if place.endswith(".html"):
        with open(place, "rb") as file:
            return PAGE_MARK in file.read()
    return is_signed(place)
