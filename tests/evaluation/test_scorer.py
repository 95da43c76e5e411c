import json
import logging

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from evaluation.made_scenes import repeat_images
from pycocotools.coco import COCO

from crnas_d2.evaluation import scorer as scorer_module
from crnas_d2.evaluation.bootstrap import METRICS, ResampledImages, poisson_weights
from crnas_d2.evaluation.detections import Detections
from crnas_d2.evaluation.scorer import Scorer

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.evaluation import COCOEvaluator
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Boxes, Instances

HEIGHT, WIDTH = 60, 140
CATEGORY_IDS = [41, 3, 17, 8]

# What makes a scene hard to evaluate alike.
SCENES = {
    "plain": {},
    "score ties": {"score_steps": 4},
    "one score": {"score_steps": 1, "whole_boxes": True},
    "crowds": {"crowds": 0.5},
    "areas on the limits": {"areas": [0.0, 32.0**2, 96.0**2]},
    "many detections": {"images": 3, "most_found": 350, "score_steps": 30},
    "nothing but crowds": {"crowds": 1.0},
    "large ids": {"first_image_id": 2**60},
    "annotation 0": {"first_annotation_id": 0, "empty": 0.0},
}


@pytest.fixture(params=[True, False], ids=["hotcoco", "pycocotools"])
def fast(request):
    if request.param and scorer_module.hotcoco is None:
        pytest.skip("hotcoco is not installed")
    return request.param


@pytest.fixture
def register(tmp_path, catalogs):
    """Registers a ground truth as "cells"; returns its json file."""

    def write_and_register(coco):
        json_file = tmp_path / "cells.json"
        json_file.write_text(json.dumps(coco))
        register_coco_instances("cells", {}, str(json_file), str(tmp_path))
        DatasetCatalog.get("cells")
        return json_file

    return write_and_register


def draw_boxes(rng, count, whole):
    """(count, 4): x, y, width, height; most of the size of the image down to a few pixels."""
    size = np.array([WIDTH, HEIGHT])
    wh = np.exp(rng.uniform(np.log(4), np.log(size), (count, 2)))
    boxes = np.concatenate([rng.uniform(0, size - wh), wh], 1)
    return np.maximum(np.round(boxes), [0, 0, 1, 1]) if whole else boxes


def draw_mask(rng, box):
    """An ellipse in the box, less a few random lines of pixels."""
    x, y, w, h = box
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    mask = ((columns - x - w / 2) * 2 / w) ** 2 + ((rows - y - h / 2) * 2 / h) ** 2 <= 1
    mask[rng.integers(0, HEIGHT, 3)] = False
    return mask


def polygon(rng, box):
    x, y, w, h = box
    angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 9)))
    points = [x + w / 2 * (1 + np.cos(angles)), y + h / 2 * (1 + np.sin(angles))]
    return [np.stack(points, 1).ravel().tolist()]


def draw_scene(
    seed,
    images=8,
    most_found=40,
    empty=0.2,
    crowds=0.1,
    score_steps=None,
    whole_boxes=False,
    areas=None,
    with_masks=False,
    first_image_id=0,
    first_annotation_id=1,
):
    """A ground truth, and what a detector may have found: Instances by image id."""
    rng = np.random.default_rng(seed)
    # hotcoco would refuse license and obb, which no metric depends on.
    coco = {"images": [], "annotations": [], "licenses": ["none"]}
    coco["categories"] = [
        {"id": category_id, "name": f"kind {category_id}"} for category_id in CATEGORY_IDS
    ]
    contiguous = {category_id: index for index, category_id in enumerate(sorted(CATEGORY_IDS))}
    found = {}
    for image_id in (first_image_id + rng.permutation(10 * images)[:images]).tolist():
        image = {"id": image_id, "height": HEIGHT, "width": WIDTH, "license": "none"}
        coco["images"].append(image | {"file_name": f"{image_id}.png"})
        objects = 0 if rng.random() < empty else rng.integers(1, 9)
        true_boxes = draw_boxes(rng, objects, whole_boxes)
        # Detections of the last category have no ground truth.
        true_ids = rng.choice(sorted(CATEGORY_IDS)[:-1], objects)
        for box, category_id in zip(true_boxes, true_ids.tolist()):
            annotation = {
                "id": first_annotation_id + len(coco["annotations"]),
                "image_id": image_id,
                "category_id": category_id,
                "bbox": box.tolist(),
                "area": float(rng.choice(areas) if areas else 0.7 * box[2] * box[3]),
                "iscrowd": int(rng.random() < crowds),
                "obb": "none",
            }
            if with_masks and (annotation["iscrowd"] or rng.random() < 0.5):
                mask = np.asfortranarray(draw_mask(rng, box), np.uint8)
                rle = mask_util.encode(mask)
                annotation["segmentation"] = rle | {"counts": rle["counts"].decode()}
            elif with_masks:
                annotation["segmentation"] = polygon(rng, box)
            coco["annotations"].append(annotation)

        count = 0 if rng.random() < empty else rng.integers(1, most_found + 1)
        boxes = draw_boxes(rng, count, whole_boxes)
        classes = rng.integers(0, len(CATEGORY_IDS), count)
        for index in range(count if objects else 0):
            if rng.random() < 0.7:
                hit = rng.integers(objects)
                jitter = np.tile(true_boxes[hit, 2:], 2) * rng.normal(0, 0.15 * rng.random(), 4)
                boxes[index] = true_boxes[hit] + (np.round(jitter) if whole_boxes else jitter)
                classes[index] = contiguous[true_ids[hit].item()]
        boxes[:, 2:] = np.maximum(boxes[:, 2:], 1)
        scores = rng.beta(1, 3, count)
        if score_steps:
            scores = np.round(scores * score_steps) / score_steps
        instances = Instances((HEIGHT, WIDTH))
        xyxy = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
        instances.pred_boxes = Boxes(torch.tensor(xyxy, dtype=torch.float32))
        instances.scores = torch.tensor(scores, dtype=torch.float32)
        instances.pred_classes = torch.tensor(classes)
        if with_masks:
            masks = np.array([draw_mask(rng, box) for box in boxes]).reshape(-1, HEIGHT, WIDTH)
            instances.pred_masks = torch.tensor(masks)
        found[image_id] = instances
    return coco, found


def to_detections(found):
    return Detections.concatenate(
        Detections.from_json(instances_to_coco_json(instances, image_id))
        for image_id, instances in found.items()
    )


def plain_metrics(found, image_ids=None):
    """Those of Detectron2, as it evaluates one detector."""
    evaluator = COCOEvaluator("cells", distributed=False, use_fast_impl=False)
    evaluator.reset()
    for image_id, instances in found.items():
        evaluator.process([{"image_id": image_id}], [{"instances": instances}])
    results = evaluator.evaluate(image_ids)
    return {f"{task}/{name}": ap for task, aps in results.items() for name, ap in aps.items()}


def assert_same(metrics, expected):
    """Digit for digit; NaN equals NaN."""
    assert list(metrics) == list(expected)
    assert all(type(value) is float for value in metrics.values())
    np.testing.assert_array_equal(list(metrics.values()), list(expected.values()))


@pytest.mark.parametrize("with_masks", [False, True], ids=["boxes", "masks"])
@pytest.mark.parametrize("name", SCENES)
def test_metrics_are_those_of_the_plain_evaluator(name, with_masks, register, fast):
    for seed in range(2):
        coco, found = draw_scene(seed, **SCENES[name], with_masks=with_masks)
        register(coco)
        metrics = Scorer("cells", fast=fast)(to_detections(found))
        assert_same(metrics, plain_metrics(found))
        assert name == "nothing but crowds" or 0 < metrics["bbox/AP"] < 100
        assert ("segm/AP" in metrics) == with_masks
        assert np.isnan(metrics["bbox/AP-kind 41"])
        DatasetCatalog.remove("cells")
        MetadataCatalog.remove("cells")


def test_a_dataset_of_one_category(register, fast):
    coco, found = draw_scene(0)
    coco["categories"] = [{"id": 3, "name": "kind 3"}]
    for annotation in coco["annotations"]:
        annotation["category_id"] = 3
    for instances in found.values():
        instances.pred_classes[:] = 0
    register(coco)
    metrics = Scorer("cells", fast=fast)(to_detections(found))
    assert_same(metrics, plain_metrics(found))
    assert len(metrics) == 6


def test_some_of_the_images_alone(register, fast):
    coco, found = draw_scene(1, images=12, empty=0, with_masks=True)
    register(coco)
    scorer, detections = Scorer("cells", fast=fast), to_detections(found)
    whole = scorer(detections)
    for image_ids in (list(found)[:5], list(found)[11:4:-1], np.array(sorted(found)[:3])):
        metrics = scorer(detections, image_ids)
        assert_same(metrics, plain_metrics(found, list(image_ids)))
        assert metrics["bbox/AP"] != whole["bbox/AP"]
    assert_same(scorer(detections, list(found)), whole)
    # Nothing was found in these, unlike in others.
    found[coco["images"][0]["id"]] = found[coco["images"][0]["id"]][:0]
    metrics = scorer(to_detections(found), [coco["images"][0]["id"]])
    assert_same(metrics, plain_metrics(found, [coco["images"][0]["id"]]))
    assert metrics["bbox/AP"] == 0


def test_scores_do_not_depend_on_those_before(register, fast):
    coco, first = draw_scene(2, with_masks=True)
    _, second = draw_scene(2, with_masks=True, score_steps=3)
    boxes_alone = {image_id: i[:] for image_id, i in second.items()}
    for instances in boxes_alone.values():
        instances.remove("pred_masks")
    json_file = register(coco)
    some = list(first)[:4]
    jobs = [(first, None), (boxes_alone, some), (second, None), (boxes_alone, None), (first, some)]
    expected = [plain_metrics(*job) for job in jobs]
    scorer = Scorer("cells", fast=fast)
    json_file.unlink()  # it was loaded once for all
    for _ in range(2):
        for (found, image_ids), metrics in zip(jobs, expected):
            detections = to_detections(found)
            before = detections.to_json()
            assert_same(scorer(detections, image_ids), metrics)
            assert detections.to_json() == before


def test_without_detections_the_metrics_are_those_of_a_false_one(register, fast):
    """0 where there is ground truth, NaN where there is none."""
    coco, found = draw_scene(0, with_masks=True)
    register(coco)
    first, *others = sorted(found)
    false_one = Instances((HEIGHT, WIDTH))
    false_one.pred_boxes = Boxes(torch.tensor([[0.0, 0.0, 1.0, 1.0]]))
    false_one.scores, false_one.pred_classes = torch.tensor([0.0]), torch.tensor([0])
    false_one.pred_masks = torch.eye(HEIGHT, WIDTH, dtype=torch.bool)[None]
    expected = plain_metrics({first: false_one, **dict.fromkeys(others, false_one[:0])})
    assert set(np.nan_to_num(list(expected.values()), nan=-1)) == {0, -1}
    nothing = Detections.from_json([])
    assert_same(Scorer("cells", fast=fast, masks=True)(nothing), expected)
    boxes = {name: value for name, value in expected.items() if name.startswith("bbox/")}
    assert_same(Scorer("cells", fast=fast)(nothing), boxes)


@pytest.mark.parametrize("masks, seconds", [(False, 20), (True, 40)])
def test_a_slow_scorer_is_told_before_it_begins(masks, seconds, register, caplog, monkeypatch):
    monkeypatch.setattr(scorer_module, "hotcoco", None)
    coco, _ = draw_scene(0, with_masks=masks)
    image = coco["images"][0]
    coco["images"] += [image | {"id": 10**6 + number} for number in range(1000)]
    register(coco)
    Scorer("cells", masks=masks)
    (message,) = [r.message for r in caplog.records if r.name == scorer_module.__name__]
    told = f"pycocotools scores the architectures on cells, about {seconds} s for each "
    assert message.startswith(told)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_have_no_ap(value, register, fast):
    coco, found = draw_scene(0)
    register(coco)
    scorer = Scorer("cells", fast=fast)
    for array in ("boxes", "scores"):
        detections = to_detections(found)
        getattr(detections, array)[3] = value
        assert np.isnan(list(scorer(detections).values())).all()


def test_nothing_is_printed_or_logged_per_architecture(register, fast, capfd, caplog):
    coco, found = draw_scene(0, with_masks=True)
    register(coco)
    caplog.set_level(logging.DEBUG)
    capfd.readouterr()
    caplog.clear()
    scorer = Scorer("cells", fast=fast)
    assert caplog.messages == [f"{scorer.implementation} scores the architectures on cells"]
    caplog.clear()
    scorer(to_detections(found))
    scorer(to_detections(found), list(found)[:3])
    scorer(Detections.from_json([]))
    assert (*capfd.readouterr(), caplog.messages) == ("", "", [])


@pytest.mark.skipif(scorer_module.hotcoco is None, reason="hotcoco is not installed")
def test_hotcoco_is_used_where_it_reads_the_ids_alike(register):
    for scene, implementation in (
        ({}, "hotcoco"),
        ({"first_image_id": 2**60}, "pycocotools"),
        ({"first_annotation_id": 0}, "pycocotools"),
        ({"first_annotation_id": -3}, "pycocotools"),
    ):
        coco, found = draw_scene(3, **scene)
        register(coco)
        scorer = Scorer("cells")
        assert scorer.implementation == implementation
        assert_same(scorer(to_detections(found)), plain_metrics(found))
        DatasetCatalog.remove("cells")
        MetadataCatalog.remove("cells")


def test_pycocotools_is_used_where_hotcoco_is_missing(register, monkeypatch):
    monkeypatch.setattr(scorer_module, "hotcoco", None)
    coco, found = draw_scene(3)
    register(coco)
    scorer = Scorer("cells")
    assert scorer.implementation == "pycocotools"
    assert_same(scorer(to_detections(found)), plain_metrics(found))


def test_categories_are_learned_where_nobody_loaded_the_dataset(register, fast):
    coco, found = draw_scene(0)
    json_file = register(coco)
    expected = plain_metrics(found)
    DatasetCatalog.remove("cells")
    MetadataCatalog.remove("cells")
    register_coco_instances("cells", {}, str(json_file), "")
    assert_same(Scorer("cells", fast=fast)(to_detections(found)), expected)


def test_detections_that_do_not_fit_the_dataset(register, fast):
    coco, found = draw_scene(0)
    register(coco)
    scorer, detections = Scorer("cells", fast=fast), to_detections(found)
    first = detections.image_ids[0].item()
    for image_ids in ([], [first, first]):
        with pytest.raises(ValueError, match=f"{len(image_ids)} entries .* expected one or more"):
            scorer(detections, image_ids)
    with pytest.raises(ValueError, match="1 images are not in 'cells'; such as 999"):
        scorer(detections, [first, 999])
    for array, value, message in (
        ("image_ids", 999, "1 images are not in 'cells'; such as 999"),
        ("categories", 4, "expected 0 to 3"),
        ("categories", -1, "expected 0 to 3"),
    ):
        wrong = to_detections(found)
        getattr(wrong, array)[5] = value
        with pytest.raises(ValueError, match=message):
            scorer(wrong)


def test_ground_truth_that_cannot_be_scored_on(register, fast):
    with pytest.raises(KeyError, match="no_such_set"):
        Scorer("no_such_set", fast=fast)
    MetadataCatalog.get("digits_crops").set(thing_classes=["1"])
    with pytest.raises(ValueError, match="'digits_crops': it is not in COCO format"):
        Scorer("digits_crops", fast=fast)
    coco, found = draw_scene(0, with_masks=True)
    annotation = coco["annotations"][2]
    del annotation["segmentation"]
    json_file = register(coco)
    scorer = Scorer("cells", fast=fast)
    with pytest.raises(ValueError, match=f"annotation {annotation['id']} .* no 'segmentation'"):
        scorer(to_detections(found))
    for key in ("area", "iscrowd", "bbox"):
        faulty = [{k: v for k, v in a.items() if k != key} for a in coco["annotations"][:1]]
        json_file.write_text(json.dumps(coco | {"annotations": faulty}))
        with pytest.raises(ValueError, match=f"annotation 1 of {json_file} has no '{key}'"):
            Scorer("cells", fast=fast)
    del coco["annotations"]
    json_file.write_text(json.dumps(coco))
    with pytest.raises(ValueError, match="has no annotations"):
        Scorer("cells", fast=fast)


@pytest.mark.parametrize("with_masks", [False, True], ids=["boxes", "masks"])
@pytest.mark.parametrize("name", SCENES)
def test_images_that_all_count_once_have_the_metrics_of_pycocotools(name, with_masks, register):
    coco, found = draw_scene(11, with_masks=with_masks, **SCENES[name])
    json_file = register(coco)
    scorer, detections = Scorer("cells"), to_detections(found)
    ground_truth, ones = COCO(str(json_file)), np.ones((len(found), 1))
    expected = scorer(detections)
    for task in ("bbox", "segm") if with_masks else ("bbox",):
        for metric in METRICS:
            images = ResampledImages(ground_truth, scorer.contiguous_ids, ones, task, metric)
            np.testing.assert_allclose(
                images.ap(detections), expected[f"{task}/{metric}"], rtol=0, atol=1e-12
            )


@pytest.mark.parametrize("metric", ["bbox/AP50", "segm/APs", "segm/AP-kind 3", "bbox/AP-kind 41"])
def test_resamples_are_repeated_images(metric, register):
    coco, found = draw_scene(12, with_masks=True)
    register(coco)
    scorer, detections = Scorer("cells"), to_detections(found)
    drawn = scorer.resample(metric, 3).ap(detections)
    expected = []
    for weights in poisson_weights(len(found), 3, seed=0).T:
        repeated, results = repeat_images(coco, detections.to_json(), weights)
        DatasetCatalog.remove("cells")
        MetadataCatalog.remove("cells")
        register(repeated)
        expected.append(Scorer("cells", fast=False)(Detections.from_json(results))[metric])
    np.testing.assert_allclose(drawn, expected, rtol=0, atol=1e-12)


def test_masks_are_resampled_where_there_are_some(register):
    register(draw_scene(12)[0])
    with pytest.raises(ValueError, match="has no 'segmentation'"):
        Scorer("cells").resample("segm/AP", 3)
