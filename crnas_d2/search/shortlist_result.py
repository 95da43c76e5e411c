"""What a short list has found, and the file that says so."""

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
    """
    Attributes:
        share: of the schedule of the final detector.
        iterations: of each training.
        images: that pass forward and backward in each training.
        scores: of each candidate, by seed, in percent; None where a training failed.
        went_on: the candidates of the next rung; empty of the last one.
    """

    share: float
    iterations: int
    images: int
    scores: Mapping[Code, Sequence[float | None]]
    went_on: Sequence[Code] = ()

    @cached_property
    def means(self) -> dict[Code, float | None]:
        """Of each candidate over the seeds; None where a training failed."""
        return {code: mean_score(scores) for code, scores in self.scores.items()}


@dataclass(frozen=True)
class ShortlistResult:
    """The architecture that goes on, and those that it was trained beside.

    Attributes:
        of: "stage" or "operation", the codes that are compared.
        search: name of the step whose ranking it is made of.
        budget: of the search, where there are several.
        metric: that was maximized, on archval.
        seeds: of the trainings of each candidate.
        candidates: the baseline first, then as in the ranking, then those at random.
        rungs: in order; empty where there was but one candidate.
        winner: its code.
        architecture: of the winner.
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
        """What the others had to beat."""
        return next(c for c in self.candidates if c.origin == BASELINE)

    @property
    def scores(self) -> dict[Code, Sequence[float | None]]:
        """Of each candidate by seed, in the longest of its trainings."""
        return {code: scores for rung in self.rungs for code, scores in rung.scores.items()}

    def table(self) -> str:
        """The mean of each candidate in each rung."""
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
        """Write the architecture as a config, and all of the result. It has no times in it."""
        write_architecture(folder, self.architecture)
        write_json(os.path.join(folder, RESULT_FILE), self.as_json())

    def as_json(self) -> dict[str, Any]:
        """What :meth:`read` takes."""
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
        """Of the folder of a short list.

        Raises:
            FileNotFoundError, ValueError: it has not ended, or its result is damaged.
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
