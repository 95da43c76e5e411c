"""A finished search, as read from its folder."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from detectron2.config import CfgNode

from ..architecture import Architecture, Code, parse_code
from ..config import read_config
from ..files import read_json
from ..procedure.networks import Network
from ..procedure.search_extent import get_space
from ..search.cost import get_cost
from ..search.ledger import Ledger, Records
from ..search.ranking import ScoredCode, rank
from ..search.result import RESULT_FILE, read_architectures
from ..search.trial import Trial
from ..spaces import OperationSpace, StageSpace
from .charts import draw_depths, draw_dilations, draw_greedy_path
from .themes import Chart


@dataclass(frozen=True)
class SearchRecord:
    """A finished search.

    Attributes:
        folder: ``OUTPUT_DIR`` of the search.
        cfg: config of the search.
        result: content of its ``result.json``.
        records: content of its ledger.
        final: detector whose multiply-adds are listed.
        budget: the only budget to show. Empty shows all.
    """

    folder: str
    cfg: CfgNode
    result: Mapping[str, Any]
    records: Records
    final: Network
    budget: str = ""

    @classmethod
    def read(cls, folder: str, final: Network, budget: str = "") -> SearchRecord:
        """Read a search.

        Raises:
            OSError, ValueError: the search has not finished, or a file of it is damaged.
        """
        return cls(
            folder,
            read_config(os.path.join(folder, "config.yaml")),
            read_json(os.path.join(folder, RESULT_FILE)),
            Ledger.read(os.path.join(folder, "ledger.sqlite")),
            final,
            budget,
        )

    @property
    def of_stages(self) -> bool:
        """Whether stage codes were searched. Otherwise operation codes were."""
        return self.result["step"] == "stage"

    @property
    def metric(self) -> str:
        """The metric that was maximized in percent, such as "bbox/AP"."""
        return self.result["metric"]

    @cached_property
    def found(self) -> Architecture:
        """The architecture that the search chose."""
        found = read_architectures(self.folder)
        return found.get(self.budget, found[""])

    @cached_property
    def space(self) -> StageSpace | OperationSpace:
        """The space of the search."""
        return get_space(self.cfg)

    @cached_property
    def survivors(self) -> list[list[ScoredCode]]:
        """The partial codes that each step of the greedy search kept, best first."""
        return [_as_scored(step) for step in self.result["survivors"]]

    @cached_property
    def rankings(self) -> dict[str, dict[Code, float]]:
        """The scores of competing codes, best first, by a budget or a block of the greedy search."""
        if self.survivors:
            return self._greedy_rankings()
        return {
            f"budget {name}" if self.of_stages else "all": dict(_as_scored(ranking["ranking"]))
            for name, ranking in self._results.items()
        }

    @property
    def is_shared(self) -> bool:
        """Whether the search is for other budgets too, which are not shown."""
        return self.budget in self.result["rankings"]

    @property
    def _results(self) -> Mapping[str, Any]:
        """The results of each ranking that is shown."""
        rankings = self.result["rankings"]
        return {self.budget: rankings[self.budget]} if self.is_shared else rankings

    @property
    def unranked(self) -> list[Trial]:
        """The trials that failed or were dropped."""
        codes = [parse_code(text) for text in self.result["failed"] + self.result["dropped"]]
        return [self.records.trials[code] for code in codes]

    @property
    def undistinguished(self) -> list[str]:
        """For each ranking, how many codes cannot be distinguished from its first one, if known."""
        return [
            f"{ranking['undistinguished']} of the {len(ranking['ranking']) - 1} other codes"
            for ranking in self._results.values()
            if ranking.get("undistinguished") is not None
        ]

    @property
    def ties(self) -> list[list[str]]:
        """The codes that share the best score of a ranking."""
        return [ranking["ties"] for ranking in self._results.values() if ranking["ties"]]

    @property
    def metrics(self) -> list[str]:
        """The names of the metrics to list, beginning with the one that was maximized."""
        task = self.metric.split("/")[0]
        known = {name for trial in self.records.trials.values() for name in trial.metrics}
        names = [f"{task}/{name}" for name in ("AP", "AP50", "AP75", "APs", "APm", "APl")]
        return [self.metric, *(name for name in names if name in known and name != self.metric)]

    @cached_property
    def costs(self) -> dict[str, dict[Code, float]]:
        """The costs of the stage codes in the budget's unit, and in the backbone's multiply-adds.

        The latter are left out if they cannot be counted. Operation codes have no costs.
        """
        limits = self.result["limits"]
        if not limits or not isinstance(self.space, StageSpace):
            return {}
        limited = {parse_code(code): cost for code, cost in limits["costs"].items()}
        costs = {limits["unit"]: limited}
        if self.final.cost:
            count = get_cost("gmacs", self.cfg, self.space, self.final.cfg)
            costs.setdefault(count.unit, {code: count(code) for code in limited})
        return costs

    def charts(self, baseline: Architecture) -> list[Chart]:
        """Draw the figures of the search."""
        rankings, metric = self.rankings, self.metric
        if self.of_stages:
            return [
                Chart.draw(
                    f"{metric} against the blocks of each stage ({name})",
                    draw_depths,
                    *(self.space, scores, next(iter(scores)), baseline.stage_code, metric),
                )
                for name, scores in rankings.items()
                if scores
            ]
        if self.survivors:
            caption = "The way of the greedy search (Algorithm 1)"
            steps = list(rankings.values())
            return [
                Chart.draw(caption, draw_greedy_path, self.space, steps, self.survivors, metric)
            ]
        caption = f"Mean {metric} of the codes with a dilation in a block"
        found = self.found.operation_code
        return [Chart.draw(caption, draw_dilations, self.space, rankings["all"], found, metric)]

    def _greedy_rankings(self) -> dict[str, dict[Code, float]]:
        """Rank all extensions of each step of the greedy search."""
        rankings = {}
        parents: list[Code] = [()]
        for number, (unit, kept) in enumerate(zip(self.space.units, self.survivors), start=1):
            scores = {
                code: trial.metrics[self.metric]
                for code, trial in self.records.trials.items()
                if trial.status == "done"
                and self.metric in trial.metrics
                and len(code) == unit.index + 1
                and any(code[: len(parent)] == parent for parent in parents)
            }
            ranking = rank(list(scores), list(scores.values()))
            rankings[f"block {number}"] = dict(ranking.scored)
            parents = [code for code, _ in kept]
        return rankings


def _as_scored(pairs: Sequence[tuple[str, float]]) -> list[ScoredCode]:
    return [ScoredCode(parse_code(code), score) for code, score in pairs]
