"""What a recipe leaves for its user: the verdict, and the network that goes with it."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from tiny_search import write_recipe

from crnas_d2.commands.search import main as search
from crnas_d2.config import get_architecture
from crnas_d2.engine.predicting import read_trained
from crnas_d2.evaluation.paired_comparison import compare_pairs
from crnas_d2.evaluation.resampled_ap import resampled_ap
from crnas_d2.procedure import Procedure, Recipe
from crnas_d2.procedure.judgement import tests_of as count_tests
from crnas_d2.procedure.outcome import Outcome

from detectron2.config import get_cfg
from detectron2.data import Metadata
from detectron2.engine.hooks import EvalHook

SEEDS = 5
KEYS = [
    *("SEARCH.RECIPE.STAGE_PRETRAINING", "", "SEARCH.RECIPE.DILATION_SUPERNET", ""),
    *("SEARCH.BUDGETS", [6], "SOLVER.MAX_ITER", 1, "SEARCH.RECIPE.SEEDS", SEEDS),
]


def procedure(recipe, folder, *opts):
    return Procedure(Recipe(str(recipe), list(map(str, [*KEYS, *opts, "OUTPUT_DIR", folder]))))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return write_recipe(tmp_path_factory.mktemp("verdict"))


@pytest.fixture(scope="module")
def trained(recipe):
    """Folder of a run that has ended."""
    folder = recipe.parent / "trained"
    procedure(recipe, folder).run()
    return folder


@pytest.fixture
def folder(trained, tmp_path):
    """A copy of it, to be changed."""
    return shutil.copytree(trained, tmp_path / "output")


def trainings(folder, name):
    return [folder / (f"{name}_{seed + 1}" if seed else name) for seed in range(SEEDS)]


def detect(folder, truth, shift, rng):
    """Let a training have detected the objects, off by as many pixels and a little more; its test
    says so. Returns its AP in resamples of the images."""
    content = json.loads(truth.read_text())
    found = []
    for annotation in content["annotations"]:
        x, y, width, height = annotation["bbox"]
        dx, dy = shift + rng.normal(0, 1, 2)
        ids = {key: annotation[key] for key in ("image_id", "category_id")}
        found.append({**ids, "bbox": [x + dx, y + dy, width, height], "score": rng.random()})
    path = folder / "inference" / "coco_instances_results.json"
    path.write_text(json.dumps(found))
    scored = resampled_ap(str(path), str(truth))
    set_ap(folder, scored.ap)
    return scored


def set_ap(folder, ap):
    state = json.loads((folder / "step.json").read_text())
    state["results"]["bbox"]["AP"] = ap
    (folder / "step.json").write_text(json.dumps(state))


def set_aps(folder, baseline, found):
    for name, aps in (("baseline", baseline), ("final", found)):
        for training, ap in zip(trainings(folder, name), aps, strict=True):
            set_ap(training, ap)


def test_better_by_seeds_and_images(recipe, folder):
    truth, rng = recipe.parent / "data" / "val" / "annotations.json", np.random.default_rng(0)
    scored = {
        name: [detect(training, truth, shift, rng) for training in trainings(folder, name)]
        for name, shift in (("baseline", 5.0), ("final", 0.0))
    }
    aps, resampled = (
        {name: [getattr(it, part) for it in values] for name, values in scored.items()}
        for part in ("ap", "resampled")
    )
    expected = compare_pairs(
        aps["final"],
        aps["baseline"],
        np.array(resampled["final"]),
        np.array(resampled["baseline"]),
    )
    assert expected.verdict == "better" and expected.interval_images
    table = procedure(recipe, folder).run()
    outcome = Outcome.read(str(folder))
    assert outcome.comparison == expected and outcome.data.not_resampled == ""
    assert outcome.baseline.folders == tuple(t.name for t in trainings(folder, "baseline"))
    assert outcome.found.seeds == (1, 2, 3, 4, 5)
    found = json.loads((folder / "stage_search" / "result.json").read_text())["architecture"]
    assert sum(found["stage_code"]) == 6 and outcome.found.architecture.stage_code == (
        *found["stage_code"],
    )
    (costs,) = outcome.cost.values()
    assert costs == {"baseline": 5.0, "found": 6.0}
    assert outcome.found.mean == pytest.approx(np.mean(aps["final"]))
    assert table.startswith("What was found is better than the baseline. ")
    assert max(map(len, table.splitlines())) <= 100
    for seed in range(SEEDS):
        pair = [f"{aps[name][seed]:.2f}" for name in ("baseline", "final")]
        (row,) = [line for line in table.splitlines() if line.startswith(f"| seed {seed + 1} ")]
        assert [cell.strip() for cell in row.split("|")[2:4]] == pair
    for interval in (expected.interval, expected.interval_seeds, expected.interval_images):
        assert f": {interval[0]:+.2f} to {interval[1]:+.2f}." in table
    final = (folder / "final.yaml").read_text()
    assert yaml.safe_load(final)["MODEL"]["WEIGHTS"] == "final/model_final.pth"
    assert final.splitlines()[2].startswith("# What was found is better than the baseline. ")
    readme = (folder / "README.md").read_text().splitlines()
    assert readme[1:4] == ["# Architecture search", "", outcome.headline]
    assert "| `baseline_5` |" not in "\n".join(readme) and "| `final` |" in "\n".join(readme)
    assert all(line in readme for line in table.split("\n\n", 1)[1].splitlines())


@pytest.mark.parametrize(
    "found, verdict, take_found, taken",
    [
        ([61, 62, 63, 64, 65], "better", False, "final"),
        ([51, 50, 53, 52, 54], "not shown", False, "baseline"),
        ([51, 50, 53, 52, 54], "not shown", True, "final"),
        ([41, 42, 43, 44, 45], "worse", False, "baseline"),
        ([41, 42, 43, 44, 45], "worse", True, "final"),
    ],
)
def test_the_verdict_decides_what_is_handed_over(recipe, folder, found, verdict, take_found, taken):
    set_aps(folder, [50, 51, 52, 53, 54], found)
    made = procedure(recipe, folder, "SEARCH.RECIPE.TAKE_FOUND", take_found)
    table = made.run()
    outcome = Outcome.read(str(folder))
    assert outcome.verdict == verdict
    assert outcome.handed_over.network == {"final": "found", "baseline": "baseline"}[taken]
    cfg = read_trained(str(folder))
    assert cfg.MODEL.WEIGHTS == str(folder / taken / "model_final.pth")
    own = read_trained(str(folder / taken))
    assert get_architecture(cfg) == get_architecture(own)
    found_codes = yaml.safe_load((folder / "architecture.yaml").read_text())["MODEL"]["CR"]
    assert (found_codes["STAGE_CODE"] == list(cfg.MODEL.CR.STAGE_CODE)) == (taken == "final")
    words = " ".join(table.split())
    assert ("all the same, as SEARCH.RECIPE.TAKE_FOUND is True" in words) == take_found
    # What the detections that are there give is not what the tests gave
    assert outcome.data.not_resampled.endswith("it is of another test")
    assert outcome.comparison.interval_images is None
    assert "No interval for other test images: " in words


def test_the_same_run_writes_the_same_bytes(recipe, trained):
    names = ("result.json", "README.md", "final.yaml", "architecture.yaml")
    before = [(trained / name).read_bytes() for name in names]
    for name in names:
        (trained / name).unlink()
    procedure(recipe, trained).run()
    assert [(trained / name).read_bytes() for name in names] == before
    assert str(trained) not in (trained / "result.json").read_text()


@pytest.mark.parametrize("take_found, taken", [(False, "baseline"), (True, "final")])
def test_a_test_set_without_the_metric_is_no_comparison(recipe, folder, take_found, taken):
    """And so no better."""
    set_aps(folder, [50, 51, 52, 53, None], [50, 51, 52, 53, 54])
    table = procedure(recipe, folder, "SEARCH.RECIPE.TAKE_FOUND", take_found).run()
    assert table.startswith(
        "What was found is not compared with the baseline. A test has no bbox/AP."
    )
    assert Outcome.read(str(folder)).comparison is None
    assert read_trained(str(folder)).MODEL.WEIGHTS == str(folder / taken / "model_final.pth")


def test_images_of_another_evaluator_are_not_resampled(recipe, folder, monkeypatch):
    set_aps(folder, [50, 51, 52, 53, 54], [61, 62, 63, 64, 65])
    made = procedure(recipe, folder)
    test = made.final_config().DATASETS.TEST[0]
    known = {test: Metadata(name=test, evaluator_type="pascal_voc")}
    monkeypatch.setattr("crnas_d2.procedure.judgement.MetadataCatalog", known)
    outcome = made.outcome()
    assert "is scored as 'pascal_voc', and only what COCO scores" in outcome.data.not_resampled
    assert outcome.verdict == "better"
    assert "which holds for these test images only" in outcome.headline


def test_nothing_was_trained(recipe, trained, tmp_path):
    """And so nothing is claimed."""
    for step in ("stage_supernet", "stage_search"):
        shutil.copytree(trained / step, tmp_path / step)
    table = procedure(recipe, tmp_path, "SEARCH.RECIPE.TRAIN_FINAL", False).run()
    assert not (tmp_path / "result.json").exists()
    codes = yaml.safe_load((tmp_path / "architecture.yaml").read_text())["MODEL"]["CR"]
    assert table.startswith("Found: stage code " + "-".join(map(str, codes["STAGE_CODE"])))
    final = (tmp_path / "final.yaml").read_text()
    assert yaml.safe_load(final)["MODEL"]["CR"]["STAGE_CODE"] == codes["STAGE_CODE"]
    for text in (table, final, (tmp_path / "README.md").read_text()):
        words = " ".join(text.replace("#", " ").split())
        assert "It was not trained here, nor compared with the baseline" in words


def test_a_result_of_fewer_seeds_does_not_stay(recipe, folder, monkeypatch):
    """While more of them are trained, final.yaml says that there is no verdict yet."""
    assert (folder / "result.json").exists()
    begin = Procedure._run

    def stop(self, step):
        if step.name == "final_6":
            raise KeyboardInterrupt
        begin(self, step)

    made = procedure(recipe, folder, "SEARCH.RECIPE.SEEDS", SEEDS + 1)
    monkeypatch.setattr(Procedure, "_run", stop)
    with pytest.raises(KeyboardInterrupt):
        made.run()
    assert not (folder / "result.json").exists()
    for name in ("final.yaml", "README.md"):
        assert "It was not compared with the baseline yet." in (folder / name).read_text()


@pytest.mark.parametrize("name", ["README.md", "result.json"])
def test_a_file_of_the_user_is_not_written_over(recipe, tmp_path, name):
    (tmp_path / name).write_text("{}\n")
    with pytest.raises(
        ValueError, match=f"the search writes {tmp_path / name}; there is one already"
    ):
        procedure(recipe, tmp_path).run()
    assert (tmp_path / name).read_text() == "{}\n"
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_the_table_is_printed(recipe, trained, capsys):
    table = procedure(recipe, trained).run()
    opts = [*map(str, KEYS), "OUTPUT_DIR", str(trained)]
    search(["--config-file", str(recipe), *opts])
    assert capsys.readouterr().out.rstrip().endswith(table)


@pytest.mark.parametrize("period, iterations", [(0, 7), (1, 1), (2, 7), (2, 8), (3, 9), (10, 7)])
def test_tests_of_a_training_are_counted(period, iterations):
    """As Detectron2's hook makes them."""
    calls = []
    hook = EvalHook(period, lambda: calls.append(1))
    hook.trainer = SimpleNamespace(iter=0, max_iter=iterations)
    for hook.trainer.iter in range(iterations):
        hook.after_step()
    hook.after_train()
    cfg = get_cfg()
    cfg.SOLVER.MAX_ITER, cfg.TEST.EVAL_PERIOD = iterations, period
    assert count_tests(cfg) == len(calls)
