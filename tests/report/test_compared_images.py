"""The test images of the page, against the dataset and made-up results."""

import base64
import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from tiny_coco import write_tiny_coco

from crnas_d2.config import get_config
from crnas_d2.data import setup_datasets
from crnas_d2.report.compared_images import check_tested_classes, draw_compared

from detectron2.data import DatasetCatalog, MetadataCatalog

NAME = "compared_rectangles"


@pytest.fixture
def data(tmp_path, catalogs):
    """A registered dataset of 11 images with a red (id 3) and a blue (id 7) object each."""
    json_file = write_tiny_coco(tmp_path / "data", images=11, shapes=[(64, 48), (48, 64)])
    cfg = get_config("Digits/faster_rcnn_R_18_FPN.yaml")
    cfg.DATASETS.COCO_JSON = [[NAME, str(json_file), str(json_file.parent / "images")]]
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (), (NAME,)
    setup_datasets(cfg)
    return json.loads(json_file.read_text())


@pytest.fixture
def network(tmp_path):
    """Makes a network that has found something."""

    def make(name, results):
        folder = tmp_path / name
        (folder / "inference").mkdir(parents=True)
        text = results if isinstance(results, str) else json.dumps(results)
        (folder / "inference" / "coco_instances_results.json").write_text(text)
        return SimpleNamespace(name=name, weights=str(folder / "model_final.pth"))

    return make


def draw(*networks):
    return draw_compared(networks, NAME)


def pixels_of(panel):
    content = base64.b64decode(panel["uri"].removeprefix("data:image/jpeg;base64,"))
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


def test_panels(data, network):
    """Ground truth, then each network: what it found with a score of 0.5 or more, best first."""
    results = [
        {"score": score, **{key: a[key] for key in ("image_id", "category_id", "bbox")}}
        for a, score in zip(data["annotations"][:2], (0.6, 0.9))
    ]
    results.append({**results[0], "score": 0.49})
    drawn = draw(network("baseline", []), network("found", results))
    assert [p["name"] for p in drawn] == [f"{i:04d}.png" for i in (1, 3, 5, 7, 9, 11)]
    truth, baseline, found = drawn[0]["panels"]
    assert [p["title"] for p in drawn[0]["panels"]] == ["ground truth", "baseline", "found"]
    assert truth["alt"] == "ground truth: blue, red"
    assert baseline["alt"] == "baseline: nothing"
    assert found["alt"] == "found: blue (0.90), red (0.60)"
    assert (truth["width"], truth["height"]) == (300, 400)
    assert [pixels_of(p).shape for p in (truth, baseline, found)] == [(400, 300, 3)] * 3
    # A box is drawn on the ground truth and on what was found, at the same place.
    plain, marked, detected = map(pixels_of, (baseline, truth, found))
    x, y, w, h = np.multiply(data["annotations"][0]["bbox"], 400 / 64).astype(int)
    border = (slice(y + h - 1, y + h + 2), slice(x + w // 4, x + w // 2))
    assert np.abs(marked - plain)[border].max() > 60
    assert np.abs(detected - plain)[border].max() > 60
    inside = (slice(y + h // 2, y + h // 2 + 10), slice(x + w // 2, x + w // 2 + 10))
    assert np.abs(marked - plain)[inside].max() < 30


def test_images_without_objects_are_passed_over(data, network):
    images = DatasetCatalog.get(NAME)
    for image in images[:-2]:
        image["annotations"] = []
    DatasetCatalog.remove(NAME)
    DatasetCatalog.register(NAME, lambda: images)
    drawn = draw(network("found", []))
    assert [p["name"] for p in drawn] == ["0010.png", "0011.png"]


@pytest.mark.parametrize(
    "results, message",
    [
        ("[{", "not JSON"),
        ({}, "expected a list of results"),
        ([{"image_id": 99, "category_id": 3, "bbox": [0, 0, 1, 1], "score": 1}], "no result of an"),
        ([{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 1}], "category id 1"),
    ],
)
def test_results_that_do_not_fit(data, network, results, message):
    with pytest.raises(ValueError, match=message) as caught:
        draw(network("found", results))
    assert "coco_instances_results.json" in str(caught.value)


def test_no_results(data, network, tmp_path):
    found = SimpleNamespace(name="found", weights=str(tmp_path / "model_final.pth"))
    with pytest.raises(FileNotFoundError, match="coco_instances_results.json"):
        draw(found)


def test_another_evaluator_writes_no_such_file(data, network):
    del MetadataCatalog.get(NAME).evaluator_type
    MetadataCatalog.get(NAME).evaluator_type = "pascal_voc"
    with pytest.raises(ValueError, match="pascal_voc"):
        draw(network("found", []))


@pytest.mark.parametrize(
    "config",
    [
        b"MODEL: {CLASS_NAMES: [red, blue]}",
        b"MODEL: {CLASS_NAMES: []}",
        b"model: !!python/object:builtins.object {}",  # as of lazy configs
        b"\xff",
        b"- a",
    ],
)
def test_a_config_that_names_no_other_classes_does_not_matter(tmp_path, config):
    (tmp_path / "config.yaml").write_bytes(config)
    check_tested_classes(str(tmp_path / "inference" / "results.json"), ["red", "blue"])
