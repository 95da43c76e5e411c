"""What is known of a search: its steps, and the two networks that it is about."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from detectron2.config import CfgNode

from ..analysis import DetectorCost, analyze_detector
from ..architecture import Architecture
from ..config import get_architecture

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
    seconds: float | None = None
    results: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Network:
    """A final detector.

    Attributes:
        name: "baseline" or "found".
        cfg: its config.
        weights: file of the trained weights; empty for a network that is not trained.
        results: of its evaluation, in percent, by task and metric; empty without one.
    """

    name: str
    cfg: CfgNode
    weights: str = ""
    results: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

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
    def main_metrics(self) -> dict[str, float]:
        """Those over all categories, by names such as "bbox AP50"."""
        return {
            f"{task} {name}": value
            for task, metrics in self.results.items()
            for name, value in metrics.items()
            if "-" not in name
        }
