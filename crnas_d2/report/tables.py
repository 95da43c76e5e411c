"""The tables of a page, in the form that its template takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import mean, stdev
from types import MappingProxyType
from typing import Any

from ..architecture import format_code
from ..data.copies import Comparison, describe
from ..data.split_table import SplitTable
from ..procedure.networks import Network
from ..procedure.outcome import difference
from ..procedure.overview import StepOverview
from ..search.ranking import is_complete
from ..search.trial import Trial
from .costs import Costs
from .search_record import SearchRecord


def step_row(step: StepOverview) -> dict[str, Any]:
    """Get the row of a step, with the results at its end as text."""
    return {
        **vars(step),
        "seconds": step.seconds or 0.0,
        "outcome": ", ".join(f"{name} {_format(value, 2)}" for name, value in _main(step.results)),
    }


def _main(results: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float | None]]:
    """Iterate over the numbers of a step, reduced to the AP of tasks with several metrics."""
    for name, value in results.items():
        if value is None or isinstance(value, float):
            yield prefix + name, value
        elif isinstance(value, Mapping) and "AP" in value:
            yield f"{prefix}{name}/AP", value["AP"]
        elif isinstance(value, Mapping):
            yield from _main(value, f"{prefix}{name}/")


def ranking_table(record: SearchRecord) -> dict[str, Any]:
    """Get the table of all architectures of a search: columns, rows, and groups of competitors."""
    rankings = record.rankings
    rows = [
        _architecture_row(record, group, rank, record.records.trials[code])
        for group, scores in rankings.items()
        for rank, code in enumerate(scores, start=1)
    ]
    rows += [_architecture_row(record, "not ranked", None, e) for e in record.unranked]
    names = [(f"{'stage' if record.of_stages else 'operation'} code", False), ("status", False)]
    numbers = [*record.metrics, *record.costs, "images", "seconds"]
    return {
        "groups": [*rankings, *(["not ranked"] if record.unranked else [])],
        "shown": list(rankings)[0 if record.of_stages else -1],
        "columns": [
            {"name": name, "numeric": numeric}
            for name, numeric in [("rank", True), *names, *((name, True) for name in numbers)]
        ],
        "rows": rows,
    }


def _architecture_row(
    record: SearchRecord, group: str, rank: int | None, trial: Trial
) -> dict[str, Any]:
    code, metrics = trial.code, trial.metrics
    status = f"failed: {trial.reason}" if trial.reason else trial.status
    numbers = [_number(metrics.get(name), ".2f") for name in record.metrics]
    numbers += [_number(costs[code], ".5g") for costs in record.costs.values()]
    found = record.found.stage_code if record.of_stages else record.found.operation_code
    return {
        "group": group,
        "found": code == found[: len(code)],
        "cells": [
            _number(rank, "d"),
            {"text": format_code(code), "value": None},
            {"text": status, "value": None},
            *numbers,
            _number(trial.images, "d"),
            _number(trial.seconds, ".1f"),
        ],
    }


def _number(value: float | None, spec: str) -> dict[str, Any]:
    return {"text": "" if value is None else f"{value:{spec}}", "value": value}


def parts_tables(records: Sequence[SearchRecord]) -> list[dict[str, Any]]:
    """Get the distinct tables of class counts in each part, mostly one for all searches."""
    contents = [record.result["searched"].get("classes") for record in records]
    tables = [SplitTable.from_json(content) for content in contents if content]
    return [
        {
            "names": _sentence_of(table),
            "columns": table.columns(),
            "rows": [
                [row[0], *("" if n is None else f"{n:,}" for n in row[1:-1]), row[-1]]
                for row in table.rows()
            ],
            "warnings": table.warnings(),
            "notes": table.notes,
        }
        for index, table in enumerate(tables)
        if table not in tables[:index]
    ]


def copies_sentences(records: Sequence[SearchRecord]) -> list[str]:
    """Describe how many images of archval and the test set have near-duplicates in another part."""
    contents = [record.result["searched"].get("near_copies") or [] for record in records]
    sentences = [describe([Comparison(**c) for c in content]) for content in contents if content]
    return list(dict.fromkeys(sentences))


def _sentence_of(table: SplitTable) -> str:
    """Describe which datasets the parts are."""
    parts = [f"{part.role} is {', '.join(part.names)}" for part in table.parts]
    return f"Here {'; '.join(parts)}."


def network_rows(
    baseline: Network,
    found: Network,
    costs: Costs | None,
    limited: Mapping[str, Mapping[str, float | None]] = MappingProxyType({}),
) -> list[dict[str, str]]:
    """Get rows with codes, test results and costs of the two networks, and their differences.

    Args:
        baseline, found: the networks.
        costs: their costs, if known.
        limited: costs that the budget limits by unit, as in an outcome.
    """
    rows = [
        _row("stage code", *(format_code(n.architecture.stage_code) for n in (baseline, found))),
        _row(
            "operation code",
            *(format_code(n.architecture.operation_code) for n in (baseline, found)),
        ),
    ]
    metrics, found_metrics = _metrics_by_seed(baseline), _metrics_by_seed(found)
    rows += [
        _metric_row(name, metrics.get(name, []), found_metrics.get(name, []))
        for name in dict.fromkeys((*metrics, *found_metrics))
    ]
    for unit, of in limited.items():
        limits = of["baseline"], of["found"]
        texts = *map(format_cost, limits), _change(*limits, 3)
        rows.append(_row(f"{unit} (the budget)", *texts))
    if costs:
        for size, (before, after) in costs.by_size.items():
            rows.append(_difference(f"GMACs, {size}", before.macs / 1e9, after.macs / 1e9, 3))
        millions = [cost.parameters / 1e6 for cost in costs.costs]
        rows.append(_difference("M parameters", millions[0], millions[1], 3))
    return rows


def trainings_text(baseline: Network, found: Network) -> str:
    """Describe the number of trainings behind the test results. Empty if there are none."""
    before, after = (len(network.trainings) for network in (baseline, found))
    if max(before, after) < 2:
        return "of one training each" if before or after else ""
    counts = f"{before} trainings each"
    if before != after:
        counts = f"{before} trainings of the baseline and {after} of what was found"
    return f"mean and standard deviation of {counts}"


def _metrics_by_seed(network: Network) -> dict[str, Sequence[float | None]]:
    """Get each main metric of each training of a network."""
    names = [name.split(" ", 1) for name in network.main_metrics]
    return {f"{task} {name}": network.values(task, name) for task, name in names}


def _metric_row(
    name: str, baseline: Sequence[float | None], found: Sequence[float | None]
) -> dict[str, str]:
    before, after = (
        mean(values) if values and is_complete(values) else None for values in (baseline, found)
    )
    row = _difference(name, before, after, 2)
    for network, values in (("baseline", baseline), ("found", found)):
        if len(values) > 1 and is_complete(values):
            row[network] += f" ± {stdev(values):.2f}"
    return row


def _row(name: str, baseline: str, found: str, difference: str = "") -> dict[str, str]:
    return {"name": name, "baseline": baseline, "found": found, "difference": difference}


def _difference(
    name: str, baseline: float | None, found: float | None, digits: int
) -> dict[str, str]:
    texts = _format(baseline, digits), _format(found, digits), _change(baseline, found, digits)
    return _row(name, *texts)


def _change(baseline: float | None, found: float | None, digits: int) -> str:
    change = difference(baseline, found)
    return "" if change is None else format_change(change, digits)


def format_cost(value: float | None) -> str:
    """Format a cost in the unit of a budget."""
    return "-" if value is None else f"{value:.5g}"


def _format(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def format_change(value: float, digits: int) -> str:
    """Format a change with its sign, or 0 if it rounds to zero."""
    text = f"{value:+.{digits}f}"
    return "0" if float(text) == 0 else text


def format_duration(seconds: float) -> str:
    """Format a duration such as 42 s, 3 min 20 s, or 5 h 07 min."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"
