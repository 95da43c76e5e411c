"""Latency as the cost of a stage code: which codes have to be measured, and what the others take."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from random import Random

import numpy as np

from detectron2.config import CfgNode

from ..analysis.latency import Latency
from ..analysis.latency_table import LatencyTable
from ..architecture import Code
from ..config import get_architecture
from ..spaces import StageSpace
from ..spaces.stage import cost_range
from .stage_search import margin

LATENCY_FILE = "latency.csv"
WHOLE = 200  # spaces of so many codes are measured whole
DRAWN = 16  # codes by chance among those that the model is fitted to
MOST = 2000  # codes of a larger space that are measured


def latency_file(cfg: CfgNode) -> str:
    """The table of a search: ``SEARCH.LATENCY.FILE``, or the one that it measures itself."""
    return cfg.SEARCH.LATENCY.FILE or os.path.join(cfg.OUTPUT_DIR, LATENCY_FILE)


class NotMeasured(ValueError):
    """What a budget takes is not known yet; the message is what has to be measured."""


@dataclass(frozen=True)
class AdditiveModel:
    """Latency as a sum over blocks, by least squares of the relative errors.

    Attributes:
        coefficients: ms; of the detector without blocks, and of a block in each stage.
        error: the largest relative error with which a measured code is predicted from the others.
    """

    coefficients: np.ndarray
    error: float

    @classmethod
    def fit(cls, measured: Mapping[Code, float]) -> AdditiveModel:
        """
        Args:
            measured: ms, by stage code.
        """
        design = _design(measured) / np.array(list(measured.values()))[:, None]
        inverse = np.linalg.pinv(design)
        coefficients = inverse.sum(1)
        own = np.einsum("ij,ji->i", design, inverse)  # share of a code in its own prediction
        told = own < 1 - 1e-6  # by the others
        errors = np.abs(1 - design @ coefficients)[told] / (1 - own[told])
        return cls(coefficients, float(errors.max(initial=0)))

    def predict(self, codes: Collection[Code]) -> np.ndarray:
        """Ms."""
        return _design(codes) @ self.coefficients


def _design(codes: Collection[Code]) -> np.ndarray:
    blocks = np.array(list(codes), dtype=float)
    return np.concatenate([np.ones((len(blocks), 1)), blocks], axis=1)


@dataclass(frozen=True)
class Latencies:
    """What is known of the latencies of a space, and what a search has still to know.

    A small space is measured whole. In a larger one, some codes tell those of all others by an
    :class:`AdditiveModel`; what it puts so near to a budget that the budget may take it is measured,
    and what was measured decides. All else is not measured, and no budget takes it.

    Attributes:
        space: of the stage codes.
        measured: ms, by stage code.
        baseline: stage code that is measured in any case, whether it is in the space or not.
        budgets: ms; empty is the latency of the baseline.
        tolerance, at_most: as in :func:`~.stage_search.eligible_codes`.
    """

    space: StageSpace
    measured: Mapping[Code, float]
    baseline: Code
    budgets: tuple[float, ...]
    tolerance: float
    at_most: bool

    @classmethod
    def of(cls, cfg: CfgNode, space: StageSpace, rows: Mapping[Code, Latency]) -> Latencies:
        """
        Args:
            cfg: of the search.
            rows: of its table.
        """
        search, measured = cfg.SEARCH, {code: row.median for code, row in rows.items()}
        at_most = search.BUDGET_IS == "at_most"
        baseline = get_architecture(cfg).stage_code
        return cls(space, measured, baseline, tuple(search.BUDGETS), search.TOLERANCE, at_most)

    @classmethod
    def read(cls, cfg: CfgNode, space: StageSpace) -> Latencies:
        """All that a search needs, from its table.

        Raises:
            NotMeasured: that is not there.
            ValueError: there is a file that is no table.
        """
        path = latency_file(cfg)
        there = os.path.isfile(path)
        latencies = cls.of(cfg, space, LatencyTable.read(path).rows if there else {})
        if latencies.missing:
            raise NotMeasured(latencies.describe_missing())
        return latencies

    def describe_missing(self) -> str:
        """What is to be measured, in one sentence."""
        count, most = len(self.missing), self.space.size
        if self.is_whole:
            return f"the latency of {count:,} stage codes"
        if self.measured.keys() >= set(self._first):
            return (
                f"the latency of {count:,} of {most:,} stage codes, which are near to the budgets"
            )
        return (
            f"the latency of {count:,} of {most:,} stage codes, and then of those which these show "
            "to be near to the budgets"
        )

    def __call__(self, code: Code) -> float:
        """Ms, measured or else predicted."""
        if code in self.measured:
            return self.measured[code]
        return float(self._model.predict([code])[0])

    @property
    def missing(self) -> list[Code]:
        """The codes that have to be measured next; empty where all is known that the budgets need.

        Raises:
            ValueError: these are too many.
        """
        missing = [code for code in self._first if code not in self.measured]
        if missing or self.is_whole:
            return missing
        return [code for code in self._near if code not in self.measured]

    @property
    def is_whole(self) -> bool:
        """Whether all codes of the space are measured."""
        return self.space.size <= WHOLE

    @cached_property
    def _first(self) -> list[Code]:
        """The baseline, and all codes or else those of the model: the shortest and the longest, each
        of them with one stage of the other, and some by chance."""
        if self.is_whole:
            return list(dict.fromkeys([self.baseline, *self.space]))
        shortest, longest = (tuple(c[end] for c in self.space.choices) for end in (0, -1))
        codes = [self.baseline, shortest, longest]
        for unit in self.space.units:
            for code, other in ((shortest, longest), (longest, shortest)):
                codes.append(code[: unit.index] + (other[unit.index],) + code[unit.index + 1 :])
        rng = Random(0)
        codes += [self.space.sample(rng) for _ in range(DRAWN)]
        return list(dict.fromkeys(codes))

    @cached_property
    def _model(self) -> AdditiveModel:
        return AdditiveModel.fit({code: self.measured[code] for code in self._first})

    @cached_property
    def _near(self) -> list[Code]:
        """Those that may fit a budget, in lexicographic order."""
        codes = list(self.space)
        predicted, error = self._model.predict(codes), self._model.error + 1e-9
        near = np.zeros(len(codes), dtype=bool)
        for budget in self.budgets or [self.measured[self.baseline]]:
            least, most = cost_range(budget, margin(budget, self.tolerance), self.at_most)
            highest, lowest = predicted * (1 + error), predicted * (1 - error)
            near |= (highest >= float(least)) & (lowest <= float(most))
        if near.sum() > MOST:
            raise ValueError(
                f"SEARCH.TOLERANCE is {self.tolerance}: so near to the budgets in ms are "
                f"{near.sum():,} of {len(codes):,} stage codes, predicted to {error:.1%}; at most "
                f"{MOST:,} can be measured. Expected a smaller tolerance, above 0, more "
                "SEARCH.LATENCY.RUNS or a quieter machine for better predictions, other budgets, or "
                "fewer MODEL.SUPERNET.STAGE_CHOICES"
            )
        return [code for code, is_near in zip(codes, near) if is_near]
