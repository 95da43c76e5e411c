"""Which data set is for what in a search, and that they are apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from detectron2.config import CfgNode

from ..data.catalog import register_own
from ..data.shared_images import is_made_at_first_use, share_by_name, shared_images


@dataclass(frozen=True)
class DataUse:
    """What a step does with the data sets of its config.

    Attributes:
        step: its name.
        cfg: its config.
        searches: architectures are compared on DATASETS.TEST, which is an archval.
        tests: DATASETS.TEST is what the final detectors are tested on.
    """

    step: str
    cfg: CfgNode
    searches: bool = False
    tests: bool = False


@dataclass(frozen=True)
class _Pair:
    """Two data sets that have to be apart."""

    test: str
    tested_by: str
    other: str
    purpose: str
    archval: CfgNode


def check_data(uses: Sequence[DataUse]) -> None:
    """Refuse data sets that share images where they have to be apart: in each step what is trained
    on and what is tested on, and the test set of the final detectors and all that any step trains
    on or chooses by.

    Args:
        uses: of all steps. Their data sets are registered.

    Raises:
        OSError: a data set is not there.
        ValueError: they share images.
    """
    for pair in _pairs(uses):
        _check(pair)


def check_data_that_is_there(uses: Sequence[DataUse]) -> list[str]:
    """As :func:`check_data`, before any data set is registered, and without those that are not there
    yet. Nothing is written.

    Returns:
        Why some were not looked at.

    Raises:
        ValueError: they share images, or a data set has a fault.
    """
    known, absent = [], {}
    for use in uses:
        try:
            register_own(use.cfg)
        except OSError as error:
            absent[str(error)] = None
        else:
            known.append(use)
    for pair in _pairs(known):
        made = [name for name in (pair.test, pair.other) if is_made_at_first_use(name)]
        try:
            if made and not share_by_name(pair.test, pair.other):
                absent[f"the data set {made[0]!r} is made when it is first used"] = None
            else:
                _check(pair)
        except OSError as error:
            absent[str(error)] = None
    return list(absent)


def _check(pair: _Pair) -> None:
    shared = shared_images(pair.test, pair.other, pair.archval)
    if shared:
        raise ValueError(
            f"{pair.test} is the DATASETS.TEST of {pair.tested_by}, and {len(shared)} of its images "
            f"are in {pair.other}, {pair.purpose}, such as {min(shared)}; expected none"
        )


def _pairs(uses: Sequence[DataUse]) -> Iterator[_Pair]:
    """Each once, whichever steps it is of."""
    seen = set()
    for pair in _all_pairs(uses):
        archval = pair.archval
        key = (pair.test, pair.other, archval.SIZE, archval.SEED, archval.GROUP_KEY)
        if key not in seen:
            seen.add(key)
            yield pair


def _all_pairs(uses: Sequence[DataUse]) -> Iterator[_Pair]:
    for use in uses:
        others = uses if use.tests else [use]
        for test in use.cfg.DATASETS.TEST:
            for other in others:
                archval = other.cfg.DATASETS.ARCHVAL
                for name in other.cfg.DATASETS.TRAIN:
                    yield _Pair(test, use.step, name, f"on which {other.step} trains", archval)
                if use.tests and other.searches:
                    for name in other.cfg.DATASETS.TEST:
                        purpose = f"by which {other.step} chooses"
                        yield _Pair(test, use.step, name, purpose, archval)
