"""The whole procedure with a Faster R-CNN on a dilated res5."""

import json

import pytest
from tiny_search import write_recipe

from crnas_d2.config import read_config
from crnas_d2.procedure import Procedure, Recipe


def test_whole_procedure(tmp_path):
    recipe = write_recipe(tmp_path, detector="dc5")
    opts = ["SEARCH.STRATEGY", "random", "SEARCH.EVALUATIONS", "4", "SEARCH.RECIPE.INHERIT", "True"]
    Procedure(Recipe(str(recipe), opts)).run()
    output = tmp_path / "data" / "output"
    searched = json.loads((output / "operation_search/result.json").read_text())["architecture"]
    for step in ("baseline", "final"):
        cfg = read_config(str(output / step / "config.yaml"))
        assert cfg.MODEL.RESNETS.RES5_DILATION == 2
        results = json.loads((output / step / "step.json").read_text())["results"]
        assert "AP50" in results["bbox"]
    assert list(cfg.MODEL.CR.OPERATION_CODE) == searched["operation_code"]
    assert sum(searched["stage_code"]) == 5


@pytest.mark.parametrize(
    "name, key",
    [
        ("build_cr_fpn_backbone", r"BACKBONE.NAME is 'build_\*_backbone' in .*_\*_fpn_back"),
        ("build_cr_backbone", "MODEL.RESNETS.RES5_DILATION is 2 in .*stage.yaml.* and 1 in"),
    ],
)
def test_a_final_detector_that_cannot_inherit_is_refused_first(tmp_path, name, key):
    recipe = write_recipe(tmp_path, detector="dc5")
    final = tmp_path / "final.yaml"
    change = f"NAME: {name}}}\n  RESNETS: {{RES5_DILATION: 1"
    final.write_text(final.read_text().replace('NAME: "build_cr_backbone"', change))
    with pytest.raises(ValueError, match=f"{key}.*expected the same"):
        Procedure(Recipe(str(recipe), ["SEARCH.RECIPE.INHERIT", "True"])).run()
    assert not (tmp_path / "data" / "output").exists()
