"""What --dry-run --measure tells of a tiny recipe."""

import re

import pytest
from on_disk import contents
from tiny_search import STEPS, write_recipe

from crnas_d2.commands import search as search_command
from crnas_d2.procedure import Procedure, Recipe, measurement
from crnas_d2.procedure.measurement import Measurement
from crnas_d2.procedure.overview import describe, measure_steps

SHORT = ["SEARCH.RECIPE.STAGE_PRETRAINING", "", "SEARCH.RECIPE.TRAIN_FINAL", "False"]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return write_recipe(tmp_path_factory.mktemp("measured"))


@pytest.fixture(autouse=True)
def few_mini_batches(monkeypatch):
    monkeypatch.setattr(measurement, "FEWEST", 1)
    monkeypatch.setattr(measurement, "MOST", 1)


def test_it_writes_nothing_and_tells_a_time_of_each_step(recipe, catalogs, capsys):
    before = contents(recipe.parent)
    opts = ["OUTPUT_DIR", str(recipe.parent / "nowhere"), *SHORT]
    search_command.main(["--config-file", str(recipe), "--dry-run", "--measure", *opts])
    assert contents(recipe.parent) == before and not (recipe.parent / "nowhere").exists()
    out = capsys.readouterr().out
    header, _, *rows, limits = out.split("\n\n")[0].splitlines()[-8:]
    assert limits == "4 of 24 stage codes cost 5 weighted blocks"
    assert out.splitlines()[-1].startswith("Ready: ")
    assert header.endswith("time")
    assert [row.split()[0] for row in rows] == [*STEPS[1:5], "together"]
    assert all(re.search(r" ~\d:\d\d:\d\d$", row) for row in rows)


def test_times_grow_with_the_work(recipe, monkeypatch, catalogs):
    """A second for each image; 4 and 39 architectures see 7 images of archval, the first ones 4
    more for the statistics of their norms; 6 iterations have 2 images."""
    monkeypatch.setattr(measurement, "_time", lambda *_, **__: 1.0)
    procedure = Procedure(Recipe(str(recipe), SHORT))
    seconds = [12, 4 * (7 + 4), 12, 39 * 7]
    assert measure_steps(procedure) == dict(zip(STEPS[1:5], map(Measurement, map(float, seconds))))
    halves = measure_steps(procedure, processes=2)
    assert [time.seconds for time in halves.values()] == [n / 2 for n in seconds]
    *_, last, _ = describe(procedure, halves).split("\n\n")[0].splitlines()
    assert last.split() == ["together", "~0:02:50"]


def test_made_images_where_there_are_no_data(recipe, catalogs):
    """Of the size of the input. No dataset is there; one of them is of classification."""
    classifier = recipe.parent / "classifier.yaml"
    classifier.write_text("""
_BASE_: "stage.yaml"
MODEL:
  META_ARCHITECTURE: "ImageClassifier"
  BACKBONE: {NAME: "build_stage_supernet_backbone"}
  RESNETS: {OUT_FEATURES: ["res5"]}
DATASETS: {TRAIN: ["imagenet_train"], TEST: ["imagenet_val"]}
INPUT: {CLASSIFICATION: {CROP_SIZE: 32, TEST_SIZE: 40}}
""")
    nowhere = [[f"nowhere_{part}", "nowhere.json", "nowhere"] for part in ("train", "val")]
    parts = ["DATASETS.TRAIN", "('nowhere_archtrain',)", "DATASETS.TEST", "('nowhere_archval',)"]
    opts = [
        *("SEARCH.RECIPE.TRAIN_FINAL", "False"),
        *("SEARCH.RECIPE.STAGE_PRETRAINING", ""),
        *("DATASETS.COCO_JSON", str(nowhere), *parts),
    ]
    times = measure_steps(Procedure(Recipe(str(recipe), opts)))
    assert [time.seconds > 0 for time in times.values()] == [True] * 4
    assert all("on made images: " in t.remark and "nowhere" in t.remark for t in times.values())
    cfg = Recipe(str(recipe)).config(str(classifier))
    time = measurement.measure(cfg, measurement.Work(backward=1), searches=False)
    assert time.seconds > 0 and "imagenet" in time.remark


def test_a_failure_is_a_question_mark_with_its_reason(recipe, catalogs, monkeypatch):
    opts = [*SHORT, "SOLVER.AMP.ENABLED", "True"]
    procedure = Procedure(Recipe(str(recipe), opts))
    monkeypatch.setattr(measurement, "_time_search", lambda *_: 1.0)
    lines = describe(procedure, measure_steps(procedure)).splitlines()
    assert [line.split()[-1] for line in lines[2:6]] == ["?", "~0:00:44", "?", "~0:04:33"]
    assert lines[6].split() == ["together", "~0:05:17", "and", "more"]
    trainings = "stage_supernet, dilation_supernet"
    assert lines[7].startswith(f"{trainings}: ValueError: SOLVER.AMP.ENABLED is True")


def test_the_median_leaves_out_the_first(monkeypatch):
    seconds = iter([50.0, 1.0, 9.0, 2.0, 7.0])
    now = [0.0]

    def run():
        now[0] += next(seconds)
        return 2

    monkeypatch.setattr(measurement.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(measurement, "FEWEST", 4)
    monkeypatch.setattr(measurement, "MOST", 4)
    assert measurement._median(run) == pytest.approx((2.0 + 7.0) / 2 / 2)
