"""The page of one search: its content, and its file."""

from __future__ import annotations

import dataclasses
import datetime
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import yaml

from detectron2.data import DatasetCatalog

from ..architecture import format_code
from ..config import read_config
from ..procedure.networks import Network
from ..procedure.outcome import Outcome
from ..procedure.outcome_text import data_sentences
from ..procedure.overview import StepOverview
from ..search.result import FINAL_FILE, architecture_keys
from .compared_images import LOWEST_SCORE, draw_compared
from .costs import Costs, InputSize
from .curves import draw_curves
from .networks import draw_fields, sketch
from .pages import attempt, render_page, versions, write_report
from .search_record import SearchRecord
from .seeds import chart_seeds, describe_difference, format_interval, seeds_table
from .shortlists import Shortlist, chart_shortlist, shortlist_section
from .shown_commands import how_to_use, how_to_watch
from .tables import (
    copies_sentences,
    format_change,
    format_duration,
    network_rows,
    parts_tables,
    ranking_table,
    step_row,
    trainings_text,
)
from .themes import Chart

logger = logging.getLogger(__name__)

T = TypeVar("T")


class SearchPage:
    """The page of a search.

    Attributes:
        folder: ``OUTPUT_DIR``, into which it is written.
        steps: steps of the search.
        budget: its budget. Empty if there is only one, or if the page is for all of them.
        outcome: outcome of the search. None if the two networks are not compared, or not yet.
        shortlists: finished short lists.
        origins: sentences about what the trainings start from.
        left_out: sentences about each part that could not be made, by section.
    """

    def __init__(
        self,
        folder: str,
        steps: Sequence[StepOverview],
        networks: Sequence[Network],
        origins: Sequence[str] = (),
        budget: str = "",
        outcome: Outcome | None = None,
        shortlists: Sequence[Shortlist] = (),
    ):
        self.folder = folder
        self.budget = budget
        self.outcome = outcome
        self.shortlists = shortlists
        self.steps = steps
        self.origins = origins
        self.baseline, self.found = networks
        self.records = [
            SearchRecord.read(step.folder, self.baseline, budget)
            for step in steps
            if step.searches and step.done
        ]
        self.left_out: dict[str, list[str]] = {}
        self._figures = 0

    def write(self, settings: Mapping[str, str]) -> str:
        """Write the page atomically, and return its path.

        Args:
            settings: texts for the end of the page, by their headings.
        """
        began = time.perf_counter()
        content = render_page(
            "report.html",
            self._content(settings),
            filters={
                "code": format_code,
                "duration": format_duration,
                "interval": format_interval,
            },
            change=format_change,
        )
        path = write_report(self.folder, content)
        logger.info(
            f"The report is in {path}: {len(content) / 1e6:.1f} MB, made in "
            f"{time.perf_counter() - began:.0f} s"
        )
        return path

    def _content(self, settings: Mapping[str, str]) -> dict[str, Any]:
        baseline, found, last = self.baseline, self.found, self.records[-1]
        comparison = self.outcome.comparison if self.outcome else None
        finds_baseline = found.architecture == baseline.architecture
        networks = [baseline] if finds_baseline else [baseline, found]
        trained = all(network.weights for network in networks)
        test_set = baseline.cfg.DATASETS.TEST[0]
        images = self._attempt("networks", "list of test images", DatasetCatalog.get, test_set)
        costs = self._costs(images)
        final = os.path.join(self.folder, FINAL_FILE)
        final = final if os.path.isfile(final) else ""
        shown_set = baseline.cfg.DATASETS.TEST[-1]  # its file has replaced those before it
        compared = None
        if trained:
            part = "comparison on test images"
            compared = self._attempt("images", part, draw_compared, networks, shown_set)
        start = self._attempt("use", "reading of its config", read_config, final) if final else None
        curves = ("training curves", draw_curves, self.steps, networks, last.metric)
        fields = []
        if all(step.done for step in self.steps):  # made once, as they take as long as all the rest
            part = "effective receptive fields"
            fields = self._charts("networks", part, draw_fields, networks, last.cfg)
        return {
            "title": self.title,
            "all_budgets": "../../report/index.html" if self.budget else "",
            "written": datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
            "steps": [step_row(step) for step in self.steps],
            "origins": self.origins,
            "searches": [self._search(record) for record in self.records],
            "parts": self._attempt("data", "table of the classes", parts_tables, self.records)
            or [],
            "statement": self._statement(),
            "copies": self._attempt("data", "near-copies", copies_sentences, self.records) or [],
            "baseline": baseline,
            "found": found,
            "outcome": self.outcome,
            "not_compared": self._why_not_compared(),
            "seeds": seeds_table(self.outcome) if self.outcome else [],
            "finds_baseline": finds_baseline,
            "columns": ["baseline", *([] if finds_baseline else ["found", "difference"])],
            "difference": (
                list(describe_difference(comparison)) if comparison and not finds_baseline else []
            ),
            "seeds_figure": (
                self._charts("seeds", "figure of the seeds", chart_seeds, comparison, last.metric)
                if comparison and not finds_baseline
                else []
            ),
            "test_set": test_set,
            "trainings": trainings_text(baseline, found),
            "several_seeds": len(baseline.trainings) > 1,
            "network_rows": network_rows(
                baseline, found, costs, self.outcome.cost if self.outcome else {}
            ),
            "costs": costs,
            "sizes_note": costs.explain() if costs else "",
            "curves": self._charts("training", *curves),
            "sketches": self._charts("networks", "sketch of the networks", sketch, networks),
            "compared": compared or [],
            "shown_set": shown_set,
            "lowest_score": LOWEST_SCORE,
            "fields": fields,
            "final_config": final,
            "start": start.MODEL.WEIGHTS if start else "",
            "use": how_to_use(self.folder, final, networks) if final else {},
            "watch": how_to_watch(self.folder),
            "keys": yaml.safe_dump(architecture_keys(found.architecture), default_flow_style=None),
            "settings": {
                **settings,
                **{f"Settings of {os.path.basename(r.folder)}": _settings(r) for r in self.records},
                "Versions": versions(),
            },
            "left_out": self.left_out,
        }

    def _statement(self) -> list[str]:
        """Describe the uses of images, without near-duplicates, which have their own section."""
        if not self.outcome:
            return []
        data = dataclasses.replace(self.outcome.data, near_copies={})
        return data_sentences(dataclasses.replace(self.outcome, data=data))

    def _why_not_compared(self) -> str:
        """Explain why the networks are not compared. Empty if they are."""
        if self.outcome:
            return ""
        if all(step.done for step in self.steps):
            return "Nothing was compared: this search trains no detectors."
        before, after = (len(network.trainings) for network in (self.baseline, self.found))
        return (
            f"Nothing is compared yet: of the trainings of the two networks, {before} of the "
            f"baseline and {after} of what was found have ended."
        )

    @property
    def title(self) -> str:
        """The title of the page."""
        output, more = (".", "") if not self.budget else ("..", f", budget {self.budget}")
        folder = os.path.abspath(os.path.join(self.folder, output))
        return f"Architecture search in {os.path.basename(folder)}{more}"

    def _search(self, record: SearchRecord) -> dict[str, Any]:
        trials = record.records.trials.values()
        statuses = [trial.status for trial in trials]
        name = "stage" if record.of_stages else "operation"
        of_all = ", of all budgets" if record.is_shared else ""
        ranking = ranking_table(record)
        baseline = self.baseline.architecture
        return {
            "id": name,
            "title": f"{name.capitalize()} search",
            "metric": record.metric,
            "best": next(iter(record.rankings[ranking["shown"]].values())),
            "summary": (
                f"{len(trials)} architectures in the ledger{of_all}: {statuses.count('done')} done, "
                f"{statuses.count('failed')} failed, {statuses.count('dropped')} dropped. "
                f"{format_duration(sum(trial.seconds for trial in trials))} of evaluation. "
                f"{record.metric} is that on archval with the supernet's weights."
            ),
            "ties": record.ties,
            "undistinguished": record.undistinguished,
            "figures": self._charts(name, f"chart of the {name} search", record.charts, baseline),
            "shortlist": self._shortlist(name),
            **ranking,
        }

    def _shortlist(self, of: str) -> dict[str, Any] | None:
        """Get the section about the short list of stage or of operation codes."""
        shortlist = next((it for it in self.shortlists if it.result.of == of), None)
        if not shortlist:
            return None
        part = f"chart of the short list of {of} codes"
        return {
            **shortlist_section(shortlist),
            "figures": self._charts(of, part, chart_shortlist, shortlist.result),
        }

    def _costs(self, images: Sequence[Mapping[str, Any]] | None) -> Costs | None:
        """Get the costs. None for networks that cannot be counted, such as those with PointRend."""
        networks = (self.baseline, self.found)
        if not (self.baseline.cost and self.found.cost):
            return None
        size = None
        if images is not None:
            part = "count at the size of the test images"
            size = self._attempt("networks", part, InputSize.of, self.baseline.cfg, images)
        return Costs(networks, (self.baseline.cost, self.found.cost), size)

    def _charts(
        self, section: str, part: str, draw: Callable[..., list[Chart]], *args: Any
    ) -> list[dict[str, Any]]:
        def embed() -> list[dict[str, Any]]:
            embedded = []
            for chart in draw(*args):
                self._figures += 1
                embedded.append(chart.embed(f"figure-{self._figures}"))
            return embedded

        return self._attempt(section, part, embed) or []

    def _attempt(self, section: str, part: str, make: Callable[..., T], *args: Any) -> T | None:
        """Apply :func:`attempt`, and show a failure on the page too."""

        def tell(sentence: str) -> None:
            logger.warning(sentence)
            self.left_out.setdefault(section, []).append(sentence)

        return attempt(part, lambda: make(*args), tell)


def _settings(record: SearchRecord) -> str:
    shown = ("SEARCH.", "weights", "archval", "archtrain", "TEST.", "INPUT.MIN", "INPUT.MAX")
    settings = {"SEARCH.METRIC": record.metric, **record.records.settings}
    return "\n".join(f"{key}: {value}" for key, value in settings.items() if key.startswith(shown))
