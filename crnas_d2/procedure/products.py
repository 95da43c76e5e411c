"""The products of a procedure for its user: the architecture, detector, verdict and README."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from ..architecture import Architecture, format_code
from ..config import get_architecture
from ..data import setup_datasets
from ..search.result import ARCHITECTURE_FILE, FINAL_FILE, RESULT_FILE, write_architecture
from .final_config import FOUND_NETWORK, IS_BASELINE, NOT_COMPARED, NOT_YET, ON_ARCHVAL, write_final
from .networks import compare, final_steps, networks_of
from .outcome import BASELINE, Outcome
from .outcome_text import data_sentences, describe_outcome, fill
from .readme import write_readme
from .recipe import folder_of
from .standing import Standing
from .state import MODEL_FILE
from .steps import Kind

if TYPE_CHECKING:
    from .procedure import Procedure


def write_products(procedure: Procedure, budget: str = "") -> None:
    """Write the products of a budget that exist so far. There are none until a search has finished."""
    architecture, folder = procedure.found(budget), procedure.folder(budget)
    if not architecture:
        return
    os.makedirs(folder, exist_ok=True)
    write_architecture(folder, architecture)
    outcome, result = procedure.outcome(budget), os.path.join(folder, RESULT_FILE)
    if outcome:
        outcome.write(folder)
    elif os.path.exists(result):  # it belongs to fewer seeds than are wanted now
        os.remove(result)
    if procedure.recipe.names["FINAL"]:
        _write_final(procedure, budget, architecture, outcome)
    data = data_sentences(outcome) if outcome else ()
    write_readme(folder, headline(procedure, budget), numbers(procedure, budget), data)
    if budget:
        for name in (ARCHITECTURE_FILE, FINAL_FILE, RESULT_FILE):  # left from a run with one budget
            with contextlib.suppress(FileNotFoundError):
                os.remove(os.path.join(procedure.output, name))
        headlines = [headline(procedure, it) for it in procedure.recipe.budgets]
        write_readme(procedure.output, "\n\n".join(headlines))


def _write_final(
    procedure: Procedure, budget: str, architecture: Architecture, outcome: Outcome | None
) -> None:
    step = "final"
    if outcome and outcome.handed_over.network == BASELINE:
        step, architecture = "baseline", outcome.baseline.architecture
    step = f"{folder_of(budget)}{step}"
    training = next((it for it in procedure.steps if it.name == step), None)
    cfg = procedure.config(training) if training else procedure.final_config()
    if procedure.recipe.seed and not training:
        procedure.recipe.seed.put_into(cfg)
    setup_datasets(cfg)
    standing = procedure.look().get(step, Standing())
    trained = procedure.path(standing.folder or step, MODEL_FILE) if standing.done else ""
    untold = f"{FOUND_NETWORK} {_why_not_compared(procedure, budget)}"
    why = outcome.headline if outcome else untold
    write_final(procedure.folder(budget), cfg, architecture, trained, why)


def headline(procedure: Procedure, budget: str = "") -> str:
    """Describe the result of the procedure under a budget, in a few sentences."""
    outcome, found = procedure.outcome(budget), procedure.found(budget)
    if outcome:
        return outcome.headline
    under = f"under budget {budget}" if budget else ""
    if found is None:
        return f"Nothing was found {under} yet."
    codes = " and ".join(
        f"{kind.replace('_', ' ')} {format_code(code)}" for kind, code in vars(found).items()
    )
    return f"Found {under}: {codes}. {_why_not_compared(procedure, budget)}".replace(" :", ":")


def _why_not_compared(procedure: Procedure, budget: str) -> str:
    """Explain in a sentence why there is no outcome, or not yet."""
    if procedure.found(budget) == get_architecture(procedure.baseline(budget)):
        return IS_BASELINE
    if final_steps(procedure, budget):
        return NOT_YET
    shortlists = [it for it in procedure.steps if it.kind is Kind.SHORTLIST and it.budget == budget]
    compared = any(procedure.look()[step.name].done for step in shortlists)
    return ON_ARCHVAL if compared else NOT_COMPARED


def describe_end(procedure: Procedure) -> str:
    """Format the verdict and the trained detectors side by side, or what was found."""
    parts = []
    for budget in procedure.recipe.budgets:
        parts += [fill([headline(procedure, budget)]), numbers(procedure, budget)]
    return "\n\n".join(parts)


def numbers(procedure: Procedure, budget: str = "") -> str:
    """Format the codes, test results and costs under a budget, as far as they exist."""
    outcome, networks = procedure.outcome(budget), networks_of(procedure, budget)
    parts = [describe_outcome(outcome)] if outcome else []
    return "\n\n".join([*parts, compare(*networks)])
