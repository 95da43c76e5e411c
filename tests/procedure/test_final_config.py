"""final.yaml of a search: all that a detector needs, wherever the folder is."""

import os
import pickle
import shlex
import shutil
import subprocess
import sys

import pytest
import torch
import yaml
from tiny_search import write_recipe

import crnas_d2
from crnas_d2.config import read_config
from crnas_d2.procedure import Procedure, Recipe

from detectron2.config import CfgNode
from detectron2.engine import DefaultPredictor

STAGES_ALONE = [
    *("SEARCH.RECIPE.STAGE_PRETRAINING", "", "SEARCH.RECIPE.DILATION_SUPERNET", ""),
    *("SOLVER.MAX_ITER", 3, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0),
    *("SEARCH.RECIPE.TAKE_FOUND", True),
]
# A user's script that knows Detectron2 alone, but for the keys and the backbones
PLAIN_SCRIPT = """
import pickle, sys
from crnas_d2 import add_crnas_config
from detectron2.config import get_cfg
from detectron2.engine import DefaultPredictor

cfg = get_cfg()
add_crnas_config(cfg)
cfg.merge_from_file("final.yaml")
with open(sys.argv[1], "rb") as photograph, open(sys.argv[2], "wb") as found:
    instances = DefaultPredictor(cfg)(pickle.load(photograph))["instances"]
    pickle.dump({k: v.tensor if k == "pred_boxes" else v for k, v in instances.get_fields().items()}, found)
"""


def run(recipe, folder, *opts):
    opts = ["OUTPUT_DIR", str(folder), *map(str, [*STAGES_ALONE, *opts])]
    Procedure(Recipe(str(recipe), opts)).run()


def detect(cfg, photograph):
    instances = DefaultPredictor(cfg)(photograph)["instances"]
    return {k: v.tensor if k == "pred_boxes" else v for k, v in instances.get_fields().items()}


def assert_same_detections(found, expected):
    assert found.keys() == expected.keys() and len(expected["scores"]) > 0
    for name, values in expected.items():
        assert torch.equal(found[name], values), name


@pytest.fixture(scope="module")
def photograph():
    datasets = pytest.importorskip("sklearn.datasets")
    return datasets.load_sample_image("china.jpg")[:, :, ::-1]


@pytest.fixture(scope="module")
def moved(tmp_path_factory, photograph):
    """A finished search that was moved away, its recipe, configs and data gone; and the detections of
    its trained detector before that."""
    recipe = write_recipe(tmp_path_factory.mktemp("here"))
    folder = recipe.parent / "output"
    run(recipe, folder)
    cfg = read_config(str(folder / "final" / "config.yaml"))
    cfg.MODEL.WEIGHTS = str(folder / "final" / "model_final.pth")
    expected = detect(cfg, photograph)
    there = tmp_path_factory.mktemp("there") / "moved"
    shutil.move(folder, there)
    shutil.rmtree(recipe.parent)
    return there, cfg, expected


def test_it_predicts_what_was_trained(moved, photograph, tmp_path, monkeypatch):
    folder, _, expected = moved
    monkeypatch.chdir(tmp_path)
    cfg = crnas_d2.get_config(str(folder / "final.yaml"))
    assert cfg.MODEL.WEIGHTS == str(folder / "final" / "model_final.pth")
    assert_same_detections(detect(cfg, photograph), expected)
    relative = read_config(os.path.relpath(folder / "final.yaml"))
    assert relative.MODEL.WEIGHTS == cfg.MODEL.WEIGHTS


def test_detectron2_alone_reads_it(moved, photograph, tmp_path):
    folder, _, expected = moved
    (tmp_path / "photograph").write_bytes(pickle.dumps(photograph))
    command = [sys.executable, "-c", PLAIN_SCRIPT, tmp_path / "photograph", tmp_path / "found"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "found").open("rb") as file:
        assert_same_detections(pickle.load(file), expected)


def test_it_is_complete(moved):
    """Every key is that of the training, but for those of the run."""
    folder, trained, _ = moved
    keys = yaml.safe_load((folder / "final.yaml").read_text())
    assert keys["VERSION"] == 2 and not {"_BASE_", "OUTPUT_DIR", "SEARCH"} & keys.keys()
    cfg = read_config(str(folder / "final.yaml"))
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == cfg.MODEL.RETINANET.NUM_CLASSES == 2
    assert cfg.MODEL.CLASS_NAMES == ["red", "blue"]
    assert cfg.MODEL.ANCHOR_GENERATOR.SIZES == [[8], [16], [32], [64], [128]]
    for cfg_ in (cfg, trained):
        cfg_.OUTPUT_DIR = cfg_.MODEL.WEIGHTS = ""
        cfg_.SEARCH = CfgNode()
    assert yaml.safe_load(cfg.dump()) == yaml.safe_load(trained.dump())


def test_how_to_train_it_again(moved, monkeypatch):
    """The command of its head starts where the search's own training did, the file alone does not."""
    folder, _, _ = moved
    lines = (folder / "final.yaml").read_text().splitlines()
    (command,) = [line for line in lines if "crnas train" in line]
    words = shlex.split(command.removeprefix("#"))
    monkeypatch.chdir(folder)
    opts = words[words.index("OUTPUT_DIR") :]
    cfg = read_config(words[words.index("--config-file") + 1], opts)
    assert cfg.MODEL.WEIGHTS == "" and cfg.OUTPUT_DIR == "FOLDER"
    assert "where its training began, random weights" in " ".join(lines)


def test_paths_of_data_do_not_depend_on_the_folder(tmp_path, monkeypatch):
    recipe = write_recipe(tmp_path / "here", relative_to=tmp_path)
    monkeypatch.chdir(tmp_path)
    folders = ("DATASETS.ARCHVAL.DIR", "parts", "DATASETS.CACHE_DIR", "checks")
    run(recipe, "output", "SEARCH.RECIPE.TRAIN_FINAL", False, *folders)
    cfg = read_config(str(tmp_path / "output" / "final.yaml"))
    root = tmp_path / "here" / "data"
    assert [entry[1:] for entry in cfg.DATASETS.COCO_JSON] == [
        [str(root / "annotations.json"), str(root / "images")],
        [str(root / "val" / "annotations.json"), str(root / "val" / "images")],
    ]
    assert cfg.DATASETS.ARCHVAL.DIR == str(tmp_path / "parts")
    assert cfg.DATASETS.CACHE_DIR == str(tmp_path / "checks")
    assert list((tmp_path / "checks").glob("coco_json_*.json"))


def test_without_a_training_it_names_the_weights_to_start_from(tmp_path, monkeypatch):
    recipe = write_recipe(tmp_path)
    weights = tmp_path / "start.pth"
    torch.save(
        {"model": {"backbone.bottom_up.stem.conv1.weight": torch.zeros(8, 3, 7, 7)}}, weights
    )
    text = (tmp_path / "final.yaml").read_text()
    (tmp_path / "final.yaml").write_text(
        text.replace("MODEL:", 'MODEL:\n  WEIGHTS: "start.pth"', 1)
    )
    run(recipe, tmp_path / "output", "SEARCH.RECIPE.TRAIN_FINAL", False)
    final = tmp_path / "output" / "final.yaml"
    assert read_config(str(final)).MODEL.WEIGHTS == str(weights)
    assert "It is not trained" in final.read_text() and str(weights) in final.read_text()
