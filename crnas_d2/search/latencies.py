"""Latency as the cost of a stage code: which codes to measure, and predictions for the others."""

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
WHOLE = 200  # spaces of up to this many codes are measured completely
DRAWN = 16  # random codes among those that the model is fitted to
MOST = 2000  # maximum number of codes to measure near the budgets of a larger space


def latency_file(cfg: CfgNode) -> str:
    """Get the path of a search's latency table: ``SEARCH.LATENCY.FILE``, or its own."""
    return cfg.SEARCH.LATENCY.FILE or os.path.join(cfg.OUTPUT_DIR, LATENCY_FILE)


class NotMeasured(ValueError):
    """Latencies that the budgets depend on are missing. The message says what has to be measured."""


@dataclass(frozen=True)
class AdditiveModel:
    """Latency as a sum over blocks, fitted by least squares of the relative errors.

    Attributes:
        coefficients: latency in ms of the detector without blocks, and of one block in each stage.
        error: largest relative error of predicting a measured code from all others (leave-one-out).
    """

    coefficients: np.ndarray
    error: float

    @classmethod
    def fit(cls, measured: Mapping[Code, float]) -> AdditiveModel:
        """Fit the model.

        Args:
            measured: latency in ms by stage code.
        """
        design = _design(measured) / np.array(list(measured.values()))[:, None]
        inverse = np.linalg.pinv(design)
        coefficients = inverse.sum(1)
        # leverage: weight of a code in its own prediction
        own = np.einsum("ij,ji->i", design, inverse)
        told = own < 1 - 1e-6  # can be predicted from the others
        errors = np.abs(1 - design @ coefficients)[told] / (1 - own[told])
        return cls(coefficients, float(errors.max(initial=0)))

    def predict(self, codes: Collection[Code]) -> np.ndarray:
        """Predict the latencies in ms."""
        return _design(codes) @ self.coefficients


def _design(codes: Collection[Code]) -> np.ndarray:
    blocks = np.array(list(codes), dtype=float)
    return np.concatenate([np.ones((len(blocks), 1)), blocks], axis=1)


@dataclass(frozen=True)
class Latencies:
    """The known latencies of a space, and what a search still has to measure.

    A small space is measured completely. In a larger one, an :class:`AdditiveModel` fitted to some
    codes predicts all others. Codes that may fit a budget within the model's error are measured,
    and the measurement decides. All other codes are not measured, and no budget admits them.

    Attributes:
        space: space of the stage codes.
        measured: latency in ms by stage code.
        baseline: stage code that is always measured, whether or not it is in the space.
        budgets: budgets in ms. If empty, the latency of the baseline is the budget.
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
        """Create the latencies from a config and a table.

        Args:
            cfg: config of the search.
            space: space of the stage codes.
            rows: rows of its latency table.
        """
        search, measured = cfg.SEARCH, {code: row.median for code, row in rows.items()}
        at_most = search.BUDGET_IS == "at_most"
        baseline = get_architecture(cfg).stage_code
        return cls(space, measured, baseline, tuple(search.BUDGETS), search.TOLERANCE, at_most)

    @classmethod
    def read(cls, cfg: CfgNode, space: StageSpace) -> Latencies:
        """Read all latencies that a search needs from its table.

        Raises:
            NotMeasured: some of them are missing.
            ValueError: the file is not a latency table.
        """
        path = latency_file(cfg)
        there = os.path.isfile(path)
        latencies = cls.of(cfg, space, LatencyTable.read(path).rows if there else {})
        if latencies.missing:
            raise NotMeasured(latencies.describe_missing())
        return latencies

    def describe_missing(self) -> str:
        """Describe in one sentence what has to be measured."""
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
        """Get the latency of a code in ms: the measured one, or else the predicted one."""
        if code in self.measured:
            return self.measured[code]
        return float(self._model.predict([code])[0])

    @property
    def missing(self) -> list[Code]:
        """The codes to measure next. Empty once everything that the budgets need is known.

        Raises:
            ValueError: there are too many of them.
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
        """The baseline, and all codes of a small space, or else those that the model is fitted to.

        The latter are the shortest and the longest code, each of these with one stage of the other,
        and some random codes.
        """
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
        """The codes that may fit a budget, in lexicographic order."""
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
