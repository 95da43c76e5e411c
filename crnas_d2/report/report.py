"""``report/index.html``: a search on one page, which opens from the disk and needs no network."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from detectron2.config import CfgNode
from detectron2.utils.file_io import PathManager

from ..config import set_architecture
from ..procedure.networks import Network, networks_of
from ..procedure.overview import StepOverview, overview
from ..procedure.procedure import Procedure
from ..search.cost import plain_detector
from ..search.result import SearchResult
from .search_page import SearchPage, attempt
from .search_record import SearchRecord

logger = logging.getLogger(__name__)


def report_procedure(procedure: Procedure) -> str:
    """Write the page of a procedure, as far as it has come; of several budgets one for each.

    Returns:
        Its path; empty before the first search has ended, when there is nothing to show, and where
        no page could be made, which the log tells. The search goes on.
    """

    def write() -> str:
        recipe = procedure.recipe
        with PathManager.open(recipe.path) as f:
            settings = {f"Recipe {recipe.path}": f.read(), "Command line": " ".join(recipe.opts)}
        return [_write(procedure, budget, settings) for budget in recipe.budgets][0]

    return attempt("report", write, logger.warning) or ""


def _write(procedure: Procedure, budget: str, settings: Mapping[str, str]) -> str:
    """The page of a budget; empty before it has a network."""
    networks = networks_of(procedure, budget)
    if len(networks) == 1:
        return ""
    steps = [
        step_overview
        for step, step_overview in zip(procedure.steps, overview(procedure))
        if step.budget in ("", budget)
    ]
    page = SearchPage(procedure.folder(budget), steps, networks, procedure.start, budget)
    return page.write(settings)


def report_search(
    cfg: CfgNode, config: str, final_cfg: CfgNode | None, result: SearchResult
) -> str:
    """Write the page of a search over one supernet that has ended.

    Args:
        cfg: of the search.
        config: its file.
        final_cfg: of the detector to improve; None is the supernet's own.
        result: what was found.

    Returns:
        The path of the page; empty where none could be made, which the log tells.
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
