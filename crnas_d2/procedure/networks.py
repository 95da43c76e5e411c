"""The two networks that a procedure is about."""

from __future__ import annotations

import logging
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tabulate import tabulate

from detectron2.config import CfgNode

from ..analysis import DetectorCost, analyze_detector
from ..architecture import Architecture, format_code
from ..config import get_architecture, set_architecture
from ..data import setup_datasets
from .state import MODEL_FILE
from .steps import Kind, Step

if TYPE_CHECKING:
    from .procedure import Procedure

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Training:
    """One training of a final detector that has ended.

    Attributes:
        seed: its ``SEED``.
        folder: of its products.
        results: of its evaluation, in percent, by task and metric, and before them by test set
            where there are several; None for a number that is not finite, such as the AP of small
            objects where there are none. Empty without an evaluation.
    """

    seed: int
    folder: str
    results: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)

    @property
    def weights(self) -> str:
        """File of the trained weights."""
        return os.path.join(self.folder, MODEL_FILE)


@dataclass(frozen=True)
class Network:
    """A final detector.

    Attributes:
        name: "baseline" or "found".
        cfg: its config.
        trainings: of it, in the order of their seeds; empty for one that is not trained.
    """

    name: str
    cfg: CfgNode
    trainings: Sequence[Training] = ()

    @property
    def weights(self) -> str:
        """File of the weights of the first training; empty for a network that is not trained."""
        return self.trainings[0].weights if self.trainings else ""

    @property
    def results(self) -> Mapping[str, Mapping[str, float | None]]:
        """Of the first training; empty for a network that is not trained."""
        return self.trainings[0].results if self.trainings else {}

    @cached_property
    def architecture(self) -> Architecture:
        """Its codes."""
        return get_architecture(self.cfg)

    @cached_property
    def cost(self) -> DetectorCost | None:
        """Multiply-adds and parameters, module by module, for an image of 800x1088; None of a
        detector that cannot be counted, such as one with PointRend."""
        try:
            return analyze_detector(self.cfg)
        except ValueError as error:
            logger.warning(f"The cost of the network {self.name!r} is not told: {error}")
            return None

    @property
    def first_results(self) -> Mapping[str, Mapping[str, float | None]]:
        """Those of the first training on the first test set."""
        return self._on_first_test_set(self.results)

    def _on_first_test_set(
        self, results: Mapping[str, Any]
    ) -> Mapping[str, Mapping[str, float | None]]:
        """Of the results of a training; of several test sets, Detectron2 has them by their names."""
        tests = self.cfg.DATASETS.TEST
        return results.get(tests[0], {}) if len(tests) > 1 else results

    def values(self, task: str, name: str) -> tuple[float | None, ...]:
        """A metric of each training on the first test set, in percent; None where it has none."""
        results = (self._on_first_test_set(training.results) for training in self.trainings)
        return tuple(result.get(task, {}).get(name) for result in results)

    @property
    def main_metrics(self) -> dict[str, float | None]:
        """Those over all categories on the first test set, by names such as "bbox AP50": means
        over the trainings, None where one has none."""
        names = [
            (task, name)
            for task, metrics in self.first_results.items()
            for name in metrics
            if "-" not in name
        ]
        values = {f"{task} {name}": self.values(task, name) for task, name in names}
        return {name: None if None in v else statistics.fmean(v) for name, v in values.items()}

    @property
    def numbers(self) -> dict[str, float | None]:
        """What it is compared by: its main metrics, in percent, and its cost, where it is known."""
        cost = self.cost
        sizes = {"GMACs": cost.macs / 1e9, "M parameters": cost.parameters / 1e6} if cost else {}
        return {**self.main_metrics, **sizes}


def networks_of(procedure: Procedure, budget: str = "") -> list[Network]:
    """The baseline and, once a search has ended, what was found under a budget."""
    baseline = procedure.baseline(budget)
    setup_datasets(baseline)
    networks = [Network("baseline", baseline, _trainings(procedure, budget, found=False))]
    architecture = procedure.found(budget)
    if architecture:
        found = baseline.clone()
        set_architecture(found, architecture)
        networks.append(Network("found", found, _trainings(procedure, budget, found=True)))
    return networks


def final_steps(procedure: Procedure, budget: str) -> list[Step]:
    """The trainings of both networks under a budget."""
    return [
        step
        for step in procedure.steps
        if step.budget == budget
        and step.config == procedure.recipe.names["FINAL"]
        and step.kind is Kind.TRAINING
    ]


def _trainings(procedure: Procedure, budget: str, *, found: bool) -> list[Training]:
    """Those of one of the two networks that have ended, in the order of their seeds."""
    steps = [step for step in final_steps(procedure, budget) if bool(step.twin) == found]
    standings = [(step, procedure.look()[step.name]) for step in steps]
    return [
        Training(
            procedure.config(step).SEED,
            procedure.path(standing.folder or step.name),
            standing.results,
        )
        for step, standing in standings
        if standing.done
    ]


def compare(baseline: Network, found: Network) -> str:
    """Two detectors side by side, within the width of a terminal; of several trainings the means."""
    codes = [
        [network.name, kind.replace("_", " "), format_code(code)]
        for network in (baseline, found)
        for kind, code in vars(network.architecture).items()
    ]
    rows = []
    for name, before in baseline.numbers.items():
        after = found.numbers.get(name)
        rows.append([name, before, after, None if None in (before, after) else after - before])
    head = ["", baseline.name, found.name, "difference"]
    table = tabulate(rows, head, "github", floatfmt=("", ".2f", ".2f", "+.2f"), missingval="-")
    return f"{tabulate(codes, tablefmt='plain')}\n\n{table}"
