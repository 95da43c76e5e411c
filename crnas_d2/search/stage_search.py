"""The exhaustive search for the stage code under a budget (section 3.3.1)."""

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
    """Solve equation (1) by evaluating every eligible stage code.

    Budgets share their evaluations: ``evaluate`` is called once, with the distinct codes that are
    eligible for any of them, in lexicographic order.

    Args:
        space, budgets, tolerance, cost, at_most: as in :func:`eligible_codes`.
        evaluate: scores whole stage codes.

    Returns:
        For each budget, the ranking of its eligible codes.

    Raises:
        ValueError: as in :func:`eligible_codes`. Nothing is evaluated then.
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
    """List the stage codes that fit each of several budgets, the constraint of equation (1).

    Args:
        space: space of the stage supernet.
        budgets: what a stage code may cost, in the unit of ``cost``.
        tolerance: share of a budget by which the cost may be above or below it.
        cost: as in :meth:`StageSpace.eligible`.
        at_most: treat a budget as an upper limit. The cost may then be below it by up to the
            tolerance, or by any amount if the tolerance is 0.

    Returns:
        For each budget, one or more stage codes in lexicographic order.

    Raises:
        ValueError: there is no budget, one of the numbers is not allowed, or no stage code fits a
            budget.
    """
    if (
        not isinstance(budgets, Sequence)
        or not budgets
        or not all(isinstance(budget, Real) and budget > 0 for budget in budgets)
    ):
        raise ValueError(f"budgets are {budgets!r}; expected one or more positive numbers")
    if not (isinstance(tolerance, Real) and tolerance >= 0):
        raise ValueError(f"tolerance is {tolerance!r}; expected a share of the budget, 0 or more")
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
    """Convert a tolerance, which is a share of a budget, to the budget's own unit."""
    return as_exact("tolerance", tolerance) * as_exact("budget", budget)


def _nearest_costs(space: StageSpace, budget: float, cost: Callable[[Code], float]) -> str:
    """Format the nearest costs of any code below and above a budget, where they exist."""
    costs = {cost(code) for code in space}
    below = [c for c in costs if c < budget]
    above = [c for c in costs if c > budget]
    nearest = [*([max(below)] if below else []), *([min(above)] if above else [])]
    return " and ".join(str(int(c) if c == int(c) else float(c)) for c in nearest)
