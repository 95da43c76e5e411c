"""The pages of a recipe with several budgets, against the files that it has left."""

import json
import os

import pytest
from made_outcomes import make_outcome
from pages import Page
from tiny_search import write_recipe

from crnas_d2.architecture import Architecture, format_code, parse_code
from crnas_d2.evaluation.evaluator import ArchitectureEvaluator
from crnas_d2.procedure import Procedure, Recipe
from crnas_d2.procedure.outcome import Outcome
from crnas_d2.report import report_procedure
from crnas_d2.report.budgets_page import Budget, write_budgets_page
from crnas_d2.report.search_page import SearchPage

OPTS = ["SEARCH.BUDGETS", "[5, 6]", "SEARCH.RECIPE.SEEDS", "2"]
OPTS += ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"]  # or else there may be no detection
STAGES_ALONE = ["SEARCH.RECIPE.STAGE_PRETRAINING", "", "SEARCH.RECIPE.DILATION_SUPERNET", ""]


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """OUTPUT_DIR of a procedure with two budgets and two seeds, and what was reported in turn."""
    recipe = write_recipe(tmp_path_factory.mktemp("budgets"))
    folder = recipe.parent / "out"
    procedure = Procedure(Recipe(str(recipe), ["OUTPUT_DIR", str(folder), *OPTS, *STAGES_ALONE]))
    reported = []
    evaluate = ArchitectureEvaluator.evaluate

    def prefer_long_stages_in_front(self, *arguments):
        for trial in evaluate(self, *arguments):
            trial.metrics["bbox/AP"] = 10.0 * trial.code[0] + trial.code[1]
            yield trial

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ArchitectureEvaluator, "evaluate", prefer_long_stages_in_front)
        patch.setattr("crnas_d2.report.search_page.draw_fields", lambda *args: [])
        draw, svg = SearchPage._charts, b'<svg width="1" height="1"></svg>'

        def draw_at_the_end(page, *arguments):
            return draw(page, *arguments) if all(step.done for step in page.steps) else []

        patch.setattr(SearchPage, "_charts", draw_at_the_end)
        patch.setattr("crnas_d2.report.themes.render", lambda *_: svg)

        def report(changed):
            before = {budget: _written(procedure, budget) for budget in ("5", "6")}
            report_procedure(procedure, changed)
            after = {budget: _written(procedure, budget) for budget in ("5", "6")}
            reported.append((list(changed), [b for b in after if after[b] != before[b]]))

        procedure.run(report)
    return folder, reported


def _written(procedure, budget):
    path = os.path.join(procedure.folder(budget), "report", "index.html")
    return os.stat(path).st_mtime_ns if os.path.exists(path) else None


def test_a_page_is_written_when_its_budget_has_changed(output):
    """After the stage search, all; after a training, that of its budget."""
    both = ["5", "6"]
    supernet, search, *trainings = output[1]
    assert (supernet, search) == ((both, []), (both, both))
    assert trainings == [([budget], [budget]) for budget in both for _ in range(4)]


def test_page_over_all_budgets(output):
    """A row for each, with the numbers of its result.json, and a way to its page and back."""
    folder, _ = output
    path = folder / "report" / "index.html"
    page = Page(path)
    rows = page.table("final.yaml is")
    ranking = json.loads((folder / "stage_search" / "result.json").read_text())["rankings"]
    for row, budget in zip(rows, ("5", "6"), strict=True):
        outcome = Outcome.read(str(folder / f"budget_{budget}"))
        assert (row["budget"], row["stage code"]) == (budget, ranking[budget]["best"])
        for name, network in (("baseline", outcome.baseline), ("found", outcome.found)):
            assert row[name] == f"{network.mean:.2f} ± {network.sd:.2f}"
        assert (row["verdict"], row["final.yaml is"]) == (
            outcome.verdict,
            outcome.handed_over.network,
        )
        link = f"../budget_{budget}/report/index.html"
        assert link in page.links and (path.parent / link).resolve().is_file()
    own = Page(folder / "budget_6" / "report" / "index.html")
    assert "../../report/index.html" in own.links


@pytest.mark.parametrize("budget, other", [("5", "6"), ("6", "5")])
def test_page_of_a_budget(output, budget, other):
    """Its own ranking, steps, trainings and verdict, and nothing of the other one's."""
    folder, _ = output
    page = Page(folder / f"budget_{budget}" / "report" / "index.html")
    assert f"budget {budget}" in page.text and "could not be made" not in page.text
    ranking = json.loads((folder / "stage_search" / "result.json").read_text())["rankings"][budget]
    assert [row["stage code"] for row in page.table("stage code")] == [
        c for c, _ in ranking["ranking"]
    ]
    steps = [row["step"] for row in page.table("image passes")]
    assert steps == [
        *("stage_supernet", "stage_search"),
        *(f"budget_{budget}/{name}" for name in ("baseline", "final", "baseline_2", "final_2")),
    ]
    outcome = Outcome.read(str(folder / f"budget_{budget}"))
    assert outcome.sentence in page.text and outcome.reason in page.text
    *seeds, _, _ = page.table("training")
    assert [row["training"] for row in seeds] == [f"seed {s}" for s in outcome.baseline.seeds]
    assert [row["found"] for row in seeds] == [f"{ap:.2f}" for ap in outcome.found.aps]
    rows = {row["network"]: row for row in page.table("network")}
    assert rows["bbox AP"]["baseline"] == f"{outcome.baseline.mean:.2f} ± {outcome.baseline.sd:.2f}"
    assert parse_code(rows["stage code"]["found"]) == outcome.found.architecture.stage_code
    assert "mean and standard deviation of 2 trainings each" in page.text
    assert "of the first seed's trainings" in page.text


def test_rows_of_made_outcomes(tmp_path):
    """Better, the baseline itself, and one that is still open."""
    outcomes = {"6": make_outcome(budget="6"), "8": make_outcome(None, budget="8"), "10": None}
    found = Architecture((1, 2, 3, 2))
    budgets = [Budget(n, found, o, f"Found under budget {n}.", "") for n, o in outcomes.items()]
    page = Page(write_budgets_page(str(tmp_path), budgets, {}))
    better, same, still_open = page.table("final.yaml is")
    comparison = outcomes["6"].comparison
    low, high = comparison.interval
    assert better["difference"] == f"{comparison.mean:+.2f} ({low:+.2f} to {high:+.2f})"
    assert (better["verdict"], better["final.yaml is"], better["blocks"]) == (
        "better",
        "found",
        "8",
    )
    assert (same["verdict"], same["final.yaml is"]) == ("not shown", "baseline")
    assert (same["found"], same["difference"]) == ("the baseline itself", "")
    assert (still_open["verdict"], still_open["baseline"]) == ("open", "")
    assert still_open["stage code"] == format_code((1, 2, 3, 2))
    assert f"{outcomes['6'].sentence} final.yaml is the network that was found." in page.text
    assert f"{outcomes['8'].sentence} final.yaml is the baseline." in page.text
    assert "Found under budget 10." in page.text
    assert "Pareto front" in page.text


def test_unequal_costs_are_both_told(tmp_path):
    outcome = make_outcome(budget="6", cost={"ms": {"baseline": 6.25, "found": 5.5}})
    budget = Budget("6", outcome.found.architecture, outcome, outcome.headline, "")
    (row,) = Page(write_budgets_page(str(tmp_path), [budget], {})).table("final.yaml is")
    assert row["ms"] == "5.5 (baseline 6.25)"
