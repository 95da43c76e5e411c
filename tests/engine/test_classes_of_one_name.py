"""Two classes of one name, from the test to the report: neither result goes over the other's."""

import contextlib
import copy
import io
import json

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tiny_coco import write_tiny_coco

from crnas_d2.engine.coco_evaluator import COCOEvaluator
from crnas_d2.evaluation.detections import Detections
from crnas_d2.evaluation.scorer import Scorer
from crnas_d2.report.compared_images import check_tested_classes

from detectron2.data import DatasetCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.structures import Boxes, Instances

pytestmark = pytest.mark.usefixtures("catalogs")

NAME = "of_one_name"


@pytest.fixture
def json_file(tmp_path):
    """Two classes, both called "cell"; the second one's boxes are found less well."""
    path = write_tiny_coco(tmp_path / "data")
    coco = json.loads(path.read_text())
    for category in coco["categories"]:
        category["name"] = "cell"
    path.write_text(json.dumps(coco))
    register_coco_instances(NAME, {}, str(path), str(tmp_path / "data" / "images"))
    DatasetCatalog.get(NAME)
    return path


def results(json_file):
    return [
        {
            "image_id": a["image_id"],
            "category_id": a["category_id"],
            "bbox": [a["bbox"][0] + (a["category_id"] == 7) * 3, *a["bbox"][1:]],
            "score": 1 - a["id"] / 100,
        }
        for a in json.loads(json_file.read_text())["annotations"]
    ]


def ap_of_classes(json_file, found):
    """By pycocotools alone."""
    aps = []
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(json_file))
        for category in (3, 7):
            evaluation = COCOeval(truth, truth.loadRes(copy.deepcopy(found)), "bbox")
            evaluation.params.catIds = [category]
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            aps.append(100 * evaluation.stats[0])
    return aps


def test_each_class_has_its_ap(json_file, tmp_path):
    found = results(json_file)
    first, second = ap_of_classes(json_file, found)
    assert first == pytest.approx(100) and second < 90

    evaluator = COCOEvaluator(NAME, output_dir=str(tmp_path))
    evaluator.reset()
    for image_id in range(1, 7):
        own = [r for r in found if r["image_id"] == image_id]
        instances = Instances((64, 64))
        boxes = np.array([r["bbox"] for r in own], dtype=np.float32)
        boxes[:, 2:] += boxes[:, :2]
        instances.pred_boxes = Boxes(torch.from_numpy(boxes))
        instances.scores = torch.tensor([r["score"] for r in own])
        instances.pred_classes = torch.tensor([[3, 7].index(r["category_id"]) for r in own])
        evaluator.process([{"image_id": image_id}], [{"instances": instances}])
    bbox = evaluator.evaluate()["bbox"]
    assert bbox["AP-cell"] == pytest.approx(first)
    assert bbox["AP-cell#2"] == pytest.approx(second)

    numbered = [{**r, "category_id": [3, 7].index(r["category_id"])} for r in found]
    metrics = Scorer(NAME)(Detections.from_json(numbered))
    assert metrics["bbox/AP-cell"] == pytest.approx(first)
    assert metrics["bbox/AP-cell#2"] == pytest.approx(second)


def test_results_are_of_the_same_classes(tmp_path):
    (tmp_path / "config.yaml").write_text("MODEL: {CLASS_NAMES: [cell, cell#2, cup]}")
    path = str(tmp_path / "inference" / "coco_instances_results.json")
    check_tested_classes(path, ["cell", "cell", "cup"])
    with pytest.raises(ValueError, match="index 1 stand 'cell#2' and 'cup'"):
        check_tested_classes(path, ["cell", "cup", "cell"])
