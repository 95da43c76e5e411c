"""What a recipe ends with: both networks with all seeds, a verdict, and what is handed over."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ..architecture import Architecture, format_code, parse_code
from ..evaluation.paired_comparison import PairedComparison
from ..files import read_json, write_json
from ..search.result import RESULT_FILE

BASELINE, FOUND = "baseline", "found"


@dataclass(frozen=True)
class TrainedNetwork:
    """One of the two networks, trained with n seeds.

    Attributes:
        architecture: its codes.
        gmacs: multiply-adds of the detector in G, for an image of 800x1088; None where they cannot
            be counted.
        parameters: in millions; None as above.
        seeds: ``SEED`` of each training.
        folders: of each training, from that of the outcome.
        aps: the metric of each training on the first test set, in percent; None where it has none,
            such as the AP of a test set without annotations.
    """

    architecture: Architecture
    gmacs: float | None
    parameters: float | None
    seeds: tuple[int, ...]
    folders: tuple[str, ...]
    aps: tuple[float | None, ...]

    @property
    def mean(self) -> float | None:
        """Of the metric over the seeds; None where one has none."""
        return None if None in self.aps else float(np.mean(self.aps))

    @property
    def sd(self) -> float | None:
        """Standard deviation over the seeds; None with one seed, or as above."""
        return None if None in self.aps or len(self.aps) < 2 else float(np.std(self.aps, ddof=1))

    def as_json(self) -> dict[str, Any]:
        content = {**asdict(self), "mean": self.mean, "sd": self.sd}
        codes = content.pop("architecture")
        return {**{name: format_code(code) for name, code in codes.items()}, **content}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> TrainedNetwork:
        return cls(
            Architecture(*(parse_code(content[f"{kind}_code"]) for kind in ("stage", "operation"))),
            content["gmacs"],
            content["parameters"],
            *(tuple(content[name]) for name in ("seeds", "folders", "aps")),
        )


@dataclass(frozen=True)
class HandedOver:
    """The network in ``final.yaml``.

    Attributes:
        network: :data:`FOUND` or :data:`BASELINE`.
        reason: one sentence, which says of which the two it is, too.
    """

    network: str
    reason: str


@dataclass(frozen=True)
class SearchRanking:
    """How well a supernet has ranked.

    Attributes:
        step: name of the search.
        codes: that it has ranked, under the budget.
        undistinguished: how many of them cannot be told from the leader; None where that was not
            asked.
        alone: for each rung of its short list, :class:`RankAgreement` of the supernet's scores and
            the trainings of the rung, as JSON, with their "iterations"; empty without a short list.
        checkpoints: of the supernet, every two with Kendall's tau between their scores of the short
            list's codes, None where it has no value; empty where there was but one.
    """

    step: str
    codes: int
    undistinguished: int | None = None
    alone: tuple[Mapping[str, Any], ...] = ()
    checkpoints: tuple[tuple[str, str, float | None], ...] = ()

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> SearchRanking:
        alone, checkpoints = tuple(content["alone"]), tuple(map(tuple, content["checkpoints"]))
        return cls(**{**content, "alone": alone, "checkpoints": checkpoints})


@dataclass(frozen=True)
class DataStatement:
    """Which images trained, chose and tested. They are apart, or the recipe would not have begun.

    Attributes:
        trained: images of each data set that any detector of the recipe is trained on.
        chose: images of each data set by which architectures were chosen.
        tested: images of each test set; the metric is that on the first.
        looks: how often networks were tested on the first test set, tests while they were trained
            included. No choice depends on them but the verdict.
        near_copies: of each two parts, pictures of the first that have a near-copy in the second,
            by such names as "test in archtrain"; empty where they were not looked for.
        not_resampled: why the comparison is without resamples of the test images; empty where it
            has them.
    """

    trained: Mapping[str, int]
    chose: Mapping[str, int]
    tested: Mapping[str, int]
    looks: int
    near_copies: Mapping[str, int] = field(default_factory=dict)
    not_resampled: str = ""


@dataclass(frozen=True)
class Outcome:
    """Of one budget, once all trainings of both networks have ended.

    Attributes:
        budget: its name, of several; empty where there is one.
        cost: of both networks in the unit of ``SEARCH.COST``, by :data:`BASELINE` and
            :data:`FOUND`, under the name of the unit; empty without a stage search.
        metric: by which they are compared, such as "bbox/AP".
        baseline, found: the networks; one of them where the baseline itself was found.
        comparison: of the two, found less baseline; None where a training has no such metric.
        handed_over: what is in ``final.yaml``, and why.
        ranking: of each search, in order.
        data: which images did what.
    """

    budget: str
    cost: Mapping[str, Mapping[str, float | None]]
    metric: str
    baseline: TrainedNetwork
    found: TrainedNetwork
    comparison: PairedComparison | None
    handed_over: HandedOver
    ranking: Sequence[SearchRanking]
    data: DataStatement

    @property
    def finds_baseline(self) -> bool:
        """Whether the network that was found is the baseline itself."""
        return self.found.architecture == self.baseline.architecture

    @property
    def verdict(self) -> str:
        """Such as "better"; "not compared" without a metric."""
        return self.comparison.verdict if self.comparison else "not compared"

    @property
    def sentence(self) -> str:
        """The verdict."""
        words = {
            "better": "better than the baseline",
            "not shown": "not shown to be better than the baseline",
            "worse": "worse than the baseline",
            "not compared": "not compared with the baseline",
        }
        what = f"Under budget {self.budget}, what" if self.budget else "What"
        return f"{what} was found is {words[self.verdict]}."

    @property
    def reason(self) -> str:
        """Of the verdict, one sentence."""
        return self.comparison.reason if self.comparison else f"A test has no {self.metric}."

    @property
    def headline(self) -> str:
        """The verdict, why, and what is handed over, in a few sentences."""
        return f"{self.sentence} {self.reason} {self.handed_over.reason}"

    def as_json(self) -> dict[str, Any]:
        return {
            "budget": self.budget,
            "cost": self.cost,
            "metric": self.metric,
            BASELINE: self.baseline.as_json(),
            FOUND: self.found.as_json(),
            "comparison": self.comparison and self.comparison.as_json(),
            "handed_over": asdict(self.handed_over),
            "ranking": [asdict(ranking) for ranking in self.ranking],
            "data": asdict(self.data),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Outcome:
        """The inverse of :meth:`as_json`."""
        return cls(
            content["budget"],
            content["cost"],
            content["metric"],
            *(TrainedNetwork.from_json(content[name]) for name in (BASELINE, FOUND)),
            content["comparison"] and PairedComparison.from_json(content["comparison"]),
            HandedOver(**content["handed_over"]),
            tuple(SearchRanking.from_json(ranking) for ranking in content["ranking"]),
            DataStatement(**content["data"]),
        )

    def write(self, folder: str) -> None:
        """Into ``result.json``. There are no times in it: the same run writes the same bytes."""
        write_json(os.path.join(folder, RESULT_FILE), self.as_json())

    @classmethod
    def read(cls, folder: str) -> Outcome:
        """The inverse of :meth:`write`.

        Raises:
            OSError: there is no such file.
            ValueError: it is none of an outcome.
        """
        path = os.path.join(folder, RESULT_FILE)
        try:
            return cls.from_json(read_json(path))
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path} is no result of a recipe: {error!r}") from None
