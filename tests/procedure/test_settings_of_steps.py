"""Weights that a step's config names: their settings are compared before any step runs, or taken."""

import pytest
from tiny_search import write_recipe

from crnas_d2.checkpoint import CRCheckpointer
from crnas_d2.config import read_config
from crnas_d2.procedure import Procedure, Recipe
from crnas_d2.procedure.dry_run import examine_recipe
from crnas_d2.procedure.final_config import read_baseline
from crnas_d2.procedure.overview import describe

from detectron2.modeling import build_model

OPTS = ["SEARCH.RECIPE.STAGE_PRETRAINING", "", "SEARCH.RECIPE.DILATION_SUPERNET", ""]


@pytest.fixture
def recipe(tmp_path):
    """Its stage supernet starts from one that was trained on BGR."""
    recipe = write_recipe(tmp_path)
    path = tmp_path / "stage.yaml"
    cfg = read_config(str(path), ["INPUT.FORMAT", "BGR", "MODEL.PIXEL_STD", [1.0, 1.0, 1.0]])
    CRCheckpointer(build_model(cfg), str(tmp_path), cfg).save("start")
    path.write_text(path.read_text().replace("MODEL:", "MODEL:\n  WEIGHTS: start.pth", 1))
    return str(recipe)


def test_a_contradiction_is_told_by_a_dry_run_and_by_a_run(recipe, tmp_path):
    output = ["OUTPUT_DIR", str(tmp_path / "output")]
    procedure, found = examine_recipe(Recipe(recipe, [*OPTS, *output]))
    with pytest.raises(
        ValueError, match="INPUT.FORMAT: 'BGR' in the file, 'RGB' in the config"
    ) as error:
        procedure.run()
    assert found.faults == [str(error.value)]
    assert not (tmp_path / "output").exists()


def test_taken_ones_are_in_the_configs_of_the_steps(recipe, tmp_path):
    opts = [*OPTS, "MODEL.INIT.SETTINGS", "take", "OUTPUT_DIR", str(tmp_path / "output")]
    procedure = Procedure(Recipe(recipe, opts))
    assert "stage_supernet" in describe(procedure)
    step = procedure.steps[0]
    assert step.name == "stage_supernet"
    cfg = procedure.config(step)
    assert cfg.INPUT.FORMAT == "BGR" and cfg.MODEL.PIXEL_STD == [1.0, 1.0, 1.0]
    search = procedure.steps[1]
    assert search.searches and procedure.config(search).MODEL.INIT.SETTINGS == "take"


@pytest.mark.parametrize("mode, order", [("take", "BGR"), ("ignore", "RGB")])
def test_the_detector_of_a_single_search_takes_what_the_supernet_does(
    recipe, tmp_path, mode, order
):
    """Its own config says nothing of it."""
    config = str(tmp_path / "stage.yaml")
    opts = ["SEARCH.FINAL", str(tmp_path / "final.yaml"), "MODEL.INIT.SETTINGS", mode]
    cfg = read_config(config, opts)
    (name,) = read_config(str(tmp_path / "final.yaml")).DATASETS.TEST
    val = tmp_path / "data" / "val"
    cfg.DATASETS.COCO_JSON += [[name, str(val / "annotations.json"), str(val / "images")]]
    final = read_baseline(cfg, config, opts)
    assert final.INPUT.FORMAT == order
