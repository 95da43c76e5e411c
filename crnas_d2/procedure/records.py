"""What is known of a search: its steps, and the two networks that it is about."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from detectron2.config import CfgNode

from ..analysis import DetectorCost, analyze_detector
from ..architecture import Architecture
from ..config import get_architecture
from ..engine.forecast import Work

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StepRecord:
    """A step of a procedure, before it has run or after.

    Attributes:
        name: of the step.
        folder: of its products.
        config: file of its config.
        searches: or else it trains.
        size: iterations and images of a training, architectures and images of a search.
        image_passes: images that pass through a network, and in which direction.
        work: what it has to do, for a forecast of its time.
        done: whether it has ended.
        seconds: that its last run took; None before the end.
        results: what was measured at its end.
    """

    name: str
    folder: str
    config: str
    searches: bool
    size: str
    image_passes: str
    done: bool
    work: Work = Work()
    seconds: float | None = None
    results: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Network:
    """A final detector.

    Attributes:
        name: "baseline" or "found".
        cfg: its config.
        weights: file of the trained weights; empty for a network that is not trained.
        results: of its evaluation, in percent, by task and metric, and before them by test set
            where there are several; None for a number that is not finite, such as the AP of small
            objects where there are none. Empty without an evaluation.
    """

    name: str
    cfg: CfgNode
    weights: str = ""
    results: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)

    @cached_property
    def architecture(self) -> Architecture:
        """Its codes."""
        return get_architecture(self.cfg)

    @cached_property
    def cost(self) -> DetectorCost | None:
        """Multiply-adds and parameters, module by module, for an image of 800x1088; None of a
        detector that cannot be counted, such as a RetinaNet."""
        try:
            return analyze_detector(self.cfg)
        except ValueError as error:
            logger.warning(f"The cost of the network {self.name!r} is not told: {error}")
            return None

    @property
    def first_results(self) -> Mapping[str, Mapping[str, float | None]]:
        """Those on the first test set; of several, Detectron2 has results by their names."""
        tests = self.cfg.DATASETS.TEST
        return self.results.get(tests[0], {}) if len(tests) > 1 else self.results

    @property
    def main_metrics(self) -> dict[str, float | None]:
        """Those over all categories on the first test set, by names such as "bbox AP50"."""
        return {
            f"{task} {name}": value
            for task, metrics in self.first_results.items()
            for name, value in metrics.items()
            if "-" not in name
        }

    @property
    def numbers(self) -> dict[str, float | None]:
        """What it is compared by: its main metrics, in percent, and its cost, where it is known."""
        cost = self.cost
        sizes = {"GMACs": cost.macs / 1e9, "M parameters": cost.parameters / 1e6} if cost else {}
        return {**self.main_metrics, **sizes}


def work_of(cfg: CfgNode, evaluations: int | None, images: int = 0) -> Work:
    """What a step has to do.

    Args:
        cfg: of the step; of a search, :func:`~crnas_d2.procedure.supernet_search.settled`.
        evaluations: how many architectures it evaluates; None of a training.
        images: of archval, on which each of them is evaluated.
    """
    if evaluations is None:
        images = cfg.SOLVER.MAX_ITER * cfg.SOLVER.IMS_PER_BATCH
        return Work(backward=images, pixels=_pixels(cfg, cfg.INPUT.MIN_SIZE_TRAIN))
    norms = cfg.SEARCH.BN
    if norms.MODE == "recalibrate":
        images += norms.BATCHES * norms.IMAGES_PER_BATCH
    return Work(forward=evaluations * images, pixels=_pixels(cfg, [cfg.INPUT.MIN_SIZE_TEST]))


def _pixels(cfg: CfgNode, shorter_sides: Sequence[int]) -> float:
    """Of an input, about: those of detectors are taken to be a third longer than high."""
    if cfg.MODEL.META_ARCHITECTURE == "ImageClassifier":
        return float(cfg.INPUT.CLASSIFICATION.CROP_SIZE**2)
    side = sum(shorter_sides) / len(shorter_sides) or 480.0  # 0 is the image as it is
    return side * side * 4 / 3
