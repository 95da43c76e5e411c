"""Budgets of a stage search by search_net.py: what fits them, and where nothing is left."""

import pytest
from supernet_searches import result_of, search
from tiny_search import write_search_config

from crnas_d2.analysis import analyze_detector
from crnas_d2.architecture import Architecture
from crnas_d2.config import read_config, set_architecture
from crnas_d2.evaluation.evaluator import ArchitectureEvaluator
from crnas_d2.procedure.search_extent import get_space
from crnas_d2.search.cost import plain_detector
from crnas_d2.search.ranking import AllFailedError

pytestmark = pytest.mark.usefixtures("without_report")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return write_search_config(tmp_path_factory.mktemp("search"), "stage")


def test_no_stage_code_fits(config):
    with pytest.raises(ValueError, match="budget 12: no stage code .* nearest costs are 9"):
        search(config, config.parent / "unfit", "SEARCH.BUDGETS", "[12]")
    search(config, config.parent / "unfit", "SEARCH.BUDGETS", "[9]", "SEARCH.SEED", 1)


def test_budget_in_multiply_adds(config):
    """Stage codes of equal cost in blocks have equal multiply-adds in the ResNet series."""
    folder = config.parent / "gmacs"
    options = ["SEARCH.COST", "gmacs", "SEARCH.BUDGETS", "[]", "SEARCH.TOLERANCE", 0.001]
    search(config, folder, *options)
    codes = [code for code, _ in next(iter(result_of(folder)["rankings"].values()))["ranking"]]
    assert {sum(map(int, code.split("-"))) for code in codes} == {5} and len(codes) == 4


def test_parameters_as_an_upper_limit(config):
    """All codes that have at most as many as the baseline, by the direct count of each."""
    folder = config.parent / "parameters"
    options = ["SEARCH.COST", "parameters", "SEARCH.BUDGET_IS", "at_most", "SEARCH.BUDGETS", "[]"]
    search(config, folder, *options)
    cfg = plain_detector(read_config(str(folder / "config.yaml")))
    counted = {}
    for code in get_space(read_config(str(config))):
        set_architecture(cfg, Architecture(code))
        counted["-".join(map(str, code))] = analyze_detector(cfg).parameters / 1e6
    most = counted["1-1-2-1"]
    expected = {code: number for code, number in counted.items() if number <= most}
    assert 1 < len(expected) < len(counted)
    result = result_of(folder)
    assert result["limits"] == {
        "unit": "M parameters",
        "at_most": True,
        "tolerance": 0.0,
        "costs": expected,
    }
    [(budget, ranking)] = result["rankings"].items()
    assert budget == str(most)
    assert {code for code, _ in ranking["ranking"]} == expected.keys()


def test_where_all_fail_the_reasons_are_told(config, monkeypatch):
    score = ArchitectureEvaluator.score
    monkeypatch.setattr(
        ArchitectureEvaluator, "score", lambda self, code, *_: score(self, code, "too odd")
    )
    with pytest.raises(AllFailedError, match=r"failed for all 4: 1-1-1-2, .*: too odd \(4\)$"):
        search(config, config.parent / "all_failed", "SEARCH.BUDGETS", "[5]")
