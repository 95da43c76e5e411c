"""What is read from the folders of trainings and searches, whole, torn and absent."""

import json

import pytest
from made_runs import R_18, make_classifier, make_detector, make_run, make_search

import crnas_d2
from crnas_d2 import Architecture
from crnas_d2.analysis import analyze_detector
from crnas_d2.report.runs import (
    common_dataset,
    group_seeds,
    read_run,
    read_runs,
    read_stage_ranking,
)

from detectron2.utils.events import EventStorage, JSONWriter

TRAINING = {"iteration": 19, "total_loss": 2.5, "fast_rcnn/cls_accuracy": 0.5}


def result(iteration, ap):
    return {"iteration": iteration, "bbox/AP": ap, "bbox/AP50": ap + 10}


def test_detector(tmp_path):
    code, operations = (1, 1, 2, 4), (0, 0, 1, 0, 1, 0, 2, 1)
    lines = [TRAINING, result(100, 20.5), TRAINING, result(200, 30.25), TRAINING]
    folder = make_run(tmp_path / "run", lines, code=code, operations=operations, seed=7)
    run = read_run(folder)
    assert run.architecture == Architecture(code, operations)
    assert (run.folder, run.dataset, run.iteration, run.cfg.SEED) == (
        folder,
        "coco_2017_val",
        200,
        7,
    )
    assert run.metrics == {"bbox/AP": 30.25, "bbox/AP50": 40.25}
    assert run.metric("bbox/AP50") == 40.25
    assert run.macs() == analyze_detector(crnas_d2.get_config(R_18)).macs


def test_classifier(tmp_path):
    run = read_run(make_classifier(tmp_path / "run", 71.5))
    assert run.metric("classification/top1") == 71.5
    assert run.dataset == "imagenet_val"
    with pytest.raises(ValueError, match="META_ARCHITECTURE"):
        run.macs()


def test_file_of_detectron2s_writer(tmp_path):
    folder = make_run(tmp_path / "run", [])
    writer = JSONWriter(str(tmp_path / "run" / "metrics.json"))
    with EventStorage(start_iter=40) as storage:
        storage.put_scalars(**{"bbox/AP": 12.5, "total_loss": 1.0}, smoothing_hint=False)
        writer.write()
    writer.close()
    run = read_run(folder)
    assert (run.iteration, run.metric("bbox/AP")) == (40, 12.5)


@pytest.mark.parametrize(
    "tail",
    [
        json.dumps(result(300, 40.0))[:25],  # killed
        json.dumps(result(300, 40.0))[:25] + json.dumps(TRAINING) + "\n",  # killed, then resumed
        "17\n\n",
    ],
)
def test_torn_line(tmp_path, tail):
    run = read_run(make_run(tmp_path / "run", [result(200, 30.25), tail]))
    assert (run.iteration, run.metric("bbox/AP")) == (200, 30.25)


def test_first_of_several_datasets(tmp_path):
    line = {"iteration": 5, "b/bbox/AP": 1.0, "a/bbox/AP": 2.0, "a/bbox/AP50": 3.0}
    run = read_run(make_run(tmp_path / "run", [line], test=["a", "b"]))
    assert run.metrics == {"bbox/AP": 2.0, "bbox/AP50": 3.0}
    assert run.dataset == "a"


def test_network_tells_backbones_apart(tmp_path):
    bases = {
        "R_18": R_18,
        "R_18_classifier": "ImageNet/R_18.yaml",
        "R_50": "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml",
        "X_50": "ImageNet/X_50_32x4d.yaml",  # has the codes of R_50
        "thin": "Digits/faster_rcnn_R_18_FPN.yaml",
        "CR": "COCO-Detection/faster_rcnn_CR_R_18_FPN_1x.yaml",
        "SCR": "COCO-Detection/faster_rcnn_SCR_R_18_FPN_1x.yaml",
    }
    networks = {
        name: read_run(make_detector(tmp_path / name, 1.0, base=base)).network
        for name, base in bases.items()
    }
    assert networks.pop("R_18_classifier") == networks["R_18"]
    assert len(set(networks.values())) == len(networks)


def test_seeds_of_one_network_are_together(tmp_path):
    folders = [
        make_detector(tmp_path / "a", 1.0, seed=1),
        make_detector(tmp_path / "b", 2.0, seed=1, code=(1, 1, 2, 4)),
        make_detector(tmp_path / "c", 3.0, seed=2),
        make_detector(tmp_path / "d", 4.0, seed=3, SOLVER={"MAX_ITER": 7}),
    ]
    groups = group_seeds(read_runs(folders))
    assert [[run.folder for run in group] for group in groups] == [
        [folders[0], folders[2]],
        [folders[1]],
        [folders[3]],
    ]


def test_missing_files(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="absent/config.yaml: no such file; expected the OUTPUT_DIR"
    ):
        read_run(str(tmp_path / "absent"))
    folder = make_detector(tmp_path / "run", 1.0)
    (tmp_path / "run" / "metrics.json").unlink()
    with pytest.raises(FileNotFoundError, match="run/metrics.json: no such file"):
        read_run(folder)


def test_nothing_evaluated(tmp_path):
    folder = make_run(tmp_path / "run", [TRAINING, '{"bbox/AP": 3'])
    with pytest.raises(ValueError, match="metrics.json: expected a line with bbox/AP or class"):
        read_run(folder)


def test_no_test_set(tmp_path):
    with pytest.raises(ValueError, match="DATASETS.TEST is empty"):
        read_run(make_run(tmp_path / "run", [result(1, 1.0)], test=[]))


@pytest.mark.parametrize(
    "line", [result(1, float("nan")), {"iteration": 1, "classification/top1": 9}]
)
def test_metric_that_is_no_number(tmp_path, line):
    run = read_run(make_run(tmp_path / "run", [line]))
    with pytest.raises(ValueError, match="run: bbox/AP is (nan|None); its last evaluation has"):
        run.metric("bbox/AP")


def test_run_named_twice(tmp_path):
    folder = make_detector(tmp_path / "run", 1.0)
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(ValueError, match="link is named twice"):
        read_runs([folder, str(tmp_path / "link")])


def test_mixed_datasets(tmp_path):
    folders = [make_detector(tmp_path / name, 1.0, test=[name]) for name in ("one", "two")]
    runs = read_runs(folders)
    assert common_dataset(runs[:1]) == "one"
    with pytest.raises(
        ValueError, match=r"on one \(.*one, ...\), two \(.*two, ...\); expected one"
    ):
        common_dataset(runs)


def test_stage_ranking(tmp_path):
    scores = {(2, 2, 3, 1): 37.5, (1, 1, 2, 4): 36.25}
    ranking = read_stage_ranking(make_search(tmp_path / "search", scores, metric="segm/AP"))
    assert (ranking.metric, ranking.dataset) == ("segm/AP", "own_archval")
    assert list(ranking.scores.items()) == list(scores.items())


@pytest.mark.parametrize(
    "change, message",
    [
        ({"step": "operation"}, "result.json: 1 architectures of the operation search; expected"),
        ({"rankings": {"8": {"ranking": []}}}, "result.json: 0 architectures of the stage search"),
        ({"rankings": {}}, "result.json is no result of a search: StopIteration"),
        ({"rankings": {"8": {"ranking": [["1-x", 1.0]]}}}, "is no result of a search: ValueError"),
        ({"rankings": None}, "is no result of a search: AttributeError"),
    ],
)
def test_result_that_is_no_stage_ranking(tmp_path, change, message):
    folder = make_search(tmp_path / "search", {(1, 1, 1, 1): 1.0})
    path = tmp_path / "search" / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        read_stage_ranking(folder)


def test_search_without_result(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="result.json: no such file; expected the OUTPUT_DIR"
    ):
        read_stage_ranking(str(tmp_path))
