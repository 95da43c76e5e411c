"""What the page of a search says, against the files that the search has left."""

import json

import pytest
import yaml
from pages import Page, run_search_net
from tiny_search import STEPS, write_search_config

from crnas_d2.analysis import analyze_detector
from crnas_d2.config import read_config
from crnas_d2.data import setup_datasets
from crnas_d2.report.report import _format_duration
from crnas_d2.search import Ledger
from crnas_d2.search.evaluation import format_code, parse_code
from crnas_d2.search.evaluator import ArchitectureEvaluator


def results_of(folder, step):
    return json.loads((folder / step / "results.json").read_text())


def test_steps(procedure_page):
    folder = procedure_page.parent.parent
    rows = Page(procedure_page).table("image passes")
    assert [row["step"] for row in rows] == STEPS
    for row in rows:
        assert row["time"] == _format_duration(results_of(folder, row["step"])["seconds"])
    by_step = {row["step"]: row for row in rows}
    score = results_of(folder, "operation_search")["results"]["bbox/AP"]
    assert by_step["operation_search"]["result"] == f"bbox/AP {score:.1f}"
    assert by_step["final"]["size"] == "6 iterations x 2 images"


def test_ranking_of_the_stage_search(procedure_page):
    folder = procedure_page.parent.parent / "stage_search"
    evaluations = Ledger.read(folder / "ledger.sqlite").evaluations
    rows = Page(procedure_page).table("stage code")
    ranking = json.loads((folder / "result.json").read_text())["rankings"]["5"]["ranking"]
    assert [row["stage code"] for row in rows] == [code for code, _ in ranking]
    for rank, row in enumerate(rows, start=1):
        evaluation = evaluations[parse_code(row["stage code"])]
        assert (row["rank"], row["status"], row["images"]) == (str(rank), "done", "7")
        assert row["bbox/AP"] == f"{evaluation.metrics['bbox/AP']:.2f}"
        assert row["bbox/AP50"] == f"{evaluation.metrics['bbox/AP50']:.2f}"


def test_ranking_of_the_operation_search(procedure_page):
    """All 3 + 9 x 4 partial codes, each compared with those of its block."""
    folder = procedure_page.parent.parent / "operation_search"
    rows = Page(procedure_page).table("operation code")
    evaluations = Ledger.read(folder / "ledger.sqlite").evaluations
    assert sorted(row["operation code"] for row in rows) == sorted(map(format_code, evaluations))
    assert [row["rank"] for row in rows] == [str(i + 1) for n in (3, 9, 9, 9, 9) for i in range(n)]
    best = rows[3 + 9 * 3]["operation code"]
    assert best == json.loads((folder / "result.json").read_text())["rankings"]["all"]["best"]


def test_networks_and_cost(procedure_page):
    folder = procedure_page.parent.parent
    page = Page(procedure_page)
    trained = {row["network"]: row for row in page.table("network")}
    cfg = read_config(str(folder / "final" / "config.yaml"))
    setup_datasets(cfg)
    cost = analyze_detector(cfg)
    for network, step in (("baseline", "baseline"), ("found", "final")):
        results = results_of(folder, step)["results"]["bbox"]
        assert trained[network]["bbox AP"] == f"{results['AP']:.1f}"
    rows = {(row["part"], row["module"]): row for row in page.table("found, GMACs")}
    assert len(rows) == len(cost.modules)
    for module in cost.modules:
        row = rows[module.part, module.name]
        assert row["found, GMACs"] == f"{module.macs / 1e9:.3f}"
        assert row["found, M parameters"] == f"{module.parameters / 1e6:.3f}"
    detector = next(row for table in page.tables for row in table if row[0] == "detector")
    assert detector[2] == f"{cost.macs / 1e9:.3f}"
    assert f"{cost.parameters / 1e6:.2f} M" in page.text
    assert trained["found"]["stage code"] == format_code(cfg.MODEL.CR.STAGE_CODE)


@pytest.mark.parametrize("name", ["procedure_page", "stage_page"])
def test_it_is_one_file(name, request):
    """Nothing is loaded from elsewhere, and links lead to places of the page itself."""
    page = Page(request.getfixturevalue(name))
    assert page.links
    for link in page.links:
        assert link.startswith("data:") or link.removeprefix("#") in page.ids


def test_how_to_train_it(procedure_page):
    folder = procedure_page.parent.parent
    text = procedure_page.read_text()
    assert f"train_net.py --config-file {folder}/final.yaml --num-gpus 8" in text
    assert f"MODEL.WEIGHTS {folder}/final/model_final.pth" in text
    start = text.index("MODEL:\n  CR:")
    keys = yaml.safe_load(text[start : text.index("</pre>", start)])
    assert keys == yaml.safe_load((folder / "architecture.yaml").read_text())


def test_settings(procedure_page, stage_page):
    text = Page(procedure_page).text
    assert 'STAGE_PRETRAINING: "stage_pretraining.yaml"' in text
    assert "SEARCH.METRIC: bbox/AP" in text and "detectron2" in text and "PyTorch" in text
    settings = Ledger.read(stage_page.parent.parent / "ledger.sqlite").settings
    assert f"weights: {settings['weights']}" in Page(stage_page).text


def test_budgets_are_ranked_apart(stage_page):
    rankings = json.loads((stage_page.parent.parent / "result.json").read_text())["rankings"]
    rows = Page(stage_page).table("stage code")
    expected = [code for ranking in rankings.values() for code, _ in ranking["ranking"]]
    assert [row["stage code"] for row in rows] == expected
    text = stage_page.read_text()
    assert "<option selected>budget 5</option>" in text
    # Without a detector to train, there is no final config, and random weights stand for trained ones.
    assert "final.yaml" not in text and "with random weights" in text


def test_what_failed_is_listed_with_its_reason(stage_config, monkeypatch):
    score = ArchitectureEvaluator.score

    def fail_for_one(self, code, *args):
        return score(self, code, "<out of luck>" if code == (1, 1, 2, 1) else args[0], *args[1:])

    monkeypatch.setattr(ArchitectureEvaluator, "score", fail_for_one)
    path = run_search_net(stage_config, stage_config.parent / "failed", "SEARCH.BUDGETS", "[5]")
    row = Page(path).table("stage code")[-1]
    assert row["stage code"] == "1-1-2-1" and row["status"] == "failed: <out of luck>"
    assert row["rank"] == row["bbox/AP"] == ""
    assert "1 failed" in Page(path).text


def test_a_tie_is_told(stage_config, monkeypatch):
    evaluate = ArchitectureEvaluator.evaluate

    def same(self, codes):
        for evaluation in evaluate(self, codes):
            evaluation.metrics.update({"bbox/AP": 20.0})
            yield evaluation

    monkeypatch.setattr(ArchitectureEvaluator, "evaluate", lambda self, c: list(same(self, c)))
    path = run_search_net(stage_config, stage_config.parent / "tied", "SEARCH.BUDGETS", "[5]")
    assert (
        "4 codes have the best score, 1-1-1-2, 1-1-2-1, 1-2-1-1, 2-1-1-1: a tie" in Page(path).text
    )


@pytest.mark.parametrize("strategy", ["random", "evolutionary"])
def test_other_strategies(tmp_path, strategy):
    config = write_search_config(tmp_path / "dilation", "dilation")
    opts = ["SEARCH.STRATEGY", strategy, "SEARCH.EVALUATIONS", 6]
    path = run_search_net(config, tmp_path / strategy, *opts)
    assert len(Page(path).table("operation code")) == 6
    assert "of the codes with a dilation in a block" in path.read_text()


def test_retinanet(tmp_path):
    config = write_search_config(tmp_path / "retinanet", "stage", detector="retinanet")
    page = Page(run_search_net(config, tmp_path / "out", "SEARCH.BUDGETS", "[5]"))
    rows = page.table("stage code")
    assert len(rows) == 4 and all(float(row["GMACs"]) > 0 for row in rows)
    assert "class subnet" in page.text and "box subnet" in page.text


def test_a_detector_whose_cost_is_not_known(stage_config, tmp_path, monkeypatch):
    """The page shows what there is: the search, and the receptive fields."""

    def refuse(cfg):
        raise ValueError("MODEL.META_ARCHITECTURE is 'Own'")

    monkeypatch.setattr("crnas_d2.search.records.analyze_detector", refuse)
    page = Page(run_search_net(stage_config, tmp_path / "out", "SEARCH.BUDGETS", "[5]"))
    assert len(page.table("stage code")) == 4
    assert "GMACs" not in page.text and "Multiply-adds" not in page.text
    assert "Effective receptive fields" in page.text


def test_before_the_end(procedure_page, tmp_path):
    """After the stage search there is a page already, with what is still to come."""
    from crnas_d2.report import report_procedure
    from crnas_d2.search import Procedure, Recipe

    recipe = procedure_page.parents[2] / "recipe.yaml"
    procedure = Procedure(Recipe(str(recipe), ["OUTPUT_DIR", str(tmp_path)]))
    pages = []

    def report():
        pages.append(report_procedure(procedure))
        if pages[-1]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        procedure.run(report)
    assert pages == ["", "", str(tmp_path / "report" / "index.html")]
    page = Page(tmp_path / "report" / "index.html")
    assert [row["time"] == "open" for row in page.table("image passes")] == [False] * 3 + [True] * 4
    assert "operation" not in page.ids and "stage" in page.ids
    assert "not comparable to a trained detector" in page.text


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
    assert _format_duration(seconds) == text
