"""``report/index.html``: a search on one page, which opens from the disk and needs no network."""

from __future__ import annotations

import base64
import datetime
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import yaml
from matplotlib.figure import Figure

from detectron2.config import CfgNode
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.file_io import PathManager

from .. import __version__
from ..analysis.flops import INPUT_SIZE, PROPOSALS, DetectorCost
from ..analysis.style import render
from ..config import read_config, set_architecture
from ..files import write_atomically
from ..search.budget import plain_detector
from ..search.evaluation import Evaluation, format_code
from ..search.procedure import Procedure
from ..search.records import Network, StepRecord
from ..search.result import FINAL_FILE, SearchResult, architecture_keys
from .networks import draw_networks
from .search_record import SearchRecord

logger = logging.getLogger(__name__)

PAGE = os.path.join("report", "index.html")
LARGEST_SVG = 300_000  # bytes


def report_procedure(procedure: Procedure) -> str:
    """Write the page of a procedure, as far as it has come.

    Returns:
        Its path; empty before the first search has ended, when there is nothing to show.
    """
    networks = procedure.networks()
    if len(networks) == 1:
        return ""
    recipe = procedure.recipe
    with PathManager.open(recipe.path) as f:
        settings = {f"Recipe {recipe.path}": f.read(), "Command line": " ".join(recipe.opts)}
    return _write(procedure.output, procedure.records(), networks, settings)


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
        The path of the page.
    """
    baseline = final_cfg.clone() if final_cfg else plain_detector(cfg)
    baseline.MODEL.ROI_HEADS.NUM_CLASSES = cfg.MODEL.ROI_HEADS.NUM_CLASSES
    found = baseline.clone()
    set_architecture(found, result.architecture)
    networks = [Network("baseline", baseline), Network("found", found)]
    record = SearchRecord.read(cfg.OUTPUT_DIR, networks[0])
    images = max(e.images for e in record.records.evaluations.values())
    step = StepRecord(
        name=f"{result.step}_search",
        folder=cfg.OUTPUT_DIR,
        config=config,
        searches=True,
        size=f"{len(result.statuses):,} architectures x {images:,} images",
        image_passes=f"{sum(e.images for e in record.records.evaluations.values()):,} forward",
        done=True,
        seconds=sum(record.records.seconds.values()),
        results={result.metric: result.ranking.scored[0].score},
    )
    return _write(cfg.OUTPUT_DIR, [step], networks, {})


def _write(
    folder: str,
    steps: Sequence[StepRecord],
    networks: Sequence[Network],
    settings: Mapping[str, str],
) -> str:
    baseline, found = networks
    records = [SearchRecord.read(s.folder, baseline) for s in steps if s.searches and s.done]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"code": format_code, "duration": _format_duration}
    final_config = os.path.join(folder, FINAL_FILE)
    if not os.path.isfile(final_config):
        final_config = ""
    content = environment.get_template("report.html").render(
        title=f"Architecture search in {os.path.basename(os.path.abspath(folder))}",
        written=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        steps=[_show_step(step) for step in steps],
        searches=[_show_search(record, baseline) for record in records],
        baseline=baseline,
        found=found,
        comparison=_compare(records[-1].metric, baseline, found),
        test_sets=", ".join(baseline.cfg.DATASETS.TEST),
        figures=[_embed(c, f) for c, f in draw_networks(networks, records[-1].cfg).items()],
        cost=_match_costs(baseline.cost, found.cost) if baseline.cost else [],
        input_size=" x ".join(map(str, INPUT_SIZE)),
        proposals=PROPOSALS,
        final_config=final_config,
        start=read_config(final_config).MODEL.WEIGHTS if final_config else "",
        keys=yaml.safe_dump(architecture_keys(found.architecture), default_flow_style=None),
        settings={
            **settings,
            **{f"Settings of {os.path.basename(r.folder)}": _settings_of(r) for r in records},
            "Versions": f"crnas_d2 {__version__}\n{collect_env_info()}",
        },
    )
    path = os.path.join(folder, PAGE)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    write_atomically(path, content.encode())
    logger.info(f"The report is in {path}")
    return path


def _show_step(step: StepRecord) -> dict[str, Any]:
    results = {name: value for name, value in step.results.items() if isinstance(value, float)}
    for task, metrics in step.results.items():
        if isinstance(metrics, Mapping) and "AP" in metrics:
            results[f"{task}/AP"] = metrics["AP"]
    return {
        **vars(step),
        "seconds": step.seconds or 0.0,
        "outcome": ", ".join(f"{name} {value:.1f}" for name, value in results.items()),
    }


def _show_search(record: SearchRecord, baseline: Network) -> dict[str, Any]:
    evaluations = record.records.evaluations.values()
    statuses = [e.status for e in evaluations]
    kind = "Stage" if record.of_stages else "Operation"
    rankings = record.rankings
    shown = list(rankings)[0 if record.of_stages else -1]
    rows = [
        _show_row(record, group, rank, record.records.evaluations[code])
        for group, scores in rankings.items()
        for rank, code in enumerate(scores, start=1)
    ]
    rows += [_show_row(record, "not ranked", None, evaluation) for evaluation in record.unranked]
    groups = [*rankings, *(["not ranked"] if record.unranked else [])]
    return {
        "id": kind.lower(),
        "title": f"{kind} search",
        "metric": record.metric,
        "best": next(iter(rankings[shown].values())),
        "summary": (
            f"{len(evaluations)} architectures in the ledger: {statuses.count('done')} done, "
            f"{statuses.count('failed')} failed, {statuses.count('dropped')} dropped by a race. "
            f"{_format_duration(sum(record.records.seconds.values()))} of evaluation. "
            f"{record.metric} is that on archval with the supernet's weights."
        ),
        "ties": record.ties,
        "figures": [_embed(c, f) for c, f in record.charts(baseline.architecture).items()],
        "groups": groups,
        "shown": shown,
        "columns": _columns(record),
        "rows": rows,
    }


def _columns(record: SearchRecord) -> list[dict[str, Any]]:
    names = [(f"{'stage' if record.of_stages else 'operation'} code", False), ("status", False)]
    numbers = [*record.metrics, *(["GMACs"] if record.cost else []), "images", "seconds"]
    return [
        {"name": name, "numeric": numeric}
        for name, numeric in [("rank", True), *names, *((name, True) for name in numbers)]
    ]


def _show_row(
    record: SearchRecord, group: str, rank: int | None, evaluation: Evaluation
) -> dict[str, Any]:
    code, metrics = evaluation.code, evaluation.metrics
    status = f"failed: {evaluation.reason}" if evaluation.reason else evaluation.status
    numbers = [_number(metrics.get(name), ".2f") for name in record.metrics]
    if record.cost:
        numbers.append(_number(record.cost(code), ".3f"))
    found = record.found.stage_code if record.of_stages else record.found.operation_code
    return {
        "group": group,
        "found": code == found[: len(code)],
        "cells": [
            _number(rank, "d"),
            {"text": format_code(code), "value": None},
            {"text": status, "value": None},
            *numbers,
            _number(evaluation.images, "d"),
            _number(record.records.seconds[code], ".1f"),
        ],
    }


def _number(value: float | None, format: str) -> dict[str, Any]:
    return {"text": "" if value is None else f"{value:{format}}", "value": value}


def _compare(metric: str, baseline: Network, found: Network) -> dict[str, Any] | None:
    """The metric of the search, of the two trained networks."""
    task, name = metric.split("/")
    if not (baseline.results and found.results):
        return None
    return {
        "metric": metric,
        "baseline": baseline.results[task][name],
        "found": found.results[task][name],
    }


def _match_costs(baseline: DetectorCost, found: DetectorCost) -> list[dict[str, Any]]:
    """The modules of two detectors that differ in their backbone's codes, side by side."""
    pairs = zip(baseline.modules, found.modules, strict=True)
    return [{"part": b.part, "name": b.name, "baseline": b, "found": f} for b, f in pairs]


def _settings_of(record: SearchRecord) -> str:
    shown = ("SEARCH.", "weights", "archval", "archtrain", "TEST.", "INPUT.MIN", "INPUT.MAX")
    settings = record.records.settings.items()
    return "\n".join(f"{key}: {value}" for key, value in settings if key.startswith(shown))


def _embed(caption: str, figure: Figure) -> dict[str, Any]:
    """A figure as part of a page: as vectors, or as pixels where vectors take too much room."""
    kind, content = "svg+xml", render(figure, "svg")
    if len(content) > LARGEST_SVG:
        kind, content = "png", render(figure, "png")
    width, height = figure.get_size_inches()
    return {
        "caption": caption,
        "uri": f"data:image/{kind};base64,{base64.b64encode(content).decode()}",
        "width": round(width * 96),
        "height": round(height * 96),
    }


def _format_duration(seconds: float) -> str:
    """As a reader says it: 42 s, 3 min 20 s, 5 h 07 min."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"
