"""The two networks that a procedure is about."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from detectron2.config import CfgNode
from tabulate import tabulate

from ..analysis import DetectorCost, analyze_detector
from ..architecture import Architecture, format_code
from ..config import get_architecture, set_architecture
from ..data import setup_datasets
from ..search.cost import plain_detector
from .standing import Standing
from .state import MODEL_FILE

if TYPE_CHECKING:
    from .procedure import Procedure

logger = logging.getLogger(__name__)


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


def networks_of(procedure: Procedure) -> list[Network]:
    """The baseline and, once a search has ended, what was found."""
    baseline = procedure.final_config() or plain_detector(procedure.config(procedure.searches[0]))
    setup_datasets(baseline)
    networks = [_network(procedure, "baseline", baseline, "baseline")]
    architecture = procedure.found()
    if architecture:
        found = baseline.clone()
        set_architecture(found, architecture)
        networks.append(_network(procedure, "found", found, "final"))
    return networks


def _network(procedure: Procedure, name: str, cfg: CfgNode, training: str) -> Network:
    """A detector, with what its training has given if that is done."""
    standing = procedure.look().get(training, Standing())
    if not standing.done:
        return Network(name, cfg)
    return Network(name, cfg, procedure.path(training, MODEL_FILE), standing.results)


def compare(baseline: Network, found: Network) -> str:
    """Two trained detectors side by side, within the width of a terminal."""
    codes = [
        [network.name, kind.replace("_", " "), format_code(code)]
        for network in (baseline, found)
        for kind, code in vars(network.architecture).items()
    ]
    rows = []
    for name, before in baseline.numbers.items():
        after = found.numbers[name]
        rows.append([name, before, after, None if None in (before, after) else after - before])
    head = ["", baseline.name, found.name, "difference"]
    table = tabulate(rows, head, "github", floatfmt=("", ".2f", ".2f", "+.2f"), missingval="-")
    return f"{tabulate(codes, tablefmt='plain')}\n\n{table}"
