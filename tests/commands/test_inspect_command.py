"""crnas inspect: a page and its numbers, of datasets as they are."""

import itertools
import json

import pytest
from inspected_recipe import write_inspected_recipe

from crnas import main as crnas

from detectron2.data import DatasetCatalog
from detectron2.structures import BoxMode

SIZE = ["INPUT.MIN_SIZE_TEST", "128", "INPUT.MAX_SIZE_TEST", "160"]


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path, catalogs):
    """With a recipe and its two datasets."""
    monkeypatch.chdir(tmp_path)
    write_inspected_recipe(tmp_path)
    return tmp_path


def test_a_json_without_a_config(folder):
    json_file = "train/annotations.json"
    arguments = ["--json", json_file, "--images", "train/images", "--output", "seen.html"]
    crnas(["inspect", *arguments, *SIZE])
    numbers = json.loads((folder / "seen.json").read_text())
    assert list(numbers["datasets"]) == ["annotations"]
    assert numbers["detector"]["input"]["MIN_SIZE_TEST"] == 128
    assert numbers["detector"]["anchors"]["sizes"] == [[32], [64], [128], [256], [512]]
    assert json_file in (folder / "seen.html").read_text()


def test_nothing_that_is_read_is_written_over(folder, refused):
    before = (folder / "train/annotations.json").read_bytes()
    arguments = "--json train/annotations.json --images train/images"
    with refused("output train/annotations.json is read too"):
        crnas(["inspect", *arguments.split(), "--output", "train/annotations.html"])
    assert (folder / "train/annotations.json").read_bytes() == before
    assert not (folder / "train/annotations.html").exists()


def test_a_classifier(refused):
    with refused("META_ARCHITECTURE is 'ImageClassifier'; expected a detector"):
        crnas(["inspect", "--config-file", "ImageNet/CR_R_50.yaml"])


@pytest.mark.parametrize("arguments", [[], ["--json", "train/annotations.json"]])
def test_what_to_look_at_is_missing(arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        crnas(["inspect", *arguments])
    assert "expected" in capsys.readouterr().err


@pytest.mark.parametrize("option, absent", [("--json", "no.json"), ("--images", "nowhere")])
def test_a_path_that_is_not_there(folder, refused, option, absent):
    paths = {"--json": "train/annotations.json", "--images": "train/images", option: absent}
    with refused(f"{option} {absent}: there is no such"):
        crnas(["inspect", *itertools.chain(*paths.items()), "--output", "seen.html"])
    assert not (folder / "seen.html").exists()


def test_a_dataset_of_ones_own_code(folder):
    """Which only Detectron2's catalog knows."""
    box = {"bbox": [4, 4, 40, 30], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 2}
    images = [{"file_name": "train/images/0001.png", "image_id": 0, "height": 64, "width": 40}]
    images[0]["annotations"] = [box]
    DatasetCatalog.register("registered", lambda: images)
    keys = ["DATASETS.TRAIN", "('registered',)", "DATASETS.TEST", "()"]
    crnas(["inspect", "--config-file", "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml", *keys])
    numbers = json.loads((folder / "output/inspection/index.json").read_text())
    assert [row["objects"] for row in numbers["datasets"]["registered"]["classes"]] == [0, 0, 1]
