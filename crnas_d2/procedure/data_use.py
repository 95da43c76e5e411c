"""What each dataset of a search is used for, and checks that test data are disjoint from the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog

from ..data.catalog import register_own
from ..data.shared_images import (
    copied_images,
    is_made_at_first_use,
    share_by_name,
    shared_images,
)
from ..data.splits import split_source
from ..engine.examination import NotYet, call

# share of the compared images that is an error; large datasets contain a few copies
COPIED_SHARE = 0.5


@dataclass(frozen=True)
class DataUse:
    """The use of the datasets in a step's config.

    Attributes:
        step: name of the step.
        cfg: config of the step.
        searches: whether a search or a short list compares architectures on DATASETS.TEST, which is
            an archval.
        tests: whether DATASETS.TEST is what the final detectors are tested on.
    """

    step: str
    cfg: CfgNode
    searches: bool = False
    tests: bool = False


@dataclass(frozen=True)
class _Pair:
    """Two datasets that have to be disjoint."""

    test: str
    tested_by: str
    other: str
    purpose: str
    data: CfgNode


def check_data(
    uses: Sequence[DataUse], check: Callable[..., object] = call, *, makes: bool = True
) -> None:
    """Refuse datasets that share images, or copies of images, where they have to be disjoint.

    Within each step, training data and test data have to be disjoint. The test set of the final
    detectors has to be disjoint from everything on which any step trains or by which it chooses.
    Nothing is written except the cached results of the checks.

    Args:
        uses: the uses of data of all steps.
        check: runs the check of each dataset and each pair. Pairs whose datasets have not passed
            are skipped.
        makes: whether datasets that are generated on first use may be generated. If not, they are
            not checked.

    Raises:
        OSError: a dataset does not exist.
        ValueError: datasets share images, half of the compared images are copies, or a dataset
            has a fault.
        NotYet: a dataset would have to be generated.
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
            raise NotYet(f"the dataset {name!r}, which is made when it is first used")
    shared = shared_images(*names, pair.data)
    if shared:
        raise ValueError(
            f"{pair.test} is the DATASETS.TEST of {pair.tested_by}, and {len(shared)} of its images "
            f"are in {pair.other}, {pair.purpose}, such as {min(shared)}; expected none"
        )
    copies, compared = copied_images(*names, pair.data)
    if copies and len(copies) >= COPIED_SHARE * compared:
        path, copy = min(copies.items())
        raise ValueError(
            f"{pair.test} is the DATASETS.TEST of {pair.tested_by}, and {len(copies)} of its {compared} "
            f"images are, byte for byte, images of {pair.other}, {pair.purpose}, such as {path}, "
            f"which is {copy}; expected other images"
        )


def _pairs(uses: Sequence[DataUse]) -> Iterator[_Pair]:
    """Iterate over distinct pairs, whichever steps they belong to."""
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
