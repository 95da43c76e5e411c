"""The two networks that a procedure compares: the baseline and the one that was found."""

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
from ..search.ranking import is_complete
from .outcome import difference
from .state import MODEL_FILE
from .steps import Kind, Step

if TYPE_CHECKING:
    from .procedure import Procedure

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Training:
    """One finished training of a final detector.

    Attributes:
        seed: its ``SEED``.
        folder: folder of its products.
        results: results of its evaluation in percent, by task and metric, and above these by test
            set if there are several. None for a number that is not finite, such as the AP of small
            objects if there are none. Empty without an evaluation.
    """

    seed: int
    folder: str
    results: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)

    @property
    def weights(self) -> str:
        """The file of the trained weights."""
        return os.path.join(self.folder, MODEL_FILE)


@dataclass(frozen=True)
class Network:
    """A final detector.

    Attributes:
        name: "baseline" or "found".
        cfg: config of the detector.
        trainings: its trainings in the order of their seeds. Empty if it is not trained.
    """

    name: str
    cfg: CfgNode
    trainings: Sequence[Training] = ()

    @property
    def weights(self) -> str:
        """The weights of the first training. Empty for a network that is not trained."""
        return self.trainings[0].weights if self.trainings else ""

    @property
    def results(self) -> Mapping[str, Mapping[str, float | None]]:
        """The results of the first training. Empty for a network that is not trained."""
        return self.trainings[0].results if self.trainings else {}

    @cached_property
    def architecture(self) -> Architecture:
        """The codes of the network."""
        return get_architecture(self.cfg)

    @cached_property
    def cost(self) -> DetectorCost | None:
        """The multiply-adds and parameters, module by module, for an image of 800x1088.

        It is None for a detector that cannot be counted, such as one with PointRend.
        """
        try:
            return analyze_detector(self.cfg)
        except ValueError as error:
            logger.warning(f"The cost of the network {self.name!r} is not told: {error}")
            return None

    @property
    def first_results(self) -> Mapping[str, Mapping[str, float | None]]:
        """The results of the first training on the first test set."""
        return self._on_first_test_set(self.results)

    def _on_first_test_set(
        self, results: Mapping[str, Any]
    ) -> Mapping[str, Mapping[str, float | None]]:
        """Select the first test set, as Detectron2 nests results by the name if there are several."""
        tests = self.cfg.DATASETS.TEST
        return results.get(tests[0], {}) if len(tests) > 1 else results

    def values(self, task: str, name: str) -> tuple[float | None, ...]:
        """Get a metric of each training on the first test set, in percent. None if it has no value."""
        results = (self._on_first_test_set(training.results) for training in self.trainings)
        return tuple(result.get(task, {}).get(name) for result in results)

    @property
    def main_metrics(self) -> dict[str, float | None]:
        """The metrics over all categories on the first test set, by names such as "bbox AP50".

        They are means over the trainings, or None if a training has no value.
        """
        names = [
            (task, name)
            for task, metrics in self.first_results.items()
            for name in metrics
            if "-" not in name
        ]
        values = {f"{task} {name}": self.values(task, name) for task, name in names}
        return {
            name: statistics.fmean(of_name) if is_complete(of_name) else None
            for name, of_name in values.items()
        }

    @property
    def numbers(self) -> dict[str, float | None]:
        """The numbers to compare: the main metrics in percent, and the cost if it is known."""
        cost = self.cost
        sizes = {"GMACs": cost.macs / 1e9, "M parameters": cost.parameters / 1e6} if cost else {}
        return {**self.main_metrics, **sizes}


def networks_of(procedure: Procedure, budget: str = "") -> list[Network]:
    """Get the baseline and, once a search has finished, the network found under a budget."""
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
    """List the trainings of both networks under a budget."""
    return [
        step
        for step in procedure.steps
        if step.budget == budget
        and step.config == procedure.recipe.names["FINAL"]
        and step.kind is Kind.TRAINING
    ]


def _trainings(procedure: Procedure, budget: str, *, found: bool) -> list[Training]:
    """List the finished trainings of one of the two networks, in the order of their seeds."""
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
    """Format two detectors side by side, using means over their trainings, to fit a terminal.

    A baseline that is itself what was found has one column.
    """
    same = baseline.architecture == found.architecture
    codes = [
        [network.name, kind.replace("_", " "), format_code(code)]
        for network in (baseline, found)[: 1 if same else 2]
        for kind, code in vars(network.architecture).items()
    ]
    rows = []
    for name, before in baseline.numbers.items():
        after = found.numbers.get(name)
        rows.append([name, before, after, difference(before, after)])
    head = ["", baseline.name, found.name, "difference"]
    if same:
        rows, head = [row[:2] for row in rows], head[:2]
    table = tabulate(rows, head, "github", floatfmt=("", ".2f", ".2f", "+.2f"), missingval="-")
    return f"{tabulate(codes, tablefmt='plain')}\n\n{table}"
