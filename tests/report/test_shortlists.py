"""A short list's tables and figure, against its result."""

import json

import numpy as np
import pytest
from made_outcomes import BASELINE, CODES, THIRD, make_shortlist
from scipy.stats import kendalltau

from crnas_d2.architecture import format_code
from crnas_d2.evaluation.rank_agreement import agree_in_rung
from crnas_d2.report.shortlists import Shortlist, draw_shortlist, shortlist_section
from crnas_d2.search.shortlist_result import RungResult


def test_table():
    section = shortlist_section(Shortlist(make_shortlist(failed=True)))
    assert [rung["title"] for rung in section["rungs"]] == [
        "rung 1, 150 iterations",
        "rung 2, 300 iterations",
    ]
    rows = {row["code"]: row for row in section["rows"]}
    assert list(rows) == list(map(format_code, CODES))
    assert rows["2-2-2-2"]["cells"] == ["30.00", "31.00", "30.50", "40.00", "41.00", "40.50"]
    assert rows["1-3-2-2"]["cells"] == ["failed", "29.50", "failed", "", "", ""]
    assert [row["until"] for row in rows.values()] == [
        "rung 2",
        "rung 1",
        "rung 2",
        "wins",
        "rung 1",
    ]
    assert [row["origin"] for row in rows.values()] == ["baseline", *["ranking"] * 3, "random"]
    assert (rows["3-2-2-1"]["rank"], rows["3-2-2-1"]["score"]) == ("", "")
    assert (rows["1-3-2-2"]["rank"], rows["1-3-2-2"]["score"]) == ("1", "25.00")
    assert [row["won"] for row in rows.values()] == [False, False, False, True, False]


def test_agreement_by_scipy():
    """Over the codes that have a score and of which no training failed."""
    result = make_shortlist()
    scores, alone = [20.5, 25.0, 24.0, 23.0], [30.5, 29.25, 31.25, 31.5]
    found = agree_in_rung(result, result.rungs[0])
    assert found.tau == pytest.approx(kendalltau(scores, alone)[0])
    assert found.regret == pytest.approx(31.5 - 29.25)
    row = shortlist_section(Shortlist(result))["agreements"][0]
    assert row[:3] == ["rung 1", "4", f"{found.tau:.2f}"]
    assert row[4:] == ["1-3-2-2", "1-2-2-3", "2.25"]
    failed = agree_in_rung(make_shortlist(failed=True), result.rungs[0])
    assert failed == agree_in_rung(result, result.rungs[0])  # of a rung, whatever the others have
    assert agree_in_rung(result, make_shortlist(failed=True).rungs[0]).codes == 3


def test_no_agreement_without_a_score():
    result = make_shortlist(scored=False)
    assert agree_in_rung(result, RungResult(0.5, 300, 2400, {BASELINE: [1.0, 2.0]})) is None
    rung = RungResult(0.5, 300, 2400, {BASELINE: [1.0, 2.0], THIRD: [2.0, 3.0]})
    assert agree_in_rung(result, rung).tau is None


@pytest.mark.parametrize("narrow", [False, True])
def test_figure(narrow):
    """A point for each code with a score, and a line across for one without."""
    result = make_shortlist(failed=True)
    first, last = draw_shortlist(result, narrow).axes
    for axes, rung in ((first, result.rungs[0]), (last, result.rungs[1])):
        expected = {
            (c.score, np.mean(rung.scores[c.code]))
            for c in result.candidates
            if c.score is not None and None not in rung.scores.get(c.code, [None])
        }
        markers = [line for line in axes.lines if line.get_marker() in "soD^"]
        assert {tuple(line.get_xydata()[0]) for line in markers} == expected
    across = [line for line in first.lines if line.get_linestyle() == "--"]
    assert [line.get_ydata()[0] for line in across] == [28.25]
    assert "regret" in first.get_title() and "tau" in last.get_title()


def test_checkpoints():
    taus = [["model_0000099", "model_final", 0.4], ["model_0000199", "model_final", None]]
    section = shortlist_section(Shortlist(make_shortlist(), taus))
    assert section["checkpoints"] == [
        ["model_0000099", "model_final", "0.40"],
        ["model_0000199", "model_final", "-"],
    ]


def test_a_folder_with_and_without_compared_checkpoints(tmp_path):
    make_shortlist().write(str(tmp_path))
    assert list(Shortlist.read(str(tmp_path)).taus) == []
    (tmp_path / "checkpoints.json").write_text(
        json.dumps({"taus": [["a", "b", 0.5]], "scores": {}})
    )
    read = Shortlist.read(str(tmp_path))
    assert read.taus == [["a", "b", 0.5]] and read.result.as_json() == make_shortlist().as_json()
