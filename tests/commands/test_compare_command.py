"""Two detectors with one seed or several: pycocotools' numbers, and a verdict by the tested rule."""

import contextlib
import io
import json
import re

import numpy as np
import pytest
import yaml
from pycocotools import mask as mask_util
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tiny_coco import write_tiny_coco
from voc_layout import CLASSES, write_voc_dir

from crnas_d2 import ARCHITECTURES
from crnas_d2.commands import compare
from crnas_d2.evaluation.paired_comparison import compare_pairs
from crnas_d2.evaluation.resampled_ap import resampled_ap
from crnas_d2.procedure.outcome import DataStatement, HandedOver, Outcome, TrainedNetwork
from crnas_d2.report.compared_images import RESULTS

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")  # the first of COCOeval's stats


def masks_of(box, size=64):
    x, y, w, h = map(round, box)
    mask = np.zeros((size, size), np.uint8, order="F")
    mask[y : y + h, x : x + w] = 1
    encoded = mask_util.encode(mask)
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def detect(truth, seed, noise, masks=False):
    """Each object at a place of its own, some missed."""
    rng = np.random.default_rng(seed)
    results = []
    for annotation in truth["annotations"]:
        if rng.random() < 0.1:
            continue
        x, y, w, h = annotation["bbox"]
        x, y = (max(0.0, v + noise * rng.normal()) for v in (x, y))
        result = {
            "image_id": annotation["image_id"],
            "category_id": annotation["category_id"],
            "bbox": [x, y, w, h],
            "score": round(float(rng.uniform(0.1, 1)), 6),
        }
        if masks:
            result["segmentation"] = masks_of(result["bbox"])
        results.append(result)
    return results


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr(compare, "RESAMPLES", 60)


@pytest.fixture
def truth(tmp_path):
    path = write_tiny_coco(tmp_path / "data", images=30)
    data = json.loads(path.read_text())
    for annotation in data["annotations"]:
        annotation["segmentation"] = masks_of(annotation["bbox"])
    path.write_text(json.dumps(data))
    return data


@pytest.fixture
def run(tmp_path, capsys):
    """Gives what the command has printed and written."""

    def run(*arguments):
        output = tmp_path / "comparison.json"
        compare.main([*map(str, arguments), "--output", str(output)])
        return capsys.readouterr().out, json.loads(output.read_text())

    return run


@pytest.fixture
def run_files(tmp_path, truth, run):
    def run_files(a, b):
        for name, results in (("a.json", a), ("b.json", b)):
            (tmp_path / name).write_text(json.dumps(results))
        files = [tmp_path / name for name in ("a.json", "b.json")]
        return run(*files, "--annotations", tmp_path / "data" / "annotations.json")

    return run_files


def table(printed):
    cells = [re.split(r" *\| *", line.strip("| ")) for line in printed.splitlines() if "|" in line]
    number = re.compile(r"[-+]?\d+\.\d\d")
    return {row[0]: [float(x) for x in row[1:] if number.fullmatch(x)] for row in cells}


def metrics_by_pycocotools(truth, results, task):
    left_out = "segmentation" if task == "bbox" else "bbox"
    kept = [{k: v for k, v in result.items() if k != left_out} for result in results]
    coco = COCO()
    coco.dataset = truth
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(kept), task)
        for step in (evaluation.evaluate, evaluation.accumulate, evaluation.summarize):
            step()
    return 100 * evaluation.stats[: len(METRICS)]


@pytest.mark.parametrize("masks", [False, True])
def test_metrics_are_those_of_pycocotools(run_files, truth, masks):
    a, b = detect(truth, 0, 4, masks), detect(truth, 1, 2, masks)
    printed, content = run_files(a, b)
    assert (
        content["metrics"].keys()
        == content["comparisons"].keys()
        == {"bbox", "segm"} - (set() if masks else {"segm"})
    )
    for task, found in content["metrics"].items():
        columns = [metrics_by_pycocotools(truth, results, task) for results in (a, b)]
        for name, x, y in zip(METRICS, *columns):
            if x < 0:  # pycocotools has -1 where there are no such objects
                assert found[name] == [None, None]
            else:
                assert found[name] == pytest.approx([x, y], abs=1e-9)
    boxes = printed.split("\n\n")[1]
    for name, (x, y) in content["metrics"]["bbox"].items():
        if x is not None:
            assert table(boxes)[name] == pytest.approx([x, y, y - x], abs=0.0051)


def test_one_seed_has_the_interval_of_the_images_alone(run_files, truth):
    a, b = detect(truth, 0, 4), detect(truth, 1, 2)
    printed, content = run_files(a, b)
    comparison = content["comparisons"]["bbox"]
    low, high = comparison["interval_images"]
    assert low < comparison["mean"] < high and comparison["mean"] > 0
    assert comparison["interval"] is comparison["interval_seeds"] is None
    assert comparison["verdict"] == "not shown"
    assert f"other images: {low:+.2f} to {high:+.2f}" in printed
    assert "1 seed is too few for any test" in printed
    _, turned = run_files(b, a)
    assert turned["comparisons"]["bbox"]["interval_images"] == pytest.approx([-high, -low])


CONFIG = {
    "SEED": -1,
    "DATASETS": {"COCO_JSON": [], "TEST": ["compared"], "TRAIN": ["of_another_machine"]},
    "MODEL": {"MASK_ON": False, "POINT_HEAD": {"NUM_CLASSES": 2}},  # a key of another project
}


@pytest.fixture
def train(tmp_path, truth, catalogs):
    """Makes what a training leaves: ``train(folder, results, seed)``."""

    def train(folder, results, seed=-1, **datasets):
        own = [["compared", str(tmp_path / "data/annotations.json"), str(tmp_path / "data/images")]]
        keys = {**CONFIG["DATASETS"], "COCO_JSON": own, **datasets}
        config = {**CONFIG, "SEED": seed, "DATASETS": keys}
        (tmp_path / folder / "inference").mkdir(parents=True)
        (tmp_path / folder / "config.yaml").write_text(yaml.safe_dump(config))
        (tmp_path / folder / RESULTS).write_text(json.dumps(results))
        return tmp_path / folder

    return train


def test_several_seeds_are_compared_by_the_rule(tmp_path, truth, run, train):
    """Their folders are in another order than their seeds. The AP of each pair, and of its resamples,
    goes to the comparison that has tests of its own."""
    folders = {"a": [], "b": []}
    for seed in range(5):
        folders["a"].append(train(f"a/run{seed}", detect(truth, seed, 4), seed))
        folders["b"].append(train(f"b/run{4 - seed}", detect(truth, 10 + seed, 1.5), seed))
    printed, content = run(tmp_path / "a", tmp_path / "b")
    json_file = str(tmp_path / "data/annotations.json")
    scored = {
        side: [resampled_ap(str(folder / RESULTS), json_file, resamples=60) for folder in of_side]
        for side, of_side in folders.items()
    }
    aps = {side: [score.ap for score in of_side] for side, of_side in scored.items()}
    drawn = {side: np.stack([s.resampled for s in of_side]) for side, of_side in scored.items()}
    expected = compare_pairs(aps["b"], aps["a"], drawn["b"], drawn["a"])
    assert content["comparisons"]["bbox"] == json.loads(json.dumps(expected.as_json()))
    assert content["pairs"] == [f"seed {seed}" for seed in range(5)]
    assert content["B"] == [str(folder) for folder in folders["b"]]
    assert expected.verdict == "better" and "B is better than A." in printed
    assert expected.reason.split(",")[0] in printed
    seeds = table(printed.split("\n\n")[2])
    for seed in range(5):
        pair = aps["a"][seed], aps["b"][seed]
        assert seeds[f"seed {seed}"] == pytest.approx([*pair, pair[1] - pair[0]], abs=0.0051)
    assert seeds["mean"][2] == pytest.approx(expected.mean, abs=0.0051)
    deviations = [np.std(aps[side], ddof=1) for side in "ab"]
    assert seeds["standard deviation"] == pytest.approx(deviations, abs=0.0051)
    assert "paired by the seeds" in printed


@pytest.mark.parametrize("seeds", [(-1, -1), (1, 2)], ids=["unknown", "others"])
def test_without_equal_seeds_the_order_of_the_names_pairs(tmp_path, truth, run, train, seeds):
    for index, seed in enumerate(seeds):
        train(f"a/{index}", detect(truth, index, 4), seed)
        train(f"b/{index}", detect(truth, 5 + index, 4), seed + 1 if seed > 0 else seed)
    printed, content = run(tmp_path / "a", tmp_path / "b")
    assert content["pairs"] == ["0, 0", "1, 1"]
    assert "paired in the order of their names, as configs do not tell equal seeds" in printed


def test_folders_of_files(tmp_path, truth, run):
    for index in range(4):
        folder = tmp_path / "ab"[index % 2]
        folder.mkdir(exist_ok=True)
        (folder / f"{index}.json").write_text(json.dumps(detect(truth, index, 3)))
    annotations = tmp_path / "data/annotations.json"
    _, content = run(tmp_path / "a", tmp_path / "b", "--annotations", annotations)
    assert content["pairs"] == ["0.json, 1.json", "2.json, 3.json"]


def test_a_copy_of_the_annotations_is_the_same_test_set(tmp_path, truth, run, train):
    a = train("a", detect(truth, 0, 3))
    write_tiny_coco(tmp_path / "copy")
    copied = tmp_path / "copy/annotations.json"
    copied.write_bytes((tmp_path / "data/annotations.json").read_bytes())
    own = [["copied", str(copied), str(tmp_path / "data/images")]]
    b = train("b", detect(truth, 1, 3), COCO_JSON=own, TEST=["copied"])
    assert run(a, b)[1]["test"] == str(tmp_path / "data/annotations.json")


def test_a_recipe_is_its_baseline_and_what_it_found(tmp_path, truth, run, train):
    folders = {"baseline": ("baseline", "baseline_2"), "found": ("final", "final_2")}
    for index, folder in enumerate((*folders["baseline"], *folders["found"])):
        train(f"search/{folder}", detect(truth, index, 3), 1 + index % 2)
    networks = [
        TrainedNetwork(ARCHITECTURES["ResNet18"], None, None, (1, 2), of_network, (50.0, 51.0))
        for of_network in folders.values()
    ]
    parts = [HandedOver("found", ""), (), DataStatement({}, {}, {}, 2)]
    Outcome("", {}, "bbox/AP", *networks, None, *parts).write(str(tmp_path / "search"))
    _, content = run(tmp_path / "search")
    assert content["A"] == [str(tmp_path / "search" / name) for name in folders["baseline"]]
    assert content["B"] == [str(tmp_path / "search" / name) for name in folders["found"]]


def test_the_same_trainings_are_not_told_apart(tmp_path, truth, run, train):
    for seed in (1, 2):
        train(f"a/{seed}", detect(truth, seed, 3), seed)
    printed, _ = run(tmp_path / "a", tmp_path / "a")
    assert "the same trainings: there is nothing to compare" in printed
    assert "interval" not in printed and "Sign-flip" not in printed


def test_vocs_images_are_not_resampled(tmp_path, run, catalogs):
    write_voc_dir(tmp_path / "voc")
    entry = ["voc_val", str(tmp_path / "voc"), "val", 2012, CLASSES]
    datasets = {"VOC_DIRS": [entry], "TEST": ["voc_val"], "TRAIN": []}
    for side, aps in (("a", (50, 51, 49.5)), ("b", (53, 53.5, 53))):
        for seed, ap in enumerate(aps):
            folder = tmp_path / side / str(seed)
            folder.mkdir(parents=True)
            (folder / "config.yaml").write_text(
                yaml.safe_dump({"SEED": seed, "DATASETS": datasets})
            )
            lines = [{"bbox/AP": 1.0, "iteration": 1}, {"bbox/AP": ap, "iteration": 2}]
            (folder / "metrics.json").write_text("\n".join(map(json.dumps, lines)))
    printed, content = run(tmp_path / "a", tmp_path / "b")
    expected = compare_pairs((53, 53.5, 53), (50, 51, 49.5))
    assert content["comparisons"]["bbox"] == json.loads(json.dumps(expected.as_json()))
    assert content["resamples"] == 0
    assert (
        "No interval for other test images: only what COCO scores is resampled, not 'pascal_voc'"
        in " ".join(printed.split())
    )


@pytest.mark.parametrize(
    "change, message",
    [
        ({"image_id": 99}, "b.json: image_id 99 is not in the ground truth"),
        ({"category_id": 4}, "b.json: category_id 4 is not in the ground truth"),
        (None, "b.json: expected a list of detections that each have"),
    ],
)
def test_results_of_something_else(run_files, truth, refused, change, message):
    results = detect(truth, 0, 1)
    with refused(message):
        run_files(results, [{**results[0], **change}] if change else {})


def test_faults(tmp_path, truth, run, train, refused):
    results = detect(truth, 0, 3)
    one, two = train("a/1", results, 1), train("a/2", results, 2)
    train("b/1", results, 1)
    with refused(r"2 of A \(.*a/1, .*a/2\) and 1 of B \(.*b/1\); expected as many seeds of both"):
        run(tmp_path / "a", tmp_path / "b")
    write_tiny_coco(tmp_path / "other")
    own = [["another", str(tmp_path / "other/annotations.json"), str(tmp_path / "other/images")]]
    with refused("tested on .*data.*, .*/c on .*other.*; expected one test set"):
        run(one, train("c", results, COCO_JSON=own, TEST=["another"]))
    with refused("d was tested on compared, compared_2, whose detections go into one file"):
        run(train("d", results, TEST=["compared", "compared_2"]), one)
    with refused(
        "e: DATASETS.TRAIN or DATASETS.TEST names 'of_own_code', .* Or give --annotations"
    ):
        run(train("e", results, TEST=["of_own_code"]), one)
    (two / RESULTS).unlink()
    with refused(f"a/2/{RESULTS}: no such file; expected what a test of Detectron2 leaves there"):
        run(one, two)
    (one / "config.yaml").unlink()
    with refused("a/1: no config.yaml says what it was tested on; expected --annotations"):
        run(one, tmp_path / "b")
    with refused("absent: no such file or folder"):
        run(tmp_path / "absent", one)
    with refused("data/images: expected the OUTPUT_DIR of a training"):
        run(tmp_path / "data/images", one)
    with refused(
        "result.json: no such file; expected the OUTPUT_DIR of a recipe that has ended, or B\n$"
    ):
        run(two)
    for budget in (5, 6):
        path = tmp_path / f"search/budget_{budget}/result.json"
        path.parent.mkdir(parents=True)
        path.touch()
    with refused("or B; there is one in .*search/budget_5, .*search/budget_6\n$"):
        run(tmp_path / "search")
    assert not (tmp_path / "comparison.json").exists()


def test_the_output_is_no_input(tmp_path, truth, train, refused):
    a = train("a", detect(truth, 0, 3))
    with refused("output .* is read too"):
        compare.main([str(a), str(a), "--output", str(a / RESULTS)])
