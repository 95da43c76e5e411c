"""The page for all budgets of a recipe, each of which also has its own page."""

from __future__ import annotations

import datetime
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..architecture import Architecture, format_code
from ..procedure.outcome import Outcome, TrainedNetwork
from .pages import attempt, render_page, versions, write_report
from .pareto import chart_pareto
from .seeds import format_interval
from .tables import format_change, format_cost

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Budget:
    """A budget of a recipe.

    Attributes:
        name: name of the budget in the stage search's result.
        found: the architecture found under it. None until the stage search has finished.
        outcome: the outcome. None if the two networks are not compared, or not yet.
        headline: result of the search under it, in a few sentences.
        page: file of its own page. Empty if there is none.
    """

    name: str
    found: Architecture | None
    outcome: Outcome | None
    headline: str
    page: str


def write_budgets_page(folder: str, budgets: Sequence[Budget], settings: Mapping[str, str]) -> str:
    """Write the page atomically, and return its path.

    Args:
        folder: ``OUTPUT_DIR``.
        budgets: budgets in the order of the recipe.
        settings: texts for the end of the page, by their headings.
    """
    outcomes = [budget.outcome for budget in budgets if budget.outcome]
    left_out: list[str] = []

    def draw() -> list[dict[str, Any]]:
        return [chart.embed("pareto") for chart in chart_pareto(outcomes)]

    def tell(sentence: str) -> None:
        logger.warning(sentence)
        left_out.append(sentence)

    content = {
        "title": f"Architecture search in {os.path.basename(os.path.abspath(folder))}",
        "written": datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        "verdicts": list(map(_sentence, budgets)),
        "metric": outcomes[0].metric if outcomes else "",
        "test_set": next(iter(outcomes[0].data.tested)) if outcomes else "",
        "unit": next((unit for outcome in outcomes for unit in outcome.cost), "cost"),
        "rows": [_row(budget, folder) for budget in budgets],
        "figures": attempt("chart of AP against cost", draw, tell) or [],
        "settings": {**settings, "Versions": versions()},
        "left_out": left_out,
    }
    return write_report(folder, render_page("budgets.html", content))


def _sentence(budget: Budget) -> str:
    if not budget.outcome:
        return budget.headline
    network = {"baseline": "baseline", "found": "network that was found"}
    return f"{budget.outcome.sentence} final.yaml is the {network[budget.outcome.handed_over.network]}."


def _row(budget: Budget, folder: str) -> dict[str, str]:
    page = os.path.relpath(budget.page, os.path.join(folder, "report")) if budget.page else ""
    row = {"budget": budget.name, "page": page.replace(os.sep, "/")}
    outcome = budget.outcome
    if not outcome:
        code = budget.found and format_code(budget.found.stage_code)
        empty = dict.fromkeys(("cost", "baseline", "found", "difference", "handed_over"), "")
        return row | empty | {"code": code or "", "verdict": "open"}
    comparison = outcome.comparison
    difference = ""
    if comparison and not outcome.finds_baseline:
        difference = format_change(comparison.mean, 2)
        if comparison.interval:
            difference += f" ({format_interval(comparison.interval)})"
    return row | {
        "code": format_code(outcome.found.architecture.stage_code),
        "cost": next(map(_costs, outcome.cost.values()), ""),
        "baseline": _ap(outcome.baseline),
        "found": "the baseline itself" if outcome.finds_baseline else _ap(outcome.found),
        "difference": difference,
        "verdict": outcome.verdict,
        "handed_over": outcome.handed_over.network,
    }


def _costs(costs: Mapping[str, float | None]) -> str:
    """Format the cost of what was found, and that of the baseline if it differs."""
    found, baseline = (format_cost(costs[name]) for name in ("found", "baseline"))
    return found if found == baseline else f"{found} (baseline {baseline})"


def _ap(network: TrainedNetwork) -> str:
    if network.mean is None:
        return "-"
    return f"{network.mean:.2f}" + ("" if network.sd is None else f" ± {network.sd:.2f}")
