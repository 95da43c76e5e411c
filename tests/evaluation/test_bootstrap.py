"""Weighted AP equals that of pycocotools, with images repeated as often as their weights say."""

import numpy as np
import pytest
from evaluation.made_scenes import (
    CONTIGUOUS_IDS,
    make_annotations,
    make_coco,
    make_results,
    pycocotools_ap,
    repeat_images,
)
from pycocotools.cocoeval import Params

from crnas_d2.evaluation import bootstrap, matching
from crnas_d2.evaluation.bootstrap import ResampledImages, poisson_weights
from crnas_d2.evaluation.detections import Detections

IDS = [7, 3, 4, 12, 1, 30, 9, 18, 21, 2]  # no order, as in a shuffled slice


def make_scene(seed, **kwargs):
    rng = np.random.default_rng(seed)
    annotations = make_annotations(rng, IDS, **kwargs)
    return make_coco(IDS, annotations), annotations, make_results(rng, annotations, IDS)


def weighted_ap(coco, results, weights, iou_type="bbox", **of):
    images = ResampledImages(coco, CONTIGUOUS_IDS, weights, iou_type, **of)
    return images.ap(Detections.from_json(results))


def repeated_ap(coco, results, weights, iou_type="bbox", **of):
    """pycocotools on a dataset that has image i weights[i] times."""
    repeated, found = repeat_images(coco.dataset, results, weights)
    coco = make_coco([image["id"] for image in repeated["images"]], repeated["annotations"])
    return pycocotools_ap(coco, found, iou_type=iou_type, **of)


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(4))
def test_equals_pycocotools(seed, iou_type):
    coco, _, results = make_scene(seed)
    expected = pycocotools_ap(coco, results, iou_type=iou_type)
    assert 2 < expected < 60
    ones = np.ones((len(IDS), 1))
    assert weighted_ap(coco, results, ones, iou_type=iou_type) == pytest.approx(
        [expected], abs=1e-12, rel=0
    )


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize("metric", bootstrap.METRICS)
def test_other_metrics(metric, iou_type, monkeypatch):
    """With borders between the sizes at which the scene has objects and detections on both sides."""
    for name, area in (("small", [0, 450]), ("medium", [450, 900]), ("large", [900, 1e10])):
        monkeypatch.setitem(matching.AREAS, name, area)
    monkeypatch.setattr(Params, "setDetParams", with_areas(Params.setDetParams, matching.AREAS))
    coco, _, results = make_scene(5)
    weights = poisson_weights(len(IDS), 3, 2)
    found = weighted_ap(coco, results, weights, iou_type, metric=metric)
    expected = [repeated_ap(coco, results, w, iou_type, metric=metric) for w in weights.T]
    assert found == pytest.approx(expected, abs=1e-12, rel=0)
    assert 1 < np.mean(found) < 90


def with_areas(set_parameters, areas):
    def set_and_change(params):
        set_parameters(params)
        params.areaRng, params.areaRngLbl = list(areas.values()), list(areas)

    return set_and_change


@pytest.mark.parametrize("category", range(4))
def test_one_category(category):
    coco, _, results = make_scene(4)
    weights = poisson_weights(len(IDS), 3, 2)
    found = weighted_ap(coco, results, weights, category=category, metric="AP50")
    of = {"metric": "AP50", "category": category}
    expected = [repeated_ap(coco, results, w, **of) for w in weights.T]
    np.testing.assert_allclose(found, expected, atol=1e-12)  # NaN is NaN
    assert np.isnan(found).all() == (category == 3)


@pytest.mark.parametrize("crowds", [0, 0.5])
@pytest.mark.parametrize("seed", range(2))
def test_weights_are_copies_of_images(seed, crowds):
    coco, _, results = make_scene(seed, crowds=crowds)
    weights = poisson_weights(len(IDS), 12, seed)
    assert {0, 1, 2, 3} <= set(weights.ravel())
    expected = [repeated_ap(coco, results, column) for column in weights.T]
    assert len(set(expected)) == 12
    assert weighted_ap(coco, results, weights) == pytest.approx(expected, abs=1e-12, rel=0)


def test_weights_are_copies_of_images_with_masks():
    coco, _, results = make_scene(5)
    weights = poisson_weights(len(IDS), 3, 0)
    expected = [repeated_ap(coco, results, column, "segm") for column in weights.T]
    assert weighted_ap(coco, results, weights, iou_type="segm") == pytest.approx(
        expected, abs=1e-12, rel=0
    )


def test_equal_scores_of_different_images_keep_the_order_of_image_ids():
    coco, _, results = make_scene(6)
    by_group = {}
    for result in results:  # ten scores in all, each once in an image and category
        group = by_group.setdefault((result["image_id"], result["category_id"]), [])
        result["score"] = 1 - len(group) / 100
        group.append(result)
    weights = poisson_weights(len(IDS), 6, 1)
    expected = [repeated_ap(coco, results, column) for column in weights.T]
    assert weighted_ap(coco, results, weights) == pytest.approx(expected, abs=1e-12, rel=0)


def test_equal_scores_of_an_image_keep_the_order_of_the_detections():
    coco, _, results = make_scene(7)
    for result in results:
        result["score"] = round(result["score"], 1)
    expected = pycocotools_ap(coco, results)
    assert weighted_ap(coco, results, np.ones((len(IDS), 1)))[0] == pytest.approx(
        expected, abs=1e-12, rel=0
    )
    assert abs(pycocotools_ap(coco, results[::-1]) - expected) > 1e-3


def test_only_100_detections_of_an_image_and_category_count(monkeypatch):
    coco, annotations, results = make_scene(8)
    rng = np.random.default_rng(0)
    image_id = annotations[0]["image_id"]
    crowded = results + make_results(rng, annotations[:1] * 100, [image_id], false=400)
    ones = np.ones((len(IDS), 1))
    expected = pytest.approx([pycocotools_ap(coco, crowded)], abs=1e-12, rel=0)
    assert weighted_ap(coco, crowded, ones) == expected
    monkeypatch.setattr(matching, "MAX_DETECTIONS", 1000)
    assert weighted_ap(coco, crowded, ones) != expected


def made_of(boxes, found, first_id=1):
    """One image and category, with detections in falling order of score."""
    annotations = [
        {"id": n, "image_id": 1, "category_id": 2, "bbox": b, "area": 400, "iscrowd": 0}
        for n, b in enumerate(boxes, first_id)
    ]
    results = [
        {"image_id": 1, "category_id": 1, "bbox": box, "score": 0.9 - 0.1 * n}
        for n, box in enumerate(found)
    ]
    return make_coco([1], annotations), results


def test_equal_overlaps_go_to_the_last_object():
    left, middle, right = [10, 10, 20, 20], [12, 10, 20, 20], [14, 10, 20, 20]
    aps = []
    for objects in ([left, right], [right, left]):
        coco, results = made_of(objects, [middle, left])
        aps.append(weighted_ap(coco, results, np.ones((1, 1)))[0])
        assert aps[-1] == pytest.approx(pycocotools_ap(coco, results), abs=1e-12, rel=0)
    assert aps[0] > aps[1] + 1  # the left object is still free for the second detection


def test_an_object_with_id_0_is_never_found():
    boxes = [[10, 10, 20, 20], [50, 50, 20, 20]]
    for first_id, expected in ((0, 100 * 51 / 101 / 2), (1, 100)):
        coco, results = made_of(boxes, boxes, first_id)
        assert weighted_ap(coco, results, np.ones((1, 1)))[0] == pytest.approx(expected)
        assert pycocotools_ap(coco, results) == pytest.approx(expected)


@pytest.mark.parametrize("num_objects", [1, 7, 20, 35, 60, 99, 100, 101, 200, 340])
def test_every_recall_passes_as_many_thresholds_as_in_numpy(num_objects):
    recall = np.arange(num_objects + 1) / num_objects
    thresholds = Params("bbox").recThrs
    passed = bootstrap._recall_thresholds_passed(recall)
    assert passed.tolist() == np.searchsorted(thresholds, recall, side="right").tolist()


def test_memory_bound_changes_nothing(monkeypatch):
    coco, _, results = make_scene(11)
    weights = poisson_weights(len(IDS), 50, 0)
    whole = weighted_ap(coco, results, weights)
    monkeypatch.setattr(bootstrap, "MAX_ELEMENTS", 60)
    assert weighted_ap(coco, results, weights).tolist() == whole.tolist()


def test_without_objects_or_detections():
    coco, _, results = make_scene(12)
    position = {image_id: place for place, image_id in enumerate(sorted(IDS))}
    weights = np.zeros((len(IDS), 2))
    weights[[position[4], position[12]], 0] = 1  # without objects
    weights[[position[7], position[3]], 1] = 1
    empty, some = weighted_ap(coco, results, weights)
    assert np.isnan(empty)
    assert some == pytest.approx(pycocotools_ap(coco, results, [7, 3]), abs=1e-12)
    assert weighted_ap(coco, [], np.ones((len(IDS), 3))).tolist() == [0, 0, 0]


def test_poisson_weights():
    weights = poisson_weights(300, 400, 7)
    assert weights.shape == (300, 400)
    # The mean and the variance of 120,000 numbers, each 1 with a standard error of 0.003 and 0.005.
    assert weights.mean() == pytest.approx(1, abs=0.015)
    assert weights.var() == pytest.approx(1, abs=0.025)
    assert abs(np.corrcoef(weights[0], weights[1])[0, 1]) < 0.2
    assert np.array_equal(weights, poisson_weights(300, 400, 7))
    assert not np.array_equal(weights, poisson_weights(300, 400, 8))


def test_spread_is_that_of_new_images():
    """The bootstrap's standard error is near the spread over datasets drawn anew."""
    ids = list(range(1, 81))
    drawn = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        annotations = make_annotations(rng, ids)
        results = make_results(rng, annotations, ids)
        weights = np.hstack([np.ones((80, 1)), poisson_weights(80, 100, seed)])
        drawn.append(weighted_ap(make_coco(ids, annotations), results, weights))
    drawn = np.array(drawn)
    truth, estimate = drawn[:, 0].std(ddof=1), drawn[:, 1:].std(1, ddof=1).mean()
    # 40 draws give the truth with a standard error of 11 %.
    assert estimate / truth == pytest.approx(1, abs=3 * (2 * 39) ** -0.5)


@pytest.mark.parametrize(
    "found, message",
    [
        ([(7, 0), (99, 0)], r"detections in images \[99\], which are not there"),
        ([(7, 4)], r"categories \[4\]; expected 0 to 3"),
        ([(7, -1)], r"categories \[-1\]; expected 0 to 3"),
    ],
)
def test_foreign_detections(found, message):
    coco, _, _ = make_scene(0)
    results = [
        {"image_id": i, "category_id": c, "bbox": [1, 1, 5, 5], "score": 0.5} for i, c in found
    ]
    with pytest.raises(ValueError, match=message):
        weighted_ap(coco, results, np.ones((10, 1)))


def test_masks_are_needed():
    coco, _, results = make_scene(0)
    boxes = [{k: v for k, v in r.items() if k != "segmentation"} for r in results]
    with pytest.raises(ValueError, match="needs masks"):
        weighted_ap(coco, boxes, np.ones((10, 1)), "segm")


@pytest.mark.parametrize(
    "weights, iou_type, message",
    [
        (np.ones((10, 1)), "boxes", "IoU type is 'boxes'"),
        (np.ones((9, 1)), "bbox", r"weights of shape \(9, 1\).*each of 10 images"),
        (np.full((10, 1), 0.5), "bbox", "whole numbers"),
        (np.full((10, 1), -1), "bbox", "whole numbers"),
    ],
)
def test_wrong_weights(weights, iou_type, message):
    coco, _, _ = make_scene(0)
    with pytest.raises(ValueError, match=message):
        ResampledImages(coco, CONTIGUOUS_IDS, weights, iou_type)
