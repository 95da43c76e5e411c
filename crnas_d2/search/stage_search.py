"""The search for the stage code: every code that fits the budget (section 3.3.1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from numbers import Real

from ..architecture import Code
from ..spaces import StageSpace
from ..spaces.stage import as_exact
from .ranking import Evaluate, Ranking, rank


def stage_search(
    space: StageSpace,
    budgets: Sequence[float],
    evaluate: Evaluate,
    tolerance: float = 0,
    cost: Callable[[Code], float] | None = None,
    at_most: bool = False,
) -> dict[float, Ranking]:
    """Equation (1), solved by evaluating every eligible stage code.

    Budgets share their evaluations: ``evaluate`` is called once, with all codes that are eligible
    for one of them, in lexicographic order and each one once.

    Args:
        space, budgets, tolerance, cost, at_most: as in :func:`eligible_codes`.
        evaluate: gets whole stage codes.

    Returns:
        For each budget, the ranking of its eligible codes.

    Raises:
        ValueError: as in :func:`eligible_codes`. Nothing was evaluated.
    """
    eligible = eligible_codes(space, budgets, tolerance, cost, at_most)
    codes = sorted(set().union(*eligible.values()))
    ranking = rank(codes, evaluate(codes))
    return {budget: ranking.restrict(fit) for budget, fit in eligible.items()}


def eligible_codes(
    space: StageSpace,
    budgets: Sequence[float],
    tolerance: float = 0,
    cost: Callable[[Code], float] | None = None,
    at_most: bool = False,
) -> dict[float, list[Code]]:
    """The constraint of equation (1) for several budgets.

    Args:
        space: of the stage supernet.
        budgets: what a stage code may cost, in the unit of ``cost``.
        tolerance: by which share of a budget the cost may be above or below it.
        cost: as in :meth:`StageSpace.eligible`.
        at_most: a budget is an upper limit, from which the cost may be the tolerance below; with a
            tolerance of 0 it may be any cost below.

    Returns:
        For each budget, its stage codes in lexicographic order; at least one.

    Raises:
        ValueError: there is no budget, one of the numbers is not allowed, or no stage code fits a
            budget.
    """
    if (
        not isinstance(budgets, Sequence)
        or not budgets
        or not all(isinstance(budget, Real) and budget > 0 for budget in budgets)
    ):
        raise ValueError(f"budgets: {budgets!r}; expected one or more positive numbers")
    if not (isinstance(tolerance, Real) and tolerance >= 0):
        raise ValueError(f"tolerance: {tolerance!r}; expected a share of the budget, 0 or more")
    eligible = {
        budget: space.eligible(budget, margin(budget, tolerance), cost, at_most)
        for budget in budgets
    }
    for budget, codes in eligible.items():
        if not codes:
            raise ValueError(
                f"budget {budget}: no stage code costs {'at most ' if at_most else ''}that, with "
                f"a tolerance of {tolerance}; "
                f"the nearest costs are {_nearest_costs(space, budget, cost or space.cost)}"
            )
    return eligible


def margin(budget: float, tolerance: float) -> Fraction:
    """A tolerance, which is a share of a budget, in the budget's own unit."""
    return as_exact("tolerance", tolerance) * as_exact("budget", budget)


def _nearest_costs(space: StageSpace, budget: float, cost: Callable[[Code], float]) -> str:
    """Of any code: the highest cost below the budget and the lowest above, where there is one."""
    costs = {cost(code) for code in space}
    below = [c for c in costs if c < budget]
    above = [c for c in costs if c > budget]
    nearest = [*([max(below)] if below else []), *([min(above)] if above else [])]
    return " and ".join(str(int(c) if c == int(c) else float(c)) for c in nearest)
