"""Detections as a dataset: what is not in tests/commands/test_predict_command.py."""

import json

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO

from crnas_d2.report.drawing import draw_objects
from crnas_d2.report.predictions import Predictions, is_of_predictions

from detectron2.structures import Boxes, Instances


def detections(boxes, scores, **fields):
    return Instances(
        (90, 120),
        pred_boxes=Boxes(torch.tensor(boxes).reshape(-1, 4)),
        scores=torch.tensor(scores),
        pred_classes=torch.zeros(len(scores), dtype=torch.int64),
        **fields,
    )


def test_the_surest_object_is_drawn_last():
    predictions = Predictions(["a"])
    boxes = [[0.0, 0.0, 9.0, 9.0], [5.0, 5.0, 20.0, 20.0], [8.0, 8.0, 30.0, 30.0]]
    objects = predictions.add("a.png", detections(boxes, [0.5, 0.9, 0.7]))
    assert [round(o["score"], 6) for o in objects] == [0.5, 0.7, 0.9]
    content = json.loads(predictions.to_json())
    assert [round(a["score"], 6) for a in content["annotations"]] == [0.5, 0.9, 0.7]


def test_ids_go_on_over_images(tmp_path):
    predictions = Predictions(["a"])
    for name in ("a.png", "none.png", "b.png"):
        box = [] if name == "none.png" else [[0.0, 0.0, 9.0, 9.0]]
        predictions.add(name, detections(box, [0.5] * len(box)))
    path = tmp_path / "predictions.json"
    path.write_bytes(predictions.to_json())
    coco = COCO(str(path))
    assert (coco.getImgIds(), coco.getAnnIds()) == ([1, 2, 3], [1, 2])
    assert [coco.anns[i]["image_id"] for i in (1, 2)] == [1, 3]


def test_keypoints_are_written_and_drawn(tmp_path):
    keypoints = torch.tensor([[[40.5, 40.5, 0.9], [60.5, 50.5, 0.8], [90.5, 60.5, 0.01]]])
    found = detections([[20.0, 20.0, 100.0, 80.0]], [0.9], pred_keypoints=keypoints)
    predictions = Predictions(["person"])
    objects = predictions.add("a.png", found)
    (tmp_path / "p.json").write_bytes(predictions.to_json())
    (written,) = COCO(str(tmp_path / "p.json")).anns.values()
    assert written["keypoints"] == pytest.approx([40, 40, 0.9, 60, 50, 0.8, 90, 60, 0.01])
    gray = np.full((90, 120, 3), 90, np.uint8)
    drawn = draw_objects(gray, objects, ["person"])
    red = (drawn[..., 0] > 200) & (drawn[..., 1] < 60)
    assert red[40, 40] and red[50, 60] and not red[57:64, 86:95].any()


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"info": []}', '{"info": {"contributor": 1}}']
)
def test_files_of_others(tmp_path, content):
    path = tmp_path / "predictions.json"
    assert not is_of_predictions(str(path))
    path.write_text(content)
    assert not is_of_predictions(str(path))
    path.write_bytes(Predictions(["a"]).to_json())
    assert is_of_predictions(str(path))
