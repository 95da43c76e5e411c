import json
import shutil

import pytest
from pages import run_search_net
from tiny_coco import write_tiny_coco
from tiny_search import write_recipe, write_search_config

from crnas_d2.commands import inspect as inspect_command


@pytest.fixture(scope="session")
def procedure_page(tmp_path_factory):
    """Path of the page of a whole procedure."""
    recipe = write_recipe(tmp_path_factory.mktemp("report"))
    return run_search_net(recipe, recipe.parent / "out")


@pytest.fixture(scope="session")
def stage_config(tmp_path_factory):
    return write_search_config(tmp_path_factory.mktemp("stage"), "stage")


@pytest.fixture(scope="session")
def stage_page(stage_config):
    """Path of the page of a stage search with two budgets."""
    opts = ["SEARCH.BUDGETS", "[5, 6]"]
    return run_search_net(stage_config, stage_config.parent / "two budgets", *opts)


@pytest.fixture(scope="session")
def inspection_page(tmp_path_factory):
    """Path of the page of two data sets, one of which has an error and a warning."""
    folder = tmp_path_factory.mktemp("inspection")
    entries = []
    for seed, name in enumerate(("inspected_train", "inspected_val")):
        json_file = write_tiny_coco(folder / name, images=4, shapes=((64, 48), (40, 64)), seed=seed)
        entries.append([name, str(json_file), str(folder / name / "images")])
    coco = json.loads(json_file.read_text())
    coco["annotations"][0]["category_id"] = 77
    coco["annotations"][1]["bbox"][0] = -9
    json_file.write_text(json.dumps(coco))
    keys = {
        "DATASETS.COCO_JSON": entries,
        "DATASETS.TRAIN": ("inspected_train",),
        "DATASETS.TEST": ("inspected_val",),
    }
    opts = [word for key, value in keys.items() for word in (key, repr(value))]
    config = "Small-Data/faster_rcnn_R_18_FPN.yaml"
    page = folder / "inspection.html"
    inspect_command.main(["--config-file", config, "--output", str(page), *opts])
    return page


@pytest.fixture(scope="session")
def chromium():
    """Path of a browser."""
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip("no Chromium on this machine")
    return path
