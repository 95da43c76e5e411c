"""The searches and the whole procedure with other detectors than Faster and Mask R-CNN."""

import json

import pytest
from test_evaluator import plain_loop
from tiny_search import build, load, some_paths, write_recipe, write_search_config

from crnas_d2.analysis import analyze_detector
from crnas_d2.config import read_config
from crnas_d2.evaluation.evaluator import ArchitectureEvaluator
from crnas_d2.procedure import Procedure, Recipe
from crnas_d2.procedure.search_keys import settled
from crnas_d2.search.cost import get_cost
from crnas_d2.spaces import get_stage_space

from detectron2.modeling import RetinaNet
from detectron2.modeling.roi_heads import CascadeROIHeads


@pytest.mark.parametrize(
    "detector, step",
    [("retinanet", "stage"), ("retinanet", "dilation"), ("cascade_rcnn", "stage")],
)
def test_same_digits_as_the_plain_loop(detector, step, tmp_path):
    config = write_search_config(tmp_path / "search", step, detector=detector)
    cfg = load(config, "SEARCH.BN.MODE", "running")
    model = build(cfg)
    kind = {"retinanet": RetinaNet, "cascade_rcnn": CascadeROIHeads}[detector]
    assert any(isinstance(module, kind) for module in model.modules())
    evaluator = ArchitectureEvaluator(settled(cfg), model)
    paths = some_paths(evaluator.space, 4)
    evaluations = list(evaluator.evaluate(paths))
    assert [dict(e.metrics) for e in evaluations] == [
        {name: value for name, value in metrics.items() if value == value}
        for metrics in plain_loop(cfg, paths)
    ]
    assert len({e.metrics["bbox/AP"] for e in evaluations}) > 1


def test_whole_procedure_with_retinanet(tmp_path):
    recipe = write_recipe(tmp_path, detector="retinanet")
    opts = ["SEARCH.STRATEGY", "random", "SEARCH.EVALUATIONS", "4"]
    table = Procedure(Recipe(str(recipe), opts)).run()
    output = tmp_path / "data" / "output"
    searched = json.loads((output / "operation_search/result.json").read_text())["architecture"]
    *_, numbers = table.split("\n\n")
    header, _, *rows = ([c.strip() for c in row.split("|")[1:-1]] for row in numbers.splitlines())
    assert header[1:3] == ["baseline", "found"]
    rows = {name: [None if v == "-" else float(v) for v in values] for name, *values in rows}
    for column, step in enumerate(("baseline", "final")):
        cfg = read_config(str(output / step / "config.yaml"))
        assert cfg.MODEL.META_ARCHITECTURE == "RetinaNet" and cfg.MODEL.RETINANET.NUM_CLASSES == 2
        macs = analyze_detector(cfg).macs / 1e9
        assert rows["GMACs"][column] == pytest.approx(macs, abs=0.0051)
        results = json.loads((output / step / "step.json").read_text())["results"]
        assert rows["bbox AP50"][column] == pytest.approx(results["bbox"]["AP50"], abs=0.0051)
    assert list(cfg.MODEL.CR.OPERATION_CODE) == searched["operation_code"]
    assert sum(searched["stage_code"]) == 5


def test_budget_in_macs(tmp_path):
    """Of the backbone inside the RetinaNet, which is that inside the Faster R-CNN."""
    costs = []
    for detector in ("faster_rcnn", "retinanet"):
        folder = tmp_path / detector
        folder.mkdir()
        write_recipe(folder, detector)
        final, stage = (read_config(str(folder / name)) for name in ("final.yaml", "stage.yaml"))
        space = get_stage_space("resnet", stage.MODEL.SUPERNET.STAGE_CHOICES)
        cost = get_cost("gmacs", stage, space, final)
        costs.append([cost(code) for code in space])
    assert costs[0] == costs[1]
