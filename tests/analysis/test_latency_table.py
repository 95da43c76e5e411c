"""The file of latencies: written, read on another machine, refused where it does not fit."""

import csv

import pytest

from crnas_d2.analysis.latency import Latency
from crnas_d2.analysis.latency_table import LatencyTable

CONDITIONS = {"device": "cuda, NVIDIA #7: a name", "threads": "4", "SEARCH.LATENCY.BATCH": "1"}
ROWS = {(10, 1, 2): Latency(12.5, 12.25, 13.0, 20), (2, 1, 2): Latency(3.0, 3.0, 3.0, 7)}


def test_round_trip(tmp_path):
    path = tmp_path / "folder" / "latency.csv"
    LatencyTable(CONDITIONS, dict(ROWS)).write(str(path))
    table = LatencyTable.read(str(path))
    assert (table.conditions, table.rows) == (CONDITIONS, ROWS)
    lines = path.read_text().splitlines()
    assert lines[:3] == [f"# {name}: {value}" for name, value in CONDITIONS.items()]
    rows = list(csv.DictReader(lines[3:]))
    assert [row["code"] for row in rows] == ["2-1-2", "10-1-2"]
    assert [float(row["median_ms"]) for row in rows] == [3.0, 12.5]
    before = path.read_bytes()
    table.write(str(path))
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["latency.csv"]


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda text: "", "line 1 is ''; expected 'code,median_ms"),
        (lambda text: text.replace("code,median_ms", "code,ms"), "line 4 is 'code,ms,"),
        (
            lambda text: text.replace("12.5000", "fast"),
            "line 6 is '10-1-2,fast,.*could not convert",
        ),
        (lambda text: text.replace("12.5000", "nan"), "line 6 .*the times are no quartiles"),
        (lambda text: text.replace("13.0000", "inf"), "line 6 .*the times are no quartiles"),
        (lambda text: text.replace("12.2500", "-1"), "line 6 .*the times are no quartiles"),
        (lambda text: text.replace("13.0000", "1.0"), "line 6 .*the times are no quartiles"),
        (lambda text: text.replace(",20", ""), "line 6 .*4 entries"),
        (lambda text: text.replace(",20", ",0"), "line 6 .*no runs"),
        (lambda text: text.replace("10-1-2", "10-x-2"), "line 6 is '10-x-2,.*invalid literal"),
        (lambda text: text.replace("10-1-2", "2-1-2"), "line 6 has 2-1-2 once more"),
    ],
)
def test_what_is_no_table(tmp_path, change, message):
    path = tmp_path / "latency.csv"
    LatencyTable(CONDITIONS, dict(ROWS)).write(str(path))
    path.write_text(change(path.read_text()))
    with pytest.raises(ValueError, match=message) as info:
        LatencyTable.read(str(path))
    assert str(path) in str(info.value)


def test_bytes(tmp_path):
    path = tmp_path / "latency.csv"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="latency.csv is no table of latencies: it is no text in"):
        LatencyTable.read(str(path))
    with pytest.raises(FileNotFoundError, match="absent.csv"):
        LatencyTable.read(str(tmp_path / "absent.csv"))


def test_conditions_that_have_to_be_the_same():
    defaults = {"SEARCH.LATENCY.BATCH": "1", "MODEL.A": "0", "MODEL.B": "0", "MODEL.C": "0"}
    table = LatencyTable({**CONDITIONS, "MODEL.A": "5", "MODEL.B": "6"})
    same = {"SEARCH.LATENCY.BATCH": "1", "MODEL.A": "5", "MODEL.B": "6", "MODEL.C": "0"}
    table.check_conditions("x.csv", same, defaults)
    table.check_conditions("x.csv", {**same, "threads": "4"}, defaults)
    now = {"threads": "2", "SEARCH.LATENCY.BATCH": "8", "runs": "1", "MODEL.A": "5", "MODEL.C": "7"}
    with pytest.raises(ValueError) as info:
        table.check_conditions("x.csv", now, defaults)
    assert str(info.value).splitlines() == [
        "x.csv holds latencies under other conditions:",
        "  MODEL.B: 6 there, 0 now",
        "  MODEL.C: 0 there, 7 now",
        "  SEARCH.LATENCY.BATCH: 1 there, 8 now",
        "  runs: absent there, 1 now",
        "  threads: 4 there, 2 now",
        "Go on with the conditions there, or move the file away to measure anew.",
    ]
