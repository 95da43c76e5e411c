"""Which metrics a search may rank by: those that a perfect detector would have on archval."""

import json
import math
from random import Random

import pytest
from pycocotools.coco import COCO
from tiny_coco import write_tiny_coco
from tiny_search import add_masks

from crnas_d2 import add_crnas_config
from crnas_d2.data import setup_datasets
from crnas_d2.evaluation.detections import Detections
from crnas_d2.evaluation.metric import check_metric
from crnas_d2.evaluation.scorer import Scorer

from detectron2.config import get_cfg
from detectron2.data import MetadataCatalog

pytestmark = pytest.mark.usefixtures("catalogs")
NAMES = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AP-red", "AP-blue"]


def perfect_results(archval):
    """Of detections that are the ground truth."""
    scorer = Scorer(archval, fast=False)
    truth = COCO(MetadataCatalog.get(archval).json_file)
    found = [
        {
            "image_id": annotation["image_id"],
            "category_id": scorer.contiguous_ids[annotation["category_id"]],
            "bbox": annotation["bbox"],
            "score": 0.9,
            "segmentation": truth.annToRLE(annotation),
        }
        for annotation in truth.anns.values()
    ]
    return scorer(Detections.from_json(found))


def blue_crowd(annotations):
    for annotation in annotations:
        annotation["iscrowd"] = int(annotation["category_id"] == 7)


def resize(*areas):
    def edit(annotations):
        draw = Random(0)
        for annotation in annotations:
            annotation["area"] = draw.choice(areas)

    return edit


@pytest.mark.parametrize(
    "edit",
    [
        lambda annotations: None,
        blue_crowd,
        resize(32**2),  # small and medium
        resize(32**2 + 1, 96**2 - 1),
        resize(96**2),  # medium and large
        resize(96**2 + 1),
        resize(10, 10000),
        lambda annotations: annotations.__setitem__(
            slice(None), [a for a in annotations if a["category_id"] == 3]
        ),
    ],
)
@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_a_metric_is_taken_if_a_perfect_detector_has_it(edit, task, tmp_path):
    json_file = write_tiny_coco(tmp_path / "data")
    add_masks(json_file)
    coco = json.loads(json_file.read_text())
    edit(coco["annotations"])
    json_file.write_text(json.dumps(coco))
    cfg = get_cfg()
    add_crnas_config(cfg)
    cfg.MODEL.MASK_ON = True
    name = f"edited_{tmp_path}"
    cfg.DATASETS.COCO_JSON = [[name, str(json_file), str(json_file.parent / "images")]]
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (), (name,)
    setup_datasets(cfg)
    results = perfect_results(name)
    for result in NAMES:
        cfg.SEARCH.METRIC = f"{task}/{result}"
        if math.isfinite(results[cfg.SEARCH.METRIC]):
            check_metric(cfg)
        else:
            with pytest.raises(ValueError, match=f"SEARCH.METRIC is '{task}/{result}', and ") as e:
                check_metric(cfg)
            assert f"{name} ({json_file}) has no object" in str(e.value)
