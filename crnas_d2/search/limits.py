"""The limits on the cost of stage codes, the constraint of equation (1), from a config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from detectron2.config import CfgNode

from ..architecture import Code, format_code
from ..config import get_architecture
from ..spaces import StageSpace
from ..spaces.stage import cost_range
from .cost import Cost, get_cost
from .stage_search import eligible_codes, margin


@dataclass(frozen=True)
class Limits:
    """The budgets of a stage search, and the cost that they limit.

    Attributes:
        space: space of the stage codes.
        cost: cost function of stage codes.
        baseline: stage code of the detector to improve. It does not have to fit a budget.
        eligible: one or more stage codes that fit each budget.
        tolerance, at_most: as in :func:`eligible_codes`.
    """

    space: StageSpace
    cost: Cost
    baseline: Code
    eligible: Mapping[float, Sequence[Code]]
    tolerance: float
    at_most: bool

    @classmethod
    def of(cls, cfg: CfgNode, space: StageSpace, final_cfg: CfgNode | None) -> Limits:
        """Create the limits from a config.

        Args:
            cfg: config of the search.
            space: space of its supernet.
            final_cfg: config of the detector that is counted if the cost depends on it. By default
                that of the supernet, which has fewer channels in the ResNet series.

        Raises:
            ValueError: there is no such cost, the detector cannot be counted, or no stage code fits
                a budget.
        """
        search = cfg.SEARCH
        detector = final_cfg or cfg
        cost = get_cost(search.COST, cfg, space, detector)
        budgets = search.BUDGETS or [float(cost(get_architecture(cfg).stage_code))]
        at_most = search.BUDGET_IS == "at_most"
        try:
            eligible = eligible_codes(space, budgets, search.TOLERANCE, cost, at_most)
        except ValueError as error:
            given = f"SEARCH.BUDGETS is {search.BUDGETS}, in {cost.unit}"
            raise ValueError(f"{given}: {error}") from None
        baseline = get_architecture(detector).stage_code
        return cls(space, cost, baseline, eligible, search.TOLERANCE, at_most)

    @property
    def budgets(self) -> tuple[float, ...]:
        """The budgets, in the unit of the cost."""
        return tuple(self.eligible)

    @property
    def codes(self) -> list[Code]:
        """The stage codes that fit a budget, in lexicographic order."""
        return sorted(set().union(*self.eligible.values()))

    def as_json(self) -> dict[str, Any]:
        """Export the limits, and the costs of the baseline and of each code that fits a budget."""
        codes = sorted({*self.codes, self.baseline})
        return {
            "unit": self.cost.unit,
            "at_most": self.at_most,
            "tolerance": self.tolerance,
            "costs": {format_code(code): float(self.cost(code)) for code in codes},
        }

    def describe(self) -> str:
        """Describe how many stage codes fit each budget, with one line for each."""
        return "\n".join(
            f"{len(codes):,} of {self.space.size:,} stage codes cost {self._range(budget)} "
            f"{self.cost.unit}"
            for budget, codes in self.eligible.items()
        )

    def _range(self, budget: float) -> str:
        if not self.tolerance:
            return f"at most {budget:g}" if self.at_most else f"{budget:g}"
        least, most = cost_range(budget, margin(budget, self.tolerance), self.at_most)
        return f"{float(least):g} to {float(most):g}"
