"""A test set without annotations: its detections are written, and nothing is scored."""

import json

import pytest
from runs import parse, train

from crnas_d2.commands import compare
from crnas_d2.data import setup_datasets
from crnas_d2.engine import CRTrainer, setup
from crnas_d2.engine.evaluators import list_results
from crnas_d2.evaluation.metric import check_metric

from detectron2.data import DatasetCatalog

pytestmark = pytest.mark.usefixtures("catalogs")

NONE = {"no key": lambda coco: coco.pop("annotations"), "empty": lambda c: c.update(annotations=[])}
LOW = ("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))


@pytest.fixture
def config(tiny_config):
    """Trains on all images, and tests on three of them without annotations."""

    def write(case):
        root = tiny_config.parent / "data"
        coco = json.loads((root / "annotations.json").read_text())
        coco["images"] = coco["images"][:3]
        NONE[case](coco)
        (root / "unlabeled.json").write_text(json.dumps(coco))
        text = tiny_config.read_text()
        entry = f'    - ["without", "{root}/unlabeled.json", "{root}/images"]\n  TRAIN:'
        tiny_config.write_text(text.replace("  TRAIN:", entry))
        return tiny_config

    return write


def detections(path):
    results = json.loads(path.read_text())
    assert {r["category_id"] for r in results} <= {3, 7}
    return {r["image_id"] for r in results}


@pytest.mark.parametrize("case", NONE)
def test_a_training_and_a_test_write_detections(config, tmp_path, case):
    path = config(case)
    test = ("DATASETS.TEST", "('without',)", *LOW)
    train(path, *test)
    output = tmp_path / "output"
    written = output / "inference" / "coco_instances_results.json"
    assert detections(written) == {1, 2, 3}
    line = f"without has no annotations: its detections are in {written}, and it has no AP"
    assert (output / "log.txt").read_text().count(line) == 1
    written.unlink()
    assert train(path, "--eval-only", *test, "MODEL.WEIGHTS", output / "model_final.pth") == {}
    assert detections(written) == {1, 2, 3}


@pytest.mark.parametrize("labeled_first", [True, False])
def test_beside_a_test_set_that_has_them(config, tmp_path, labeled_first):
    path = config("empty")
    (name,) = setup(parse(path)).DATASETS.TEST
    order = [name, "without"] if labeled_first else ["without", name]
    options = ("DATASETS.TEST", str(tuple(order)), *LOW)
    train(path, *options)
    weights = ("MODEL.WEIGHTS", tmp_path / "output" / "model_final.pth")
    results = train(path, "--eval-only", *options, *weights)
    assert results["without"] == {} and "AP" in results[name]["bbox"]
    folder = tmp_path / "output" / "inference"
    assert detections(folder / "coco_instances_results.json") == {1, 2, 3, 4, 5, 6}
    assert detections(folder / "without" / "coco_instances_results.json") == {1, 2, 3}


def test_nothing_is_ranked_by_it(config):
    path = config("empty")
    cfg = setup(parse(path, "DATASETS.TEST", "('without',)"))
    assert list_results(cfg) == []
    with pytest.raises(ValueError, match="no test gives a result: .* no test set has annotations"):
        options = ("TEST.BEST_METRIC", "bbox/AP", "TEST.EVAL_PERIOD", 1)
        setup(parse(path, "DATASETS.TEST", "('without',)", *options))
    with pytest.raises(ValueError, match="without, on which a search compares .* no annotations"):
        check_metric(cfg)


def test_nothing_is_compared_by_it(config, tmp_path, capsys):
    path = config("no key")
    truth = path.parent / "data" / "unlabeled.json"
    with pytest.raises(SystemExit) as ended:
        compare.main([str(path), str(path), "--annotations", str(truth)])
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert f"{truth} has no annotations, so there is nothing to compare by\n" in said


@pytest.mark.parametrize("case", NONE)
def test_nothing_is_trained_on_it(config, case):
    path = config(case)
    cfg = setup(parse(path)).clone()
    cfg.defrost()
    cfg.DATASETS.TRAIN = ("without",)
    with pytest.raises(ValueError, match="unlabeled.json: 1 fault:\n.* nothing to train on"):
        setup_datasets(cfg)


def test_an_own_training_set_of_crowds_alone(tiny_config):
    """Which another's code has registered, so that no json of it was checked."""

    def load():
        crowd = {"bbox": [1, 2, 3, 4], "bbox_mode": 1, "category_id": 0, "iscrowd": 1}
        return [{"file_name": "1.png", "width": 9, "height": 9, "annotations": [crowd]}]

    cfg = setup(parse(tiny_config)).clone()
    cfg.defrost()
    DatasetCatalog.register("crowds", load)
    cfg.DATASETS.TRAIN = ("crowds",)
    with pytest.raises(ValueError, match=r"TRAIN is \('crowds',\): No valid data found in crowds"):
        CRTrainer.build_train_loader(cfg)
