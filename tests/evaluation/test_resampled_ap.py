"""AP of a detector's own files is that of pycocotools, on images that are really repeated too."""

import json

import numpy as np
import pytest
from evaluation.made_scenes import (
    CONTIGUOUS_IDS,
    make_annotations,
    make_coco,
    make_results,
    pycocotools_ap,
)
from test_bootstrap import repeated_ap

from crnas_d2.evaluation.bootstrap import poisson_weights
from crnas_d2.evaluation.resampled_ap import resampled_ap

IDS = [7, 3, 4, 12, 1, 30, 9, 18, 21, 2]
DATASET_IDS = {index: category_id for category_id, index in CONTIGUOUS_IDS.items()}


@pytest.fixture
def scene(tmp_path):
    """The files, and what they were made of, with categories counted from 0."""
    rng = np.random.default_rng(3)
    annotations = make_annotations(rng, IDS)
    results = make_results(rng, annotations, IDS[:-1])  # in image 2 nothing is found
    truth = make_coco(IDS, annotations)
    (tmp_path / "truth.json").write_text(json.dumps(truth.dataset))
    write_results(tmp_path, results)
    return truth, results


def write_results(folder, results):
    written = [{**r, "category_id": DATASET_IDS[r["category_id"]]} for r in results]
    (folder / "results.json").write_text(json.dumps(written))


def scored(folder, task="bbox", **options):
    return resampled_ap(str(folder / "results.json"), str(folder / "truth.json"), task, **options)


@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_equals_pycocotools(tmp_path, scene, task):
    truth, results = scene
    found = scored(tmp_path, task, resamples=8, seed=5)
    expected = pycocotools_ap(truth, results, iou_type=task)
    assert 2 < expected < 60
    assert found.ap == pytest.approx(expected, abs=1e-12, rel=0)
    counts = poisson_weights(len(IDS), 8, 5).T
    drawn = [repeated_ap(truth, results, column, task) for column in counts]
    assert len(set(drawn)) == 8
    assert found.resampled == pytest.approx(drawn, abs=1e-12, rel=0)


@pytest.mark.parametrize("metric, of", [("AP75", {"metric": "AP75"}), ("AP-5", {"category": 0})])
def test_other_metrics(tmp_path, scene, metric, of):
    truth, results = scene
    found = scored(tmp_path, resamples=2, metric=metric)
    assert found.ap == pytest.approx(pycocotools_ap(truth, results, **of), abs=1e-12, rel=0)
    drawn = [repeated_ap(truth, results, w, **of) for w in poisson_weights(len(IDS), 2, 0).T]
    assert found.resampled == pytest.approx(drawn, abs=1e-12, rel=0)


@pytest.mark.parametrize(
    "metric, message",
    [
        ("AR", "metric is 'AR'; expected one of AP, AP50, .*, or AP-NAME of a class"),
        ("AP-dog", "metric is 'AP-dog'; expected one of"),
        ("AP-11", "truth.json has no object that bbox/AP-11 counts"),
    ],
)
def test_no_such_metric(tmp_path, scene, metric, message):
    with pytest.raises(ValueError, match=message):
        scored(tmp_path, resamples=2, metric=metric)


def test_detectors_are_paired(tmp_path, scene):
    """A detector that misses a part of what another one finds is behind in every resample."""
    _, results = scene
    better = scored(tmp_path, resamples=50)
    objects_only = results[::2]
    write_results(tmp_path, objects_only)
    worse = scored(tmp_path, resamples=50)
    difference = better.resampled - worse.resampled
    assert difference.std() < 0.9 * np.hypot(better.resampled.std(), worse.resampled.std())
    assert np.array_equal(worse.resampled, scored(tmp_path, resamples=50).resampled)
    assert not np.array_equal(worse.resampled, scored(tmp_path, resamples=50, seed=1).resampled)


def test_a_detector_that_finds_nothing_has_ap_0(tmp_path, scene):
    write_results(tmp_path, [])
    found = scored(tmp_path, resamples=5)
    assert (found.ap, *found.resampled) == (0,) * 6


@pytest.mark.parametrize(
    "change, message",
    [
        ({"image_id": 99}, "results.json: image_id 99 is not in the ground truth"),
        ({"category_id": 4}, "results.json: category_id 4 is not in the ground truth"),
        ({"score": float("inf")}, "results.json.*"),
        ({"segmentation": None}, r"results.json: expected a list of detections that each have"),
    ],
)
def test_results_of_something_else(tmp_path, scene, change, message):
    path = tmp_path / "results.json"
    results = json.loads(path.read_text())
    changed = {**results[3], **change}
    results[3] = {key: value for key, value in changed.items() if value is not None}
    path.write_text(json.dumps(results))
    with pytest.raises(ValueError, match=message):
        scored(tmp_path, "segm", resamples=1)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t["annotations"].clear(), "truth.json has no annotations, so there is nothing"),
        (lambda t: t["annotations"][2].pop("iscrowd"), "annotation 3 has no 'iscrowd'"),
        (lambda t: [a.update(iscrowd=1) for a in t["annotations"]], "every object is a crowd"),
        (lambda t: t["annotations"][2].pop("segmentation"), "annotation 3 has no 'segmentation'"),
    ],
)
def test_ground_truth_that_cannot_be_scored(tmp_path, scene, change, message):
    path = tmp_path / "truth.json"
    truth = json.loads(path.read_text())
    change(truth)
    path.write_text(json.dumps(truth))
    with pytest.raises(ValueError, match=message):
        scored(tmp_path, "segm", resamples=1)


def test_a_list_is_no_ground_truth(tmp_path, scene):
    (tmp_path / "truth.json").write_text("[]")
    with pytest.raises(ValueError, match="truth.json: expected COCO's format"):
        scored(tmp_path)
