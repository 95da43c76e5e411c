"""Rows of the tables: means over seeds, costs, several test sets."""

import numpy as np
import pytest
from made_outcomes import make_network

from crnas_d2.procedure.overview import StepOverview
from crnas_d2.report.tables import format_duration, network_rows, step_row, trainings_text


def test_rows_of_several_seeds():
    """Mean and standard deviation of each network, by statistics alone."""
    aps = {"baseline": [30.0, 31.5, 30.6], "found": [31.0, 31.9, 33.1]}
    pair = [
        make_network(name, *({"bbox": {"AP": ap, "AP50": None, "AP-cat": 1.0}} for ap in values))
        for name, values in aps.items()
    ]
    rows = {row["name"]: row for row in network_rows(*pair, None)}
    assert set(rows) == {"stage code", "operation code", "bbox AP", "bbox AP50"}
    for name, values in aps.items():
        assert rows["bbox AP"][name] == f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}"
    assert rows["bbox AP"]["difference"] == "+1.30"
    assert rows["bbox AP50"] == {
        "name": "bbox AP50",
        "baseline": "-",
        "found": "-",
        "difference": "",
    }
    assert trainings_text(*pair) == "mean and standard deviation of 3 trainings each"


def test_row_of_what_the_budget_counts():
    pair = [make_network(name, {"bbox": {"AP": 30.0}}) for name in ("baseline", "found")]
    for costs, texts in (
        ({"baseline": 12.34567, "found": 12.0}, ["12.346", "12", "-0.346"]),
        ({"baseline": None, "found": 12.0}, ["-", "12", ""]),
    ):
        rows = {row["name"]: row for row in network_rows(*pair, None, {"ms": costs})}
        assert list(rows["ms (the budget)"].values())[1:] == texts


def test_rows_while_seeds_are_trained():
    pair = [
        make_network("baseline", *[{"bbox": {"AP": 30.0}}] * 2),
        make_network("found", {"bbox": {"AP": 31.0}}),
    ]
    row = network_rows(*pair, None)[2]
    assert (row["baseline"], row["found"]) == ("30.00 ± 0.00", "31.00")
    expected = "mean and standard deviation of 2 trainings of the baseline and 1 of what was found"
    assert trainings_text(*pair) == expected
    assert trainings_text(*(make_network(name) for name in ("baseline", "found"))) == ""


def test_several_test_sets():
    """The first one counts; the steps tell all."""
    pair = []
    for name, ap in (("baseline", 30.0), ("found", 31.0)):
        results = {"first": {"bbox": {"AP": ap, "AP-cat": 5.0}}, "second": {"bbox": {"AP": 0.0}}}
        pair.append(make_network(name, results, tests=("first", "second")))
    row = next(row for row in network_rows(*pair, None) if row["name"] == "bbox AP")
    assert row["difference"] == "+1.00"
    assert pair[1].main_metrics == {"bbox AP": 31.0}
    step = StepOverview("final", "", "", False, "", "", done=True, results=pair[1].results)
    assert step_row(step)["outcome"] == "first/bbox/AP 31.00, second/bbox/AP 0.00"


@pytest.mark.parametrize(
    "seconds, text",
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (3599, "59 min 59 s"),
        (18420, "5 h 07 min"),
    ],
)
def test_durations(seconds, text):
    assert format_duration(seconds) == text
