"""The outcome of a recipe: both networks with all seeds, a verdict, and the resulting detector."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ..architecture import Architecture, format_code, parse_code
from ..evaluation.paired_comparison import PairedComparison
from ..files import read_json, write_json
from ..search.ranking import is_complete
from ..search.result import RESULT_FILE

BASELINE, FOUND = "baseline", "found"


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def difference(baseline: float | None, found: float | None) -> float | None:
    """Compute found minus baseline. None if one of them is unknown."""
    return None if baseline is None or found is None else found - baseline


@dataclass(frozen=True)
class TrainedNetwork:
    """One of the two networks, trained with n seeds.

    Attributes:
        architecture: codes of the network.
        gmacs: multiply-adds of the detector in G, for an image of 800x1088. None if they cannot be
            counted.
        parameters: number of parameters in millions. None as above.
        seeds: ``SEED`` of each training.
        folders: folder of each training, relative to that of the outcome.
        aps: metric of each training on the first test set, in percent. None if it has no value, as
            on a test set without annotations.
    """

    architecture: Architecture
    gmacs: float | None
    parameters: float | None
    seeds: tuple[int, ...]
    folders: tuple[str, ...]
    aps: tuple[float | None, ...]

    @property
    def mean(self) -> float | None:
        """The mean of the metric over the seeds. None if one of them has no value."""
        return float(np.mean(self.aps)) if is_complete(self.aps) else None

    @property
    def sd(self) -> float | None:
        """The standard deviation over the seeds. None with a single seed, or as above."""
        if not is_complete(self.aps) or len(self.aps) < 2:
            return None
        return float(np.std(self.aps, ddof=1))

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
        reason: one sentence, which also says which of the two it is.
    """

    network: str
    reason: str


@dataclass(frozen=True)
class SearchRanking:
    """The quality of a supernet's ranking.

    Attributes:
        step: name of the search.
        codes: number of codes that it ranked under the budget.
        undistinguished: number of codes that cannot be distinguished from the leader. None if this
            was not computed.
        alone: for each rung of its short list, the :class:`RankAgreement` between the supernet's
            scores and the trainings of the rung as JSON, with their "iterations". Empty without a
            short list.
        checkpoints: each pair of the supernet's checkpoints with Kendall's tau between their scores
            of the short list's codes, or None if it is undefined. Empty if there was only one.
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
    """The images that were used to train, to choose and to test.

    These are disjoint, as otherwise the recipe would have been refused.

    Attributes:
        trained: number of images of each dataset on which any detector of the recipe is trained.
        chose: number of images of each dataset by which architectures were chosen.
        tested: number of images of each test set. The metric is that on the first one.
        looks: number of times that networks were tested on the first test set, including tests
            during training. Only the verdict depends on them.
        near_copies: for each pair of parts, the number of images in the first that have a
            near-duplicate in the second, by names such as "test in archtrain". Empty if they were
            not looked for.
        not_resampled: why the comparison lacks resamples of the test images. Empty if it has them.
    """

    trained: Mapping[str, int]
    chose: Mapping[str, int]
    tested: Mapping[str, int]
    looks: int
    near_copies: Mapping[str, int] = field(default_factory=dict)
    not_resampled: str = ""


@dataclass(frozen=True)
class Outcome:
    """The outcome under one budget, once all trainings of both networks have finished.

    Attributes:
        budget: name of the budget. Empty if there is only one.
        cost: costs of both networks by :data:`BASELINE` and :data:`FOUND`, under the name of the
            unit of ``SEARCH.COST``. Empty without a stage search.
        metric: metric by which they are compared, such as "bbox/AP".
        baseline, found: the two networks, which are equal if the baseline itself was found.
        comparison: comparison of the two, found minus baseline. None if a training lacks the
            metric.
        handed_over: the network in ``final.yaml``, and why.
        ranking: quality of the ranking of each search, in order.
        data: the images and their uses.
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
        """The verdict, such as "better", or "not compared" without a metric."""
        return self.comparison.verdict if self.comparison else "not compared"

    @property
    def sentence(self) -> str:
        """The verdict as a sentence."""
        under = f"Under budget {self.budget}, " if self.budget else ""
        if self.comparison and self.finds_baseline:
            return _sentence(f"{under}nothing better than the baseline was found.")
        words = {
            "better": "better than the baseline",
            "not shown": "not shown to be better than the baseline",
            "worse": "worse than the baseline",
            "not compared": "not compared with the baseline",
        }
        return _sentence(f"{under}what was found is {words[self.verdict]}.")

    @property
    def reason(self) -> str:
        """The reason for the verdict, as a sentence."""
        return self.comparison.reason if self.comparison else f"A test has no {self.metric}."

    @property
    def headline(self) -> str:
        """A few sentences on the verdict, the reason, and the resulting detector."""
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
        """Create an outcome from the result of :meth:`as_json`."""
        return cls(
            content["budget"],
            content["cost"],
            content["metric"],
            TrainedNetwork.from_json(content[BASELINE]),
            TrainedNetwork.from_json(content[FOUND]),
            content["comparison"] and PairedComparison.from_json(content["comparison"]),
            HandedOver(**content["handed_over"]),
            tuple(SearchRanking.from_json(ranking) for ranking in content["ranking"]),
            DataStatement(**content["data"]),
        )

    def write(self, folder: str) -> None:
        """Write ``result.json``. It contains no times, so that the same run writes the same bytes."""
        write_json(os.path.join(folder, RESULT_FILE), self.as_json())

    @classmethod
    def read(cls, folder: str) -> Outcome:
        """Read what :meth:`write` has written.

        Raises:
            OSError: there is no such file.
            ValueError: the file does not hold an outcome.
        """
        path = os.path.join(folder, RESULT_FILE)
        try:
            return cls.from_json(read_json(path))
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path} is no result of a recipe: {error!r}") from None
