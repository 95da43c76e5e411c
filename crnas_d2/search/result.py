"""The result of one step of the search, and its files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import yaml
from tabulate import tabulate

from ..architecture import Architecture, Code, format_code, parse_code
from ..files import read_json, write_json, write_signed
from .limits import Limits
from .ranking import Ranking, ScoredCode

ARCHITECTURE_FILE = "architecture.yaml"
FINAL_FILE = "final.yaml"
RESULT_FILE = "result.json"


@dataclass(frozen=True)
class SearchResult:
    """The architecture that a step found, and those that it was compared with.

    Attributes:
        step: "stage" or "operation".
        metric: the metric that was maximized.
        architecture: the best architecture.
        rankings: rankings of the stage codes by budget, or of the operation codes under "all".
        undistinguished: for each ranking, the number of codes that cannot be distinguished from its
            first one on other images of the same kind. None if it is unknown.
        survivors: for each step of the greedy search, the codes that it kept and their scores.
        statuses: "done", "failed" or "dropped" for each evaluated architecture.
        limits: limits on the stage codes. None for operation codes, which have none.
    """

    step: str
    metric: str
    architecture: Architecture
    rankings: Mapping[str, Ranking]
    undistinguished: Mapping[str, int | None]
    survivors: Sequence[Sequence[tuple[Code, float]]]
    statuses: Mapping[Code, str]
    limits: Limits | None = None

    @property
    def ranking(self) -> Ranking:
        """The ranking under the first budget."""
        return next(iter(self.rankings.values()))

    def table(self, rows: int = 10) -> str:
        """Format the best architectures of each ranking as a table."""
        tables = []
        cost = self.limits.cost if self.limits else None
        unit = [cost.unit] if cost else []
        for budget, ranking in self.rankings.items():
            best = [
                [i, format_code(code), *([f"{cost(code):.5g}"] if cost else []), score]
                for i, (code, score) in enumerate(ranking.scored[:rows], 1)
            ]
            of = "" if len(self.rankings) == 1 else f"Budget {budget} {unit[0]}\n"
            head = ["rank", f"{self.step} code", *unit, self.metric]
            tables.append(of + tabulate(best, head, "github"))
            if ranking.ties:
                tables.append(
                    f"The first {len(ranking.ties)} are equal; the smallest code is taken."
                )
            level = self.undistinguished[budget]
            if level is not None:
                tables.append(
                    f"{level} of the {len(ranking.scored) - 1} others cannot be told from the first one: "
                    "on other images of the same kind they might be as good."
                )
        for status in ("failed", "dropped"):
            codes = self._codes_that(status)
            if codes:
                more = f" and {len(codes) - rows} more" if len(codes) > rows else ""
                tables.append(f"{status.capitalize()}: {', '.join(codes[:rows])}{more}")
        return "\n\n".join(tables)

    def _codes_that(self, status: str) -> list[str]:
        return [format_code(code) for code, s in sorted(self.statuses.items()) if s == status]

    def write(self, folder: str, searched: Mapping[str, Any]) -> None:
        """Write the architecture as a config, and the complete result.

        The files contain no times, so that the same search writes the same bytes.

        Args:
            folder: folder of the files.
            searched: what the architectures were chosen from, and what they were compared on.
        """
        result = {
            "step": self.step,
            "searched": searched,
            "metric": self.metric,
            "architecture": asdict(self.architecture),
            "counts": {s: len(self._codes_that(s)) for s in ("done", "failed", "dropped")},
            "limits": self.limits and self.limits.as_json(),
            "rankings": {
                budget: {**_as_json(ranking), "undistinguished": self.undistinguished[budget]}
                for budget, ranking in self.rankings.items()
            },
            "failed": self._codes_that("failed"),
            "dropped": self._codes_that("dropped"),
            "survivors": [
                [[format_code(code), score] for code, score in step] for step in self.survivors
            ],
        }
        write_architecture(folder, self.architecture)
        write_json(os.path.join(folder, RESULT_FILE), result)


def is_result(path: str) -> bool:
    """Tell whether a file is the result of a search or of a recipe."""
    try:
        content = read_json(path)
    except ValueError:
        return False
    keys = content.keys() if isinstance(content, dict) else set()
    return {"architecture", "rankings"} <= keys or {"comparison", "handed_over"} <= keys


def _as_json(ranking: Ranking) -> dict[str, Any]:
    return {
        "best": format_code(ranking.best) if ranking.scored else None,
        "ties": [format_code(code) for code in ranking.ties],
        "ranking": [[format_code(code), score] for code, score in ranking.scored],
    }


def write_architecture(folder: str, architecture: Architecture) -> None:
    """Write ``architecture.yaml``, see :func:`architecture_keys`."""
    write_signed(os.path.join(folder, ARCHITECTURE_FILE), as_yaml(architecture_keys(architecture)))


def architecture_keys(architecture: Architecture) -> dict[str, Any]:
    """Get the config keys that make a backbone have this architecture."""
    codes = {
        "STAGE_CODE": list(architecture.stage_code),
        "OPERATION_CODE": list(architecture.operation_code),
    }
    return {"MODEL": {"CR": codes}}


def read_architecture(folder: str) -> Architecture:
    """Read the architecture that a step found.

    Raises:
        FileNotFoundError, ValueError: the step has not finished, or its result is damaged.
    """
    path = os.path.join(folder, RESULT_FILE)
    try:
        return Architecture(**read_json(path)["architecture"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} is no result of a search: {error!r}") from None


def read_architectures(folder: str) -> dict[str, Architecture]:
    """Read the architectures that a step found, by budget.

    The empty name stands for the first budget, or for the only architecture.

    Raises:
        FileNotFoundError, ValueError: see :func:`read_architecture`.
    """
    found = {"": read_architecture(folder)}
    result = read_json(os.path.join(folder, RESULT_FILE))
    if result["step"] == "stage":
        rankings = result["rankings"].items()
        best = {budget: ranking["best"] for budget, ranking in rankings if ranking["best"]}
        found |= {budget: Architecture(parse_code(code)) for budget, code in best.items()}
    return found


def read_ranking(folder: str, budget: str = "") -> Ranking:
    """Read the ranking of the stage codes under a budget, or of the operation codes.

    The empty name stands for the first budget, or for the only ranking.

    Raises:
        FileNotFoundError, ValueError: see :func:`read_architecture`.
    """
    path = os.path.join(folder, RESULT_FILE)
    try:
        rankings = read_json(path)["rankings"]
        ranking = rankings[budget] if budget in rankings else next(iter(rankings.values()))
        scored = ranking["ranking"]
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no result of a search: {error!r}") from None
    return Ranking(tuple(ScoredCode(parse_code(code), score) for code, score in scored))


def as_yaml(content: Mapping[str, Any]) -> str:
    """Format a config as YAML, with each list on one line."""
    return yaml.safe_dump(dict(content), sort_keys=False, default_flow_style=None, width=100)
