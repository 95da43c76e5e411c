"""Which data set is for what in a search, and that they are apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog

from ..data.catalog import register_own
from ..data.shared_images import (
    copied_pictures,
    is_made_at_first_use,
    share_by_name,
    shared_images,
)
from ..data.splits import split_source
from ..engine.examination import NotYet, call

COPIED_SHARE = 0.5  # of the pictures that were compared; large data sets have a few copies


@dataclass(frozen=True)
class DataUse:
    """What a step does with the data sets of its config.

    Attributes:
        step: its name.
        cfg: its config.
        searches: architectures are compared on DATASETS.TEST, which is an archval; by a search, or by
            a short list.
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
    data: CfgNode


def check_data(
    uses: Sequence[DataUse], check: Callable[..., object] = call, *, makes: bool = True
) -> None:
    """Refuse data sets that share images, or the bytes of their pictures, where they have to be apart:
    in each step what is trained on and what is tested on, and the test set of the final detectors
    and all that any step trains on or chooses by. Nothing is written but what checks remember.

    Args:
        uses: of all steps.
        check: runs the check of each data set and each pair; pairs of data sets that have not come
            through it are passed over.
        makes: data sets that are made at first use, or else they are not checked.

    Raises:
        OSError: a data set is not there.
        ValueError: they share images, half of the pictures that are compared are copies, or a data
            set has a fault.
        NotYet: a data set would be made.
    """
    for use in uses:
        check(register_own, use.cfg)
    for pair in _pairs(uses):
        if all(name in DatasetCatalog or split_source(name) for name in (pair.test, pair.other)):
            check(_check, pair, makes=makes)


def _check(pair: _Pair, *, makes: bool) -> None:
    names = (pair.test, pair.other)
    if not makes and not share_by_name(*names):
        for name in filter(is_made_at_first_use, names):
            raise NotYet(f"the data set {name!r}, which is made when it is first used")
    shared = shared_images(*names, pair.data)
    if shared:
        raise ValueError(
            f"{pair.test} is the DATASETS.TEST of {pair.tested_by}, and {len(shared)} of its images "
            f"are in {pair.other}, {pair.purpose}, such as {min(shared)}; expected none"
        )
    copies, compared = copied_pictures(*names, pair.data)
    if copies and len(copies) >= COPIED_SHARE * compared:
        path, copy = min(copies.items())
        raise ValueError(
            f"{pair.test} is the DATASETS.TEST of {pair.tested_by}, and {len(copies)} of its {compared} "
            f"pictures are, byte for byte, pictures of {pair.other}, {pair.purpose}, such as {path}, "
            f"which is {copy}; expected other pictures"
        )


def _pairs(uses: Sequence[DataUse]) -> Iterator[_Pair]:
    """Each once, whichever steps it is of."""
    seen = set()
    for pair in _all_pairs(uses):
        archval = pair.data.ARCHVAL
        key = (pair.test, pair.other, archval.SIZE, archval.SEED, archval.GROUP_KEY)
        if key not in seen:
            seen.add(key)
            yield pair


def _all_pairs(uses: Sequence[DataUse]) -> Iterator[_Pair]:
    for use in uses:
        others = uses if use.tests else [use]
        for test in use.cfg.DATASETS.TEST:
            for other in others:
                data = other.cfg.DATASETS
                for name in other.cfg.DATASETS.TRAIN:
                    yield _Pair(test, use.step, name, f"on which {other.step} trains", data)
                if use.tests and other.searches:
                    for name in other.cfg.DATASETS.TEST:
                        purpose = f"by which {other.step} chooses"
                        yield _Pair(test, use.step, name, purpose, data)
