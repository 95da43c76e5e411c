"""``report/index.html``: a search on one page, which opens from the disk without a network."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection

from detectron2.config import CfgNode
from detectron2.utils.file_io import PathManager

from ..config import set_architecture
from ..procedure.networks import Network, networks_of
from ..procedure.outputs import PAGE
from ..procedure.overview import StepOverview, overview
from ..procedure.procedure import Procedure
from ..procedure.products import headline
from ..procedure.steps import Kind
from ..search.cost import plain_detector
from ..search.result import SearchResult
from .budgets_page import Budget, write_budgets_page
from .pages import attempt
from .search_page import SearchPage
from .search_record import SearchRecord
from .shortlists import Shortlist

logger = logging.getLogger(__name__)


def report_procedure(procedure: Procedure, changed: Collection[str] | None = None) -> str:
    """Write the page of a procedure, as far as it has come.

    If there are several budgets, each has its own page, and there is one for all of them.

    Args:
        procedure: the procedure, into whose folder the page is written.
        changed: the budgets whose own pages are written. By default all. Others are left unchanged.

    Returns:
        The path of the page. Empty until the first search has finished, or if the page could not be
        made, which is logged without stopping the search.
    """
    budgets = procedure.recipe.budgets
    pages = {
        budget: attempt("report", lambda: _write_page(procedure, budget), logger.warning) or ""
        for budget in budgets
        if changed is None or budget in changed
    }
    if budgets == [""]:
        return pages[""]
    return attempt("report", lambda: _write_over_all(procedure), logger.warning) or ""


def _write_page(procedure: Procedure, budget: str) -> str:
    """Write the page of a budget. Returns an empty path until it has a network."""
    networks = networks_of(procedure, budget)
    if len(networks) == 1:
        return ""
    folder = procedure.folder(budget)
    of_budget = procedure.steps_of(budget)
    shortlists = [
        Shortlist.read(procedure.path(step.name))
        for step in of_budget
        if step.kind is Kind.SHORTLIST and procedure.look()[step.name].done
    ]
    outcome = procedure.outcome(budget)
    steps = overview(procedure, of_budget)
    page = SearchPage(folder, steps, networks, procedure.start, budget, outcome, shortlists)
    return page.write(_settings(procedure))


def _write_over_all(procedure: Procedure) -> str:
    """Write the page for all budgets. Returns an empty path until any of them has a network."""
    rows = []
    for budget in procedure.recipe.budgets:
        page = os.path.join(procedure.folder(budget), PAGE)
        page = page if os.path.isfile(page) else ""
        found, outcome = procedure.found(budget), procedure.outcome(budget)
        rows.append(Budget(budget, found, outcome, headline(procedure, budget), page))
    if not any(row.found for row in rows):
        return ""
    return write_budgets_page(procedure.output, rows, _settings(procedure))


def _settings(procedure: Procedure) -> dict[str, str]:
    """Get the texts for the end of a page, by their headings."""
    recipe = procedure.recipe
    with PathManager.open(recipe.path) as f:
        return {f"Recipe {recipe.path}": f.read(), "Command line": " ".join(recipe.opts)}


def report_search(
    cfg: CfgNode, config: str, final_cfg: CfgNode | None, result: SearchResult
) -> str:
    """Write the page of a finished search over one supernet.

    Args:
        cfg: config of the search.
        config: file of that config.
        final_cfg: config of the detector to improve. By default that of the supernet.
        result: result of the search.

    Returns:
        The path of the page. Empty if it could not be made, which is logged.
    """

    def write() -> str:
        baseline = final_cfg.clone() if final_cfg else plain_detector(cfg)
        for head in ("ROI_HEADS", "RETINANET"):
            baseline.MODEL[head].NUM_CLASSES = cfg.MODEL[head].NUM_CLASSES
        found = baseline.clone()
        set_architecture(found, result.architecture)
        networks = [Network("baseline", baseline), Network("found", found)]
        records = SearchRecord.read(cfg.OUTPUT_DIR, networks[0]).records
        images = max(trial.images for trial in records.trials.values())
        step = StepOverview(
            name=f"{result.step}_search",
            folder=cfg.OUTPUT_DIR,
            config=config,
            searches=True,
            size=f"{len(result.statuses):,} architectures x {images:,} images",
            image_passes=f"{sum(trial.images for trial in records.trials.values()):,} forward",
            done=True,
            seconds=sum(trial.seconds for trial in records.trials.values()),
            results={result.metric: result.ranking.scored[0].score},
        )
        return SearchPage(cfg.OUTPUT_DIR, [step], networks).write({})

    return attempt("report", write, logger.warning) or ""
