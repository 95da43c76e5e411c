"""What the page of a search says, against the files that the search has left."""

import html
import json
import os
import re
import shlex
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from made_outcomes import make_network, make_outcome, make_shortlist
from pages import Page, run_search_net
from tiny_search import STEPS, write_search_config

from crnas_d2.analysis import analyze_detector
from crnas_d2.architecture import format_code, parse_code
from crnas_d2.config import read_config
from crnas_d2.data import setup_datasets
from crnas_d2.evaluation.evaluator import ArchitectureEvaluator
from crnas_d2.procedure import Procedure, Recipe
from crnas_d2.procedure.outcome import Outcome
from crnas_d2.report import report_procedure
from crnas_d2.report.shown_commands import how_to_use
from crnas_d2.report.tables import format_duration
from crnas_d2.search import Ledger

from detectron2.utils import comm


def results_of(folder, step):
    return json.loads((folder / step / "step.json").read_text())


def test_steps(procedure_page):
    folder = procedure_page.parent.parent
    rows = Page(procedure_page).table("image passes")
    assert [row["step"] for row in rows] == STEPS
    for row in rows:
        assert row["time"] == format_duration(results_of(folder, row["step"])["seconds"])
    by_step = {row["step"]: row for row in rows}
    score = results_of(folder, "operation_search")["results"]["bbox/AP"]
    assert by_step["operation_search"]["result"] == f"bbox/AP {score:.2f}"
    assert by_step["final"]["size"] == "6 iterations x 2 images"


def test_ranking_of_the_stage_search(procedure_page):
    folder = procedure_page.parent.parent / "stage_search"
    trials = Ledger.read(folder / "ledger.sqlite").trials
    rows = Page(procedure_page).table("stage code")
    ranking = json.loads((folder / "result.json").read_text())["rankings"]["5"]["ranking"]
    assert [row["stage code"] for row in rows] == [code for code, _ in ranking]
    for rank, row in enumerate(rows, start=1):
        trial = trials[parse_code(row["stage code"])]
        assert (row["rank"], row["status"], row["images"]) == (str(rank), "done", "7")
        assert row["bbox/AP"] == f"{trial.metrics['bbox/AP']:.2f}"
        assert row["bbox/AP50"] == f"{trial.metrics['bbox/AP50']:.2f}"


def test_ranking_of_the_operation_search(procedure_page):
    """All 3 + 9 x 4 partial codes, each compared with those of its block."""
    folder = procedure_page.parent.parent / "operation_search"
    rows = Page(procedure_page).table("operation code")
    trials = Ledger.read(folder / "ledger.sqlite").trials
    assert sorted(row["operation code"] for row in rows) == sorted(map(format_code, trials))
    assert [row["rank"] for row in rows] == [str(i + 1) for n in (3, 9, 9, 9, 9) for i in range(n)]
    best = rows[3 + 9 * 3]["operation code"]
    assert best == json.loads((folder / "result.json").read_text())["rankings"]["all"]["best"]


def test_what_the_parts_have_of_each_class(procedure_page):
    """Against the files of the parts; two rectangles are in each image."""
    root = procedure_page.parents[2] / "data"
    counts = {"test": len(json.loads((root / "val/annotations.json").read_text())["images"])}
    for part in ("archtrain", "archval"):
        (path,) = root.glob(f"*_{part}_size7_seed0_*.json")
        counts[part] = len(json.loads(path.read_text())["images"])
    assert counts == {"archtrain": 5, "archval": 7, "test": 4}
    *rows, total = Page(procedure_page).table("lacking in")
    assert [row["class"] for row in rows] == ["red", "blue"]
    for role, images in counts.items():
        for row in rows:
            assert (row[f"{role} images"], row[f"{role} objects"]) == (str(images), str(images))
        assert (total[f"{role} images"], total[f"{role} objects"]) == (str(images), str(2 * images))
    assert "has no object of" not in Page(procedure_page).text


def test_networks_and_cost(procedure_page):
    """Found, baseline and their difference, at the paper's size and at that of the test images."""
    folder = procedure_page.parent.parent
    page = Page(procedure_page)
    rows = {row["network"]: row for row in page.table("network")}
    costs = {}
    for network, step in (("baseline", "baseline"), ("found", "final")):
        cfg = read_config(str(folder / step / "config.yaml"))
        setup_datasets(cfg)
        results = results_of(folder, step)["results"]["bbox"]
        assert rows["bbox AP"][network] == f"{results['AP']:.2f}"
        assert rows["stage code"][network] == format_code(cfg.MODEL.CR.STAGE_CODE)
        # All images are of 64 x 64 or of a size that becomes 64 x 85 or 85 x 64.
        costs[network] = [analyze_detector(cfg, size) for size in ((800, 1088), (64, 64))]
    *multiply_adds, parameters = (rows for head, *rows in page.tables if head[0] == "module")
    for i, size in enumerate(("800 x 1088", "64 x 64")):
        pair = [costs[network][i] for network in ("baseline", "found")]
        check_numbers(list(rows[f"GMACs, {size}"].values())[1:], [cost.macs / 1e9 for cost in pair])
        *modules, total = multiply_adds[i]
        assert len(modules) == len(pair[0].modules)
        for (name, *numbers), before, after in zip(modules, *(cost.modules for cost in pair)):
            assert name == before.name
            check_numbers(numbers, [m.macs / 1e9 for m in (before, after)])
        check_numbers(total[1:], [cost.macs / 1e9 for cost in pair])
    for (_, *numbers), before, after in zip(parameters, *(c.modules for c in pair)):
        check_numbers(numbers, [m.parameters / 1e6 for m in (before, after)])
    pair = [costs[network][0].parameters / 1e6 for network in ("baseline", "found")]
    check_numbers(list(rows["M parameters"].values())[1:], pair)
    assert f"{pair[1]:.2f} M" in page.text


def check_numbers(texts, pair):
    """Three digits each, and the change of what is not rounded."""
    baseline, found = pair
    assert texts[:2] == [f"{baseline:.3f}", f"{found:.3f}"]
    assert float(texts[2]) == pytest.approx(found - baseline, abs=6e-4)


@pytest.mark.parametrize("name", ["procedure_page", "stage_page"])
def test_it_is_one_file(name, request):
    """Nothing is loaded from elsewhere, and links lead to places of the page itself."""
    page = Page(request.getfixturevalue(name))
    assert page.links
    for link in page.links:
        assert link.startswith("data:") or link.removeprefix("#") in page.ids


def commands_of(path):
    """Those that the page shows, as lists of words."""
    shown = re.findall(r'<pre class="command">(.*?)</pre>', path.read_text(), re.DOTALL)
    return [shlex.split(line) for text in shown[:-1] for line in html.unescape(text).splitlines()]


def test_how_to_use_it(procedure_page):
    folder = str(procedure_page.parent.parent)
    *commands, watch = commands_of(procedure_page)
    program = ["crnas"] if commands[0][0] == "crnas" else [sys.executable, "-m", "crnas_d2"]
    final, baseline = f"{folder}/final", f"{folder}/baseline"

    def train(config, *more):
        return [*program, "train", "--config-file", config, "--num-gpus", "1", *more]

    assert commands == [
        [*program, "predict", "--model", folder, "--input", "photos", "--output", "predictions"],
        train(f"{final}/config.yaml", "SEED", "2", "OUTPUT_DIR", f"{final}_seed2"),
        train(f"{baseline}/config.yaml", "SEED", "2", "OUTPUT_DIR", f"{baseline}_seed2"),
        [*program, "compare", baseline, final],
        train(f"{final}.yaml", "--eval-only"),
    ]
    assert watch == ["tensorboard", "--logdir", folder]
    text = procedure_page.read_text()
    start = text.index("MODEL:\n  CR:")
    keys = yaml.safe_load(text[start : text.index("</pre>", start)])
    assert keys == yaml.safe_load((procedure_page.parents[1] / "architecture.yaml").read_text())


def test_command_to_compare_several_seeds():
    """The folder of the recipe stands for all of its trainings."""
    seeds = [make_network(name, {}, {}) for name in ("baseline", "found")]
    assert how_to_use("out", "out/final.yaml", seeds)["Compare the two, with intervals:"].endswith(
        "compare out"
    )


@pytest.mark.parametrize("where", ["beside python", "elsewhere", "nowhere"])
def test_name_of_the_commands(monkeypatch, where):
    """The console script, if the one that is found belongs to this Python."""
    folder = {"beside python": os.path.dirname(sys.executable), "elsewhere": "/other/bin"}
    script = f"{folder[where]}/crnas" if where in folder else None
    monkeypatch.setattr("shutil.which", lambda name: script)
    monkeypatch.setattr(comm, "get_local_size", lambda: 3)
    network = SimpleNamespace(weights="")
    (train,) = how_to_use("a b", "a b/final.yaml", [network, network]).values()
    program = "crnas" if where == "beside python" else f"{sys.executable} -m crnas_d2"
    assert train.startswith(f"{program} train --config-file 'a b/final.yaml' --num-gpus 3 ")


def text_of(path):
    return re.sub(r"\s+", " ", Page(path).text)


def test_the_answer_is_told_first(procedure_page):
    """One seed is too few: final.yaml is the baseline, which is said before all else."""
    outcome = Outcome.read(str(procedure_page.parents[1]))
    assert outcome.handed_over.network == "baseline"
    text = text_of(procedure_page)
    sentences = (outcome.handed_over.reason, outcome.sentence, outcome.reason, "Steps", "Found")
    places = [text.index(sentence) for sentence in sentences]
    assert places == sorted(places)
    found, baseline = (
        results_of(procedure_page.parents[1], s)["results"]["bbox"]["AP"]
        for s in ("final", "baseline")
    )
    assert outcome.comparison.found == (found,) and outcome.comparison.baseline == (baseline,)
    (row,) = Page(procedure_page).table("training")
    assert (row["baseline"], row["found"]) == (f"{baseline:.2f}", f"{found:.2f}")


def test_numbers_of_the_verdict(verdict_page):
    """Those of the outcome, on the first screen and in the tables."""
    outcome = make_outcome(budget="5")
    comparison, page = outcome.comparison, Page(verdict_page)
    text = text_of(verdict_page)
    first = text[: text.index("Seeds and difference", text.index("Parameters"))]
    for number in (comparison.found_mean, comparison.baseline_mean, comparison.found_sd):
        assert f"{number:.2f}" in first
    low, high = comparison.interval
    assert f"{low:+.2f} to {high:+.2f}; found won {comparison.wins} of 5, p" in first
    assert f"{comparison.p_better:.3f} for better" in first
    assert f"smallest gain to be seen here {comparison.smallest_gain:.1f}" in first
    assert text.index(outcome.sentence) < text.index(outcome.reason)
    assert outcome.handed_over.network == "found"
    *rows, mean, _ = page.table("training")
    assert [row["difference"] for row in rows] == [f"{d:+.2f}" for d in comparison.differences]
    assert mean["difference"] == f"{comparison.mean:+.2f}"
    known = {row["what is known of it"]: row["value"] for row in page.table("value")}
    assert known["sign-flip p that found is no better"] == f"{comparison.p_better:.3f}"
    assert (
        "Tests on own_test under this budget: 10." in text
        and "chosen by own_archval (200 images)" in text
    )


def test_a_short_list_on_the_page(verdict_page):
    result = make_shortlist()
    _, names, *rows = next(t for t in Page(verdict_page).tables if "from" in t[0])
    assert names == ["seed 1", "seed 2", "mean"] * 2
    for row, candidate in zip(rows, result.candidates, strict=True):
        assert row[:2] == [format_code(candidate.code), candidate.origin]
        assert row[4:6] == [f"{ap:.2f}" for ap in result.rungs[0].scores[candidate.code]]
    agreements = Page(verdict_page).table("highest tau expected")
    assert [row["rung"] for row in agreements] == ["rung 1", "rung 2"]
    (row,) = Page(verdict_page).table("checkpoint")
    assert list(row.values()) == ["model_0000099", "model_final", "0.40"]


def remake(page, name, *, without=()):
    """The page of a copy of a search that has ended, written anew; without some of its files."""
    folder = page.parents[2] / name
    shutil.copytree(page.parents[1], folder)
    for path in without:
        (folder / path).unlink()
    for path in folder.glob("*/step.json"):
        path.write_text(path.read_text().replace(str(page.parents[1]), str(folder)))
    procedure = Procedure(Recipe(str(page.parents[2] / "recipe.yaml"), ["OUTPUT_DIR", str(folder)]))
    (folder / "report" / "index.html").unlink()
    return report_procedure(procedure)


@pytest.mark.usefixtures("unrendered")
def test_missing_files_are_told(procedure_page):
    results = "final/inference/coco_instances_results.json"
    metrics = [f"{step}/metrics.json" for step in ("final", "baseline", "stage_supernet")]
    path = remake(procedure_page, "some files", without=[results, *metrics])
    page = Page(Path(path))
    assert "The comparison on test images could not be made" in page.text
    assert results in page.text
    assert "Loss of the other trainings" in page.text
    assert "Training of baseline and found" not in page.text
    assert len(page.table("stage code")) == 4


PARTS = {
    "draw_curves": "training curves",
    "draw_compared": "comparison on test images",
    "draw_fields": "effective receptive fields",
    "sketch": "sketch of the networks",
    "SearchRecord.charts": "chart of the stage search",
    "InputSize.of": "count at the size of the test images",
    "read_config": "reading of its config",
}


def fail(*args, **options):
    raise KeyError("out of <luck>")


@pytest.mark.usefixtures("unrendered")
def test_a_part_that_fails_is_left_out(procedure_page, monkeypatch, caplog):
    for name in PARTS:
        monkeypatch.setattr(f"crnas_d2.report.search_page.{name}", fail)
    page = Page(Path(remake(procedure_page, "failing parts")))
    for part in PARTS.values():
        sentence = f"The {part} could not be made: 'out of <luck>'"
        assert sentence in page.text and sentence in caplog.text
    assert len(page.table("stage code")) == 4 and "GMACs, 800 x 1088" in page.text


@pytest.mark.usefixtures("unrendered")
def test_without_the_test_images(procedure_page, monkeypatch):
    monkeypatch.setattr("crnas_d2.report.search_page.DatasetCatalog", SimpleNamespace(get=fail))
    page = Page(Path(remake(procedure_page, "no images")))
    assert "The list of test images could not be made" in page.text
    assert "GMACs, 800 x 1088" in page.text and "64 x 64" not in page.text


def test_a_page_that_fails_stops_nothing(procedure_page, monkeypatch, caplog):
    monkeypatch.setattr("crnas_d2.report.search_page.ranking_table", fail)
    assert remake(procedure_page, "no page") == ""
    assert "The report could not be made: 'out of <luck>'" in caplog.text


def test_nothing_is_left_out(procedure_page, stage_page):
    for path in (procedure_page, stage_page):
        assert "could not be made" not in path.read_text()
        assert path.stat().st_size < 3e6


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
    assert [row["weighted blocks"] for row in rows] == ["5"] * 4 + ["6"] * 7
    assert all(float(row["backbone GMACs at 800 x 1088"]) > 0 for row in rows)
    text = stage_page.read_text()
    assert "<option selected>budget 5</option>" in text
    assert "Nothing was compared: this search trains no detectors." in text
    # Without a detector to train, there is no final config, and random weights stand for trained ones.
    assert "final.yaml" not in text and "with random weights" in text


@pytest.mark.usefixtures("unrendered")
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


@pytest.mark.usefixtures("unrendered")
def test_a_tie_is_told(stage_config, monkeypatch):
    evaluate = ArchitectureEvaluator.evaluate

    def same(self, *arguments):
        for trial in evaluate(self, *arguments):
            trial.metrics.update({"bbox/AP": 20.0})
            yield trial

    monkeypatch.setattr(ArchitectureEvaluator, "evaluate", same)
    path = run_search_net(stage_config, stage_config.parent / "tied", "SEARCH.BUDGETS", "[5]")
    assert (
        "4 codes have the best score, 1-1-1-2, 1-1-2-1, 1-2-1-1, 2-1-1-1: a tie" in Page(path).text
    )


@pytest.mark.usefixtures("unrendered")
@pytest.mark.parametrize("strategy", ["random", "evolutionary"])
def test_other_strategies(tmp_path, strategy, monkeypatch):
    monkeypatch.setattr("crnas_d2.report.search_page.draw_fields", lambda *args: [])
    config = write_search_config(tmp_path / "dilation", "dilation")
    opts = ["SEARCH.STRATEGY", strategy, "SEARCH.EVALUATIONS", 6]
    path = run_search_net(config, tmp_path / strategy, *opts)
    assert len(Page(path).table("operation code")) == 6
    assert "of the codes with a dilation in a block" in path.read_text()


@pytest.mark.usefixtures("unrendered")
def test_retinanet(tmp_path):
    config = write_search_config(tmp_path / "retinanet", "stage", detector="retinanet")
    page = Page(run_search_net(config, tmp_path / "out", "SEARCH.BUDGETS", "[5]"))
    rows = page.table("stage code")
    assert len(rows) == 4 and all(float(row["backbone GMACs at 800 x 1088"]) > 0 for row in rows)
    assert "class subnet" in page.text and "box subnet" in page.text


@pytest.mark.usefixtures("unrendered")
def test_a_detector_whose_cost_is_not_known(stage_config, tmp_path, monkeypatch):
    """The page shows what there is: the search, and the receptive fields."""

    def refuse(cfg):
        raise ValueError("MODEL.META_ARCHITECTURE is 'Own'")

    monkeypatch.setattr("crnas_d2.procedure.networks.analyze_detector", refuse)
    page = Page(run_search_net(stage_config, tmp_path / "out", "SEARCH.BUDGETS", "[5]"))
    assert len(page.table("stage code")) == 4
    assert "GMACs" not in page.text and "Multiply-adds" not in page.text
    assert "Effective receptive fields" in page.text


@pytest.mark.usefixtures("unrendered")
def test_before_the_end(procedure_page, tmp_path):
    """After the stage search there is a page already, with what is still to come."""
    recipe = procedure_page.parents[2] / "recipe.yaml"
    procedure = Procedure(Recipe(str(recipe), ["OUTPUT_DIR", str(tmp_path)]))
    pages = []

    def report(changed):
        assert changed == [""]
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
    told = "Nothing is compared yet: of the trainings of the two networks, 0 of the baseline and 0"
    assert told in re.sub(r"\s+", " ", page.text)
    assert "Effective receptive fields" not in page.text  # made once, at the end
