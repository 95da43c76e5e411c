"""Reads the results of trainings and searches from their ``OUTPUT_DIR``."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from detectron2.config import CfgNode
from detectron2.utils.file_io import PathManager

from ..analysis.flops import analyze_detector
from ..architecture import Architecture, Code, parse_code
from ..config import flatten_config, get_architecture, read_config
from ..files import read_json
from ..paths import real_path
from ..search.result import RESULT_FILE

CONFIG_FILE = "config.yaml"
METRICS_FILE = "metrics.json"
# Each result of a detector or a classifier has one of these
BOX_AP, TOP1 = "bbox/AP", "classification/top1"
# Keys that may differ between trainings of one network with several seeds
SEED_KEYS = frozenset({"SEED", "OUTPUT_DIR", "MODEL.WEIGHTS"})
# Keys that distinguish backbones with equal codes
NETWORK_KEYS = (
    "MODEL.CR.FAMILY",
    "MODEL.CR.BLOCK",
    "MODEL.CR.STAGE_CODE",
    "MODEL.CR.WIDTH_MULTIPLIER",
    "MODEL.RESNETS.STEM_OUT_CHANNELS",
    "MODEL.RESNETS.RES2_OUT_CHANNELS",
    "MODEL.RESNETS.NUM_GROUPS",
    "MODEL.RESNETS.WIDTH_PER_GROUP",
    "MODEL.RESNETS.RES5_DILATION",
)


@dataclass(frozen=True, eq=False)
class Run:
    """A training of a detector or a classifier.

    Attributes:
        folder: its ``OUTPUT_DIR``.
        cfg: its config.
        iteration: iteration of its last evaluation.
        metrics: metrics of that evaluation on :attr:`dataset` in percent, by names such as
            "bbox/AP" and "classification/top1".
    """

    folder: str
    cfg: CfgNode
    iteration: int
    metrics: Mapping[str, float]

    @property
    def architecture(self) -> Architecture:
        return get_architecture(self.cfg)

    @property
    def dataset(self) -> str:
        """The first of ``DATASETS.TEST``."""
        return self.cfg.DATASETS.TEST[0]

    @property
    def network(self) -> tuple[str, ...]:
        """A key that is equal for equal backbones: family, block, codes, groups and widths."""
        flat = flatten_config(self.cfg)
        return *(flat[key] for key in NETWORK_KEYS), str(self.architecture.operation_code)

    def metric(self, name: str) -> float:
        """Get a metric of the evaluation.

        Raises:
            ValueError: the evaluation lacks the metric, or it is not finite.
        """
        value = self.metrics.get(name)
        if value is None or not math.isfinite(value):
            there = ", ".join(key for key in self.metrics if "/" in key)
            raise ValueError(f"{self.folder}: {name} is {value}; its last evaluation has {there}")
        return value

    def macs(self) -> int:
        """Count the multiply-adds of the detector for an image of 800x1088.

        Raises:
            ValueError: :func:`analyze_detector` cannot count it, for example because it is a
                classifier.
        """
        return analyze_detector(self.cfg).macs


def read_run(folder: str) -> Run:
    """Read the last evaluation of a training, which may still be running.

    Args:
        folder: ``OUTPUT_DIR`` of ``train_net.py``, or one of the folders ``final`` and ``baseline``
            of a search.

    Raises:
        FileNotFoundError: the folder has no config or no metrics.
        ValueError: nothing has been evaluated yet, or the config has no test set.
    """
    paths = [os.path.join(folder, name) for name in (CONFIG_FILE, METRICS_FILE)]
    for path in paths:
        if not PathManager.isfile(path):
            raise FileNotFoundError(f"{path}: no such file; expected the OUTPUT_DIR of a training")
    cfg = read_config(paths[0])
    if not cfg.DATASETS.TEST:
        raise ValueError(f"{paths[0]}: DATASETS.TEST is empty; expected a dataset with results")
    # Detectron2 adds the name of the dataset if there are several.
    prefix = f"{cfg.DATASETS.TEST[0]}/" if len(cfg.DATASETS.TEST) > 1 else ""
    with PathManager.open(paths[1], "r") as f:
        lines = [
            line for line in map(parse_line, f) if any(prefix + m in line for m in (BOX_AP, TOP1))
        ]
    if not lines:
        raise ValueError(f"{paths[1]}: expected a line with {prefix}{BOX_AP} or {prefix}{TOP1}")
    metrics = {
        key.removeprefix(prefix): value
        for key, value in lines[-1].items()
        if key.startswith(prefix) and key != "iteration"
    }
    return Run(folder, cfg, lines[-1]["iteration"], metrics)


def read_keys(path: str) -> Mapping[str, Any]:
    """Read a config.yaml as a run of Detectron2 writes it, with any keys.

    The result is empty if there is none, or one of another kind, such as a lazy config.
    """
    if not os.path.isfile(path):
        return {}
    try:
        with open(path, encoding="utf-8") as file:
            keys = yaml.safe_load(file)
    except (yaml.YAMLError, UnicodeDecodeError):
        return {}
    return keys if isinstance(keys, dict) else {}


def parse_line(line: str) -> Mapping[str, Any]:
    """Parse a line of metrics. Empty for a truncated line, which a killed training may have left."""
    try:
        content = json.loads(line)
    except json.JSONDecodeError:
        return {}
    return content if isinstance(content, dict) else {}


def read_runs(folders: Iterable[str]) -> list[Run]:
    """Read several trainings.

    Raises:
        FileNotFoundError, ValueError: as :func:`read_run`, or a folder is named twice.
    """
    folders = list(folders)
    seen: set[str] = set()
    for folder in folders:
        if real_path(folder) in seen:
            raise ValueError(f"{folder} is named twice; expected each run once")
        seen.add(real_path(folder))
    return [read_run(folder) for folder in folders]


def common_dataset(runs: Sequence[Run]) -> str:
    """Get the dataset that all runs were tested on.

    Raises:
        ValueError: there are several, whose APs are not comparable.
    """
    folders: dict[str, str] = {}
    for run in runs:
        folders.setdefault(run.dataset, run.folder)
    if len(folders) != 1:
        named = ", ".join(f"{dataset} ({folder}, ...)" for dataset, folder in folders.items())
        raise ValueError(f"the runs are tested on {named or 'nothing'}; expected one dataset")
    return next(iter(folders))


def group_seeds(runs: Iterable[Run]) -> list[list[Run]]:
    """Group runs whose configs differ only in seed, initial weights and folder."""
    groups: dict[tuple, list[Run]] = {}
    for run in runs:
        flat = flatten_config(run.cfg)
        groups.setdefault(
            tuple((key, value) for key, value in flat.items() if key not in SEED_KEYS), []
        ).append(run)
    return list(groups.values())


@dataclass(frozen=True)
class StageRanking:
    """The ranking of a stage search under its first budget.

    Attributes:
        folder: ``OUTPUT_DIR`` of the search.
        dataset: archval.
        metric: the metric that was maximized.
        scores: scores of the stage codes in percent, best first. The first code is the search's
            choice.
    """

    folder: str
    dataset: str
    metric: str
    scores: Mapping[Code, float]


def read_stage_ranking(folder: str) -> StageRanking:
    """Read the ranking of a stage search.

    Args:
        folder: ``OUTPUT_DIR`` of ``search_net.py`` for a stage search, or the folder
            ``stage_search`` of a whole procedure.

    Raises:
        FileNotFoundError: the folder has no config or no result.
        ValueError: the result is damaged, belongs to another step, or has no ranking.
    """
    path = os.path.join(folder, RESULT_FILE)
    if not PathManager.isfile(path):
        raise FileNotFoundError(f"{path}: no such file; expected the OUTPUT_DIR of a stage search")
    cfg = read_config(os.path.join(folder, CONFIG_FILE))
    result = read_json(path)
    try:
        step, metric = result["step"], result["metric"]
        ranking = next(iter(result["rankings"].values()))["ranking"]
        scores = {parse_code(code): float(score) for code, score in ranking}
    except (AttributeError, KeyError, StopIteration, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no result of a search: {error!r}") from None
    if step != "stage" or not scores:
        raise ValueError(
            f"{path}: {len(scores)} architectures of the {step} search; expected ranked stage codes"
        )
    return StageRanking(folder, cfg.DATASETS.TEST[0], metric, scores)
