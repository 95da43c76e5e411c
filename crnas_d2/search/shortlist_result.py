"""The result of a short list, and its file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from tabulate import tabulate

from ..architecture import Architecture, Code, format_code, parse_code
from ..files import read_json, write_json
from .result import RESULT_FILE, write_architecture
from .shortlisting import BASELINE, Candidate, mean_score


@dataclass(frozen=True)
class RungResult:
    """The result of one rung.

    Attributes:
        share: share of the final detector's schedule.
        iterations: number of iterations of each training.
        images: number of images in the forward and backward passes of each training.
        scores: scores of each candidate by seed, in percent. None for a training that failed.
        went_on: the candidates of the next rung. Empty for the last rung.
    """

    share: float
    iterations: int
    images: int
    scores: Mapping[Code, Sequence[float | None]]
    went_on: Sequence[Code] = ()

    @cached_property
    def means(self) -> dict[Code, float | None]:
        """The mean of each candidate over the seeds. None if a training failed."""
        return {code: mean_score(scores) for code, scores in self.scores.items()}


@dataclass(frozen=True)
class ShortlistResult:
    """The architecture that a short list selected, and its competitors.

    Attributes:
        of: "stage" or "operation", the kind of code that is compared.
        search: name of the step whose ranking the candidates come from.
        budget: budget of the search, if it has several.
        metric: the metric that was maximized on archval.
        seeds: seeds of the trainings of each candidate.
        candidates: the baseline, followed by the codes of the ranking in order, and random ones.
        rungs: the rungs in order. Empty if there was only one candidate.
        winner: code of the winner.
        architecture: architecture of the winner.
    """

    of: str
    search: str
    budget: str
    metric: str
    seeds: Sequence[int]
    candidates: Sequence[Candidate]
    rungs: Sequence[RungResult]
    winner: Code
    architecture: Architecture

    @property
    def baseline(self) -> Candidate:
        """The candidate that the others had to beat."""
        return next(c for c in self.candidates if c.origin == BASELINE)

    @property
    def scores(self) -> dict[Code, Sequence[float | None]]:
        """The scores of each candidate by seed, from its longest trainings."""
        return {code: scores for rung in self.rungs for code, scores in rung.scores.items()}

    def table(self) -> str:
        """Format the mean of each candidate in each rung as a table."""
        rows = []
        for candidate in self.candidates:
            means = [rung.means.get(candidate.code) for rung in self.rungs]
            mark = "wins" if candidate.code == self.winner else ""
            code, origin, rank = format_code(candidate.code), candidate.origin, candidate.rank
            rows.append([code, origin, rank, *means, mark])
        rungs = [f"{rung.iterations:,} iterations" for rung in self.rungs]
        head = [f"{self.of} code", "origin", "rank", *rungs, ""]
        return tabulate(rows, head, "github", floatfmt=".2f")

    def write(self, folder: str) -> None:
        """Write the architecture as a config, and the complete result. The files contain no times."""
        write_architecture(folder, self.architecture)
        write_json(os.path.join(folder, RESULT_FILE), self.as_json())

    def as_json(self) -> dict[str, Any]:
        """Export the result in the format that :meth:`read` takes."""
        return {
            "step": "shortlist",
            **asdict(self),
            "candidates": [{**asdict(c), "code": format_code(c.code)} for c in self.candidates],
            "rungs": [
                {
                    **asdict(rung),
                    "scores": {format_code(code): s for code, s in rung.scores.items()},
                    "went_on": list(map(format_code, rung.went_on)),
                }
                for rung in self.rungs
            ],
            "winner": format_code(self.winner),
        }

    @classmethod
    def read(cls, folder: str) -> ShortlistResult:
        """Read the result from the folder of a short list.

        Raises:
            FileNotFoundError, ValueError: the short list has not finished, or its result is
                damaged.
        """
        path = os.path.join(folder, RESULT_FILE)
        content = read_json(path)
        try:
            if content.pop("step") != "shortlist":
                raise ValueError("it is of another step")
            return cls(
                **{
                    **content,
                    "candidates": [
                        Candidate(**{**c, "code": parse_code(c["code"])})
                        for c in content["candidates"]
                    ],
                    "rungs": [
                        RungResult(
                            **{
                                **rung,
                                "scores": {parse_code(c): s for c, s in rung["scores"].items()},
                                "went_on": list(map(parse_code, rung["went_on"])),
                            }
                        )
                        for rung in content["rungs"]
                    ],
                    "winner": parse_code(content["winner"]),
                    "architecture": Architecture(**content["architecture"]),
                }
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is no result of a short list: {error!r}") from None
