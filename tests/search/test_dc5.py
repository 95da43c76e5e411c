"""The searches and the whole procedure with a Faster R-CNN on a dilated res5."""

import json

import pytest
from test_evaluator import plain_loop
from tiny_search import build, load, some_paths, write_recipe, write_search_config

from crnas_d2.analysis import analyze_detector
from crnas_d2.config import read_config
from crnas_d2.search import Procedure, Recipe
from crnas_d2.search.evaluator import ArchitectureEvaluator
from crnas_d2.search.step import settled


@pytest.mark.parametrize("step", ["stage", "dilation"])
def test_same_digits_as_the_plain_loop(step, tmp_path):
    config = write_search_config(tmp_path / "search", step, detector="dc5")
    cfg = load(config, "SEARCH.BN.MODE", "running")
    model = build(cfg)
    assert model.backbone.output_shape()["res5"].stride == 16
    evaluator = ArchitectureEvaluator(settled(cfg), model)
    paths = some_paths(evaluator.space, 4)
    evaluations = evaluator.evaluate(paths)
    assert [dict(e.metrics) for e in evaluations] == [
        {name: value for name, value in metrics.items() if value == value}
        for metrics in plain_loop(cfg, paths)
    ]
    assert len({e.metrics["bbox/AP"] for e in evaluations}) > 1


def test_whole_procedure(tmp_path):
    recipe = write_recipe(tmp_path, detector="dc5")
    opts = ["SEARCH.STRATEGY", "random", "SEARCH.EVALUATIONS", "4", "SEARCH.RECIPE.INHERIT", "True"]
    table = Procedure(Recipe(str(recipe), opts)).run()
    output = tmp_path / "data" / "output"
    searched = json.loads((output / "operation_search/result.json").read_text())["architecture"]
    header, _, *rows = [[cell.strip() for cell in row.split("|")] for row in table.splitlines()]
    for row, step in zip(rows, ("baseline", "final"), strict=True):
        cfg = read_config(str(output / step / "config.yaml"))
        assert cfg.MODEL.RESNETS.RES5_DILATION == 2
        assert dict(zip(header, row))["GMACs"] == f"{analyze_detector(cfg).macs / 1e9:.1f}"
    assert list(cfg.MODEL.CR.OPERATION_CODE) == searched["operation_code"]
    assert sum(searched["stage_code"]) == 5
