"""Detectors of Detectron2's model zoo, whose 80 classes are COCO's, on data and images of users."""

import json

import pytest
import torch
import zoo_files
from runs import train
from tiny_coco import write_tiny_coco

from crnas_d2.commands import remap
from crnas_d2.config import configs_dir, read_config
from crnas_d2.data.images import read_pixels
from crnas_d2.engine.predicting import Predictor

from detectron2.data import MetadataCatalog

CONFIG = """
_BASE_: "{base}"
MODEL:
  DEVICE: "cpu"
  WEIGHTS: "{folder}/model_final.pkl"
  INIT: {{SETTINGS: "take"}}
  ROI_HEADS: {{NUM_CLASSES: 3, SCORE_THRESH_TEST: 0.0}}
DATASETS:
  COCO_JSON: [["{name}", "{folder}/{name}.json", "{folder}/data/images"]]
  TRAIN: ["{name}"]
  TEST: ["{name}"]
INPUT: {{MIN_SIZE_TEST: 64}}
OUTPUT_DIR: "{folder}/{name}"
"""
COCO = MetadataCatalog.get("coco_2017_val").thing_classes


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With a detector of the zoo, and images."""
    folder = tmp_path_factory.mktemp("zoo")
    write_tiny_coco(folder / "data", images=3)
    zoo_files.write_zoo_detector(str(folder / "model_final.pkl"))
    return folder


def write_config(folder, kind, names):
    """Of a detector on the images, with categories of these names, in the order of their ids."""
    data = json.loads((folder / "data" / "annotations.json").read_text())
    data["categories"] = [{"id": i, "name": name} for i, name in enumerate(names, 1)]
    for annotation in data["annotations"]:
        annotation["category_id"] = 1
    name = f"{kind}_{abs(hash(str(folder)))}"
    (folder / f"{name}.json").write_text(json.dumps(data))
    base = f"{configs_dir()}/COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"
    path = folder / f"{kind}.yaml"
    path.write_text(CONFIG.format(base=base, folder=folder, name=name))
    return path


THIN = [text for item in zoo_files.THIN.items() for text in map(str, item)]


def evaluate(path):
    """Names, scores and boxes that are found."""
    train(path, "--eval-only", *THIN)
    cfg = read_config(str(path))
    found = json.loads(open(f"{cfg.OUTPUT_DIR}/inference/coco_instances_results.json").read())
    assert len(found) > 20
    data = json.loads(open(cfg.DATASETS.COCO_JSON[0][1]).read())
    names = {category["id"]: category["name"] for category in data["categories"]}
    return sorted((d["image_id"], names[d["category_id"]], d["score"], d["bbox"]) for d in found)


def test_coco_in_another_order(folder):
    expected = evaluate(write_config(folder, "coco", COCO))
    found = evaluate(write_config(folder, "backwards", COCO[::-1]))
    assert len({name for _, name, *_ in expected}) > 3
    for one, other in zip(found, expected, strict=True):
        assert one[:2] == other[:2] and one[2] == pytest.approx(other[2], abs=1e-5)
        assert one[3] == pytest.approx(other[3], abs=1e-3)


def test_other_classes_are_not_tested(folder):
    path = write_config(folder, "others", ["person", "dog", "hot dogs", "my thing"])
    message = "80 in the checkpoint, 4 in the data; in the checkpoint alone: .* and 73 more; in the"
    with pytest.raises(ValueError, match=message) as refusal:
        train(path, "--eval-only", *THIN)
    told = "'hot dogs', 'my thing'; taken as different: 'hot dog' and 'hot dogs'"
    assert told in str(refusal.value)


@pytest.fixture(scope="module")
def remapped(folder):
    """Of the detector, with all of its classes."""
    codes = ["MODEL.CR.STAGE_CODE", "[1, 3, 5, 7]"]
    path = write_config(folder, "remapped", COCO)
    output = folder / "remapped.safetensors"
    remap.main(
        [str(folder / "model_final.pkl"), str(output), "--config-file", str(path), *codes, *THIN]
    )
    return ["MODEL.WEIGHTS", str(output), *codes]


def test_the_predictor_knows_the_names(folder, remapped):
    path = write_config(folder, "predicted", ["person", "dog", "my thing"])
    for weights in ([], remapped):
        predictor = Predictor(read_config(str(path), [*THIN, *weights]))
        assert predictor.class_names == COCO
        found = predictor(read_pixels(str(folder / "data" / "images" / "0001.png")))["instances"]
        assert found.pred_classes.max() > 3


def test_a_training_starts_with_the_classes_that_are_known(folder, remapped):
    path = write_config(folder, "trained", ["my thing", "dog", "person"])
    options = ["SOLVER.MAX_ITER", 1, "SOLVER.BASE_LR", 0.0, "SOLVER.IMS_PER_BATCH", 1]
    expected = zoo_files.build_zoo_detector().roi_heads.box_predictor.state_dict()
    for name, weights in (("zoo", []), ("remapped", remapped)):
        output = folder / f"trained_{name}"
        train(path, *THIN, *weights, *options, "OUTPUT_DIR", output, "DATASETS.TEST", ())
        saved = torch.load(output / "model_final.pth", weights_only=True)["model"]
        scores = saved["roi_heads.box_predictor.cls_score.weight"]
        boxes = saved["roi_heads.box_predictor.bbox_pred.weight"]
        rows = [COCO.index("dog"), COCO.index("person")]
        assert torch.equal(scores[1:], expected["cls_score.weight"][[*rows, 80]])
        of_classes = expected["bbox_pred.weight"].view(80, 4, -1)
        assert torch.equal(boxes.view(3, 4, -1)[1:], of_classes[rows])
        assert scores[0].abs().max() < 0.06  # of std 0.01
        log = (output / "log.txt").read_text()
        told = "2 of 3 classes have rows of a class of the same name ('dog', 'person'); new: 'my thing'"
        assert told in log
