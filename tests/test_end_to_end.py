"""The way of a new user: an empty folder, the wheel, images and two json files of their own."""

import contextlib
import json
import os
import shutil
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from PIL import Image
from sklearn.datasets import load_sample_image
from tiny_coco import write_tiny_coco
from warm_python import WarmPython

SEARCH = """
DATASETS:
  COCO_JSON:
    - ["own_train", "shapes/train/annotations.json", "shapes/train/images"]
    - ["own_val", "shapes/val/annotations.json", "shapes/val/images"]
  ARCHVAL:
    SIZE: 4
SEARCH:
  BUDGETS: [5]
  FINAL: "Small-Data/faster_rcnn_R_18_FPN.yaml"
  RECIPE:
    STAGE_SUPERNET: "Small-Data/stage_supernet_R_18_FPN.yaml"
    DILATION_SUPERNET: "Small-Data/dilation_supernet_SCR_R_18_FPN.yaml"
# So small that all of it takes seconds.
MODEL:
  RESNETS: {STEM_OUT_CHANNELS: 8, RES2_OUT_CHANNELS: 8}
  FPN: {OUT_CHANNELS: 16}
  ROI_BOX_HEAD: {FC_DIM: 16}
  ROI_HEADS: {SCORE_THRESH_TEST: 0.0}
  SUPERNET: {STAGE_CHOICES: [[1, 2], [1, 2], [1, 2], [1, 2]], OPERATIONS: [0, 1]}
  CR: {STAGE_CODE: [1, 1, 1, 2]}
INPUT: {MIN_SIZE_TRAIN: [64], MIN_SIZE_TEST: 64}
DATALOADER: {NUM_WORKERS: 0}
SOLVER: {MAX_ITER: 3, STEPS: []}
OUTPUT_DIR: "output/search"
VERSION: 2
"""


@pytest.fixture(scope="module")
def user(installed, tmp_path_factory):
    """A folder with data, a recipe and two photographs, in which crnas has searched."""
    folder = tmp_path_factory.mktemp("user")
    write_tiny_coco(folder / "shapes" / "train", images=12)
    write_tiny_coco(folder / "shapes" / "val", images=4, seed=1)
    (folder / "photographs").mkdir()
    for name in ("china", "flower"):
        pixels = load_sample_image(f"{name}.jpg")
        Image.fromarray(pixels).resize((160, 107)).save(folder / "photographs" / f"{name}.png")
    (folder / "my_search.yaml").write_text(SEARCH)
    with crnas_of(installed) as crnas:
        yield _search(SimpleNamespace(folder=folder, crnas=crnas))


def _search(user):
    folder = user.folder
    user.crnas(folder, "search", "--config-file", "my_search.yaml", "--dry-run")
    assert {path.name for path in folder.iterdir()} == {
        "shapes",
        "photographs",
        "my_search.yaml",
        "datasets",
    }
    assert [path.name for path in (folder / "datasets").iterdir()] == ["crnas_d2_cache"], (
        "a dry run leaves nothing behind but what its checks remember"
    )
    user.printed = user.crnas(folder, "search", "--config-file", "my_search.yaml")
    return user


@contextlib.contextmanager
def crnas_of(installed):
    """``crnas`` as it was installed; nothing of the checkout can be imported beside it.

    Its first call is a process of its own, the others are forks of one that has imported it.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": str(installed),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "DETECTRON2_DATASETS": "datasets",
    }

    warm = []

    def run(folder, *arguments):
        command = [installed / "bin" / "crnas", *arguments]
        if warm:
            ended = warm[0].run(command, folder, environment)
        else:
            ended = subprocess.run(
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
            )
            warm.append(WarmPython(environment))
        assert ended.returncode == 0, f"crnas {arguments}: {ended.stdout}{ended.stderr}"
        return ended.stdout

    yield run
    for python in warm:
        python.close()


def predict(user, folder, model, images, output):
    user.crnas(
        *(folder, "predict", "--model", model, "--input", images, "--output", output),
        *("--conf-threshold", "0"),
    )
    return json.loads((folder / output / "predictions.json").read_text())


def test_search_prints_what_it_found(user):
    assert "found" in user.printed and "baseline" in user.printed
    assert (user.folder / "output/search/report/index.html").is_file()


def test_predictions_are_images_and_a_dataset(user):
    predictions = predict(user, user.folder, "output/search", "photographs", "predictions")
    assert [category["name"] for category in predictions["categories"]] == ["red", "blue"]
    assert len(predictions["images"]) == 2
    assert predictions["annotations"]
    for name in ("china", "flower"):
        drawn = np.asarray(Image.open(user.folder / "predictions" / f"{name}.png"))
        plain = np.asarray(Image.open(user.folder / "photographs" / f"{name}.png"))
        assert (drawn != plain).any()


def test_result_moves_to_another_folder_without_its_data(user, tmp_path):
    before = predict(user, user.folder, "output/search", "photographs", "before")
    shutil.copytree(user.folder / "photographs", tmp_path / "photographs")
    output, kept = user.folder / "output/search", tmp_path / "kept"
    weights = yaml.safe_load((output / "final.yaml").read_text())["MODEL"]["WEIGHTS"]
    for name in ("final.yaml", weights):
        (kept / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(output / name, kept / name)
    hidden = user.folder.rename(user.folder.with_name("hidden"))
    try:
        after = predict(user, tmp_path, "kept/final.yaml", "photographs", "after")
    finally:
        hidden.rename(user.folder)
    assert after == before
