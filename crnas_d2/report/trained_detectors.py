"""Trained and tested detectors with one or several seeds, as read from their folders."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from detectron2.data import MetadataCatalog

from ..config import default_config
from ..config_values import merge_values
from ..data import setup_datasets
from ..files import file_sha256
from ..paths import real_path, tell_places
from ..procedure.outcome import Outcome
from ..search.result import RESULT_FILE
from .compared_images import RESULTS
from .runs import CONFIG_FILE, read_keys


@dataclass(frozen=True)
class TrainedDetector:
    """A detector that was tested.

    Attributes:
        path: ``OUTPUT_DIR`` of its training, or file of the detections of its test.
    """

    path: str

    @property
    def results(self) -> str:
        """The file of its detections."""
        return os.path.join(self.path, RESULTS) if os.path.isdir(self.path) else self.path

    @cached_property
    def keys(self) -> Mapping[str, Any]:
        """The config keys of its training. Empty if they are unknown."""
        folder = os.path.dirname(os.path.dirname(os.path.abspath(self.results)))
        return read_keys(os.path.join(folder, CONFIG_FILE))

    @property
    def seed(self) -> int | None:
        """The ``SEED`` of its training. None if it is unknown."""
        seed = self.keys.get("SEED", -1)
        return seed if isinstance(seed, int) and seed >= 0 else None


class ScoredOn(NamedTuple):
    """The dataset that detectors were tested on.

    Attributes:
        name: name of the dataset.
        kind: its ``evaluator_type``, such as "coco".
        json_file: its annotations, if the kind is "coco".
    """

    name: str
    kind: str
    json_file: str

    def describe(self) -> str:
        return self.json_file or self.name


def find_trained(path: str) -> list[TrainedDetector]:
    """Find trained detectors.

    Args:
        path: a file of detections, the folder of a training, or a folder that contains such files
            or folders, one for each seed.

    Returns:
        One detector for each seed, sorted by name.

    Raises:
        FileNotFoundError: there are none.
    """
    if os.path.isfile(path) or _is_training(path):
        return [TrainedDetector(path)]
    if not os.path.isdir(path):
        raise FileNotFoundError(f"{path}: no such file or folder")
    inside = [os.path.join(path, name) for name in sorted(os.listdir(path))]
    found = [p for p in inside if _is_training(p)] or [p for p in inside if p.endswith(".json")]
    if not found:
        raise FileNotFoundError(
            f"{path}: expected the OUTPUT_DIR of a training, with {RESULTS}, or a folder of several, "
            "one of each seed"
        )
    return [TrainedDetector(p) for p in found]


def trained_by_recipe(folder: str) -> tuple[list[TrainedDetector], list[TrainedDetector]]:
    """Find the baseline and the network that was found by a finished recipe.

    Args:
        folder: its ``OUTPUT_DIR``, or the folder of one of several budgets.

    Raises:
        OSError, ValueError: it has no result of a recipe.
    """
    path = os.path.join(folder, RESULT_FILE)
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"{path}: no such file; expected the OUTPUT_DIR of a recipe that has ended, or B"
            f"{tell_places(folder, os.path.join('budget_*', RESULT_FILE))}"
        )
    outcome = Outcome.read(folder)
    baseline, found = (
        [TrainedDetector(os.path.join(folder, name)) for name in network.folders]
        for network in (outcome.baseline, outcome.found)
    )
    return baseline, found


def pair(
    a: Sequence[TrainedDetector], b: Sequence[TrainedDetector]
) -> tuple[list[str], list[tuple[TrainedDetector, TrainedDetector]], str]:
    """Pair detectors by the seeds of their trainings, or else by position.

    Returns:
        The labels of the pairs, the pairs, and a description of how they were made.

    Raises:
        ValueError: the two sides have different numbers of detectors.
    """
    if len(a) != len(b):
        raise ValueError(
            f"{len(a)} of A ({', '.join(t.path for t in a)}) and {len(b)} of B "
            f"({', '.join(t.path for t in b)}); expected as many seeds of both"
        )
    a_by_seed, b_by_seed = (
        {tested.seed: tested for tested in side if tested.seed is not None} for side in (a, b)
    )
    if len(a_by_seed) == len(a) and a_by_seed.keys() == b_by_seed.keys():
        seeds = sorted(a_by_seed)
        pairs = [(a_by_seed[seed], b_by_seed[seed]) for seed in seeds]
        return [f"seed {seed}" for seed in seeds], pairs, "paired by the seeds of their configs"
    pairs = list(zip(a, b))
    labels = [f"{_name(x)}, {_name(y)}" for x, y in pairs]
    return labels, pairs, "paired in the order of their names, as configs do not tell equal seeds"


def find_scored_on(detectors: Sequence[TrainedDetector]) -> ScoredOn:
    """Find the only dataset that all detectors were tested on, and register it.

    Raises:
        ValueError: they were tested on several, or it is unknown.
        FileNotFoundError: a file of it does not exist.
    """
    first, *others = detectors
    scored_on = _scored_on(first)
    for other in others:
        found = _scored_on(other)
        if not _is_same(scored_on, found):
            raise ValueError(
                f"{first.path} was tested on {scored_on.describe()}, {other.path} on "
                f"{found.describe()}; expected one test set"
            )
    return scored_on


def _is_same(one: ScoredOn, other: ScoredOn) -> bool:
    files = one.json_file, other.json_file
    if not all(files):
        return one == other
    return real_path(files[0]) == real_path(files[1]) or file_sha256(files[0]) == file_sha256(
        files[1]
    )


def _scored_on(tested: TrainedDetector) -> ScoredOn:
    datasets, model = tested.keys.get("DATASETS"), tested.keys.get("MODEL")
    if not isinstance(datasets, dict) or not datasets.get("TEST"):
        raise ValueError(
            f"{tested.path}: no {CONFIG_FILE} says what it was tested on; expected --annotations"
        )
    if len(datasets["TEST"]) > 1:
        raise ValueError(
            f"{tested.path} was tested on {', '.join(datasets['TEST'])}, whose detections go into one "
            "file, the last ones; expected one test set, or its --annotations"
        )
    cfg = default_config()
    known = {key: value for key, value in datasets.items() if key in cfg.DATASETS}
    merge_values(cfg, {"DATASETS": {**known, "TRAIN": []}}, os.path.join(tested.path, CONFIG_FILE))
    cfg.MODEL.MASK_ON = isinstance(model, dict) and bool(model.get("MASK_ON"))
    try:
        setup_datasets(cfg)
    except (OSError, ValueError) as error:
        raise ValueError(f"{tested.path}: {error} Or give --annotations.") from None
    meta = MetadataCatalog.get(cfg.DATASETS.TEST[0])
    kind = meta.get("evaluator_type", "")
    return ScoredOn(meta.name, kind, os.fspath(meta.json_file) if kind == "coco" else "")


def _is_training(path: str) -> bool:
    return any(os.path.isfile(os.path.join(path, name)) for name in (CONFIG_FILE, RESULTS))


def _name(tested: TrainedDetector) -> str:
    return os.path.basename(os.path.normpath(tested.path))
