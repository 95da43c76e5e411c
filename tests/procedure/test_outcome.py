"""What a recipe ends with, and the file that says so."""

import json

import numpy as np
import pytest

from crnas_d2 import ARCHITECTURES, Architecture
from crnas_d2.evaluation.paired_comparison import compare_pairs
from crnas_d2.procedure.outcome import (
    DataStatement,
    HandedOver,
    Outcome,
    SearchRanking,
    TrainedNetwork,
)
from crnas_d2.procedure.outcome_text import describe_outcome

RUNG = {
    **{"iterations": 600, "codes": 6, "seeds": 2, "tau": 0.6, "highest_tau": None},
    **{"choice": "1-1-2-4", "best": "2-2-2-2", "regret": 1.25},
}
BASELINE_APS, FOUND_APS = (70.1, 71.3, 69.5, 70.6, 71.0), (73.0, 73.9, 72.8, 74.1, 73.2)


def make(found=FOUND_APS, baseline=BASELINE_APS, budget=""):
    def network(name, codes, aps):
        folders = tuple(f"{name}_{i + 1}" if i else name for i in range(len(aps)))
        return TrainedNetwork(codes, 30.5, 17.25, tuple(range(1, len(aps) + 1)), folders, aps)

    known = None not in found + baseline
    return Outcome(
        budget,
        {"weighted": {"baseline": 8.0, "found": 8.0}},
        "bbox/AP",
        network("baseline", ARCHITECTURES["ResNet18"], baseline),
        network("final", Architecture((1, 1, 2, 4), (0, 0, 1, 0, 1, 0, 2, 1)), found),
        compare_pairs(found, baseline) if known else None,
        HandedOver("found", "final.yaml is the network that was found."),
        (
            SearchRanking("stage_search", 25, 7, (RUNG,), (("model_0000499", "model_final", 0.2),)),
            SearchRanking("operation_search", 9),
        ),
        DataStatement(
            {"own_train": 300}, {"own_archval": 56}, {"own_val": 60}, 10, {"test in archtrain": 1}
        ),
    )


def test_it_is_read_as_it_was_written(tmp_path):
    for outcome in (make(), make(budget="8.0"), make((70.0,), (71.0,))):
        outcome.write(str(tmp_path))
        assert Outcome.read(str(tmp_path)) == outcome
    content = json.loads((tmp_path / "result.json").read_text())
    assert list(content) == [
        *("budget", "cost", "metric", "baseline", "found"),
        *("comparison", "handed_over", "ranking", "data"),
    ]


def test_numbers_of_both_networks():
    outcome = make()
    content = outcome.as_json()
    for name, aps in (("baseline", BASELINE_APS), ("found", FOUND_APS)):
        assert content[name]["aps"] == aps
        assert content[name]["mean"] == pytest.approx(np.mean(aps))
        assert content[name]["sd"] == pytest.approx(np.std(aps, ddof=1))
    assert content["found"]["operation_code"] == "0-0-1-0-1-0-2-1"
    assert outcome.verdict == "better"
    assert outcome.headline.startswith("What was found is better than the baseline. ")
    assert outcome.headline.endswith(outcome.handed_over.reason)


def test_a_test_without_the_metric_is_no_comparison(tmp_path):
    outcome = make((73.0, None), (70.0, 71.0))
    assert outcome.found.mean is None and outcome.found.sd is None
    assert outcome.verdict == "not compared"
    assert "A test has no bbox/AP." in outcome.headline
    outcome.write(str(tmp_path))
    assert Outcome.read(str(tmp_path)) == outcome


def test_a_file_of_something_else(tmp_path):
    (tmp_path / "result.json").write_text('{"architecture": {}, "rankings": {}}')
    with pytest.raises(ValueError, match="result.json is no result of a recipe: KeyError"):
        Outcome.read(str(tmp_path))


def test_how_well_the_supernet_has_ranked():
    text = " ".join(describe_outcome(make()).split())
    assert "stage_search: 7 of the 24 other codes cannot be told from the leader." in text
    assert (
        "stage_search and 6 codes trained alone for 600 iterations: tau 0.60 (what a perfect "
        "ranking could expect is unknown), regret 1.25."
    ) in text
    assert "checkpoints model_0000499 and model_final rank these codes with tau 0.20." in text
