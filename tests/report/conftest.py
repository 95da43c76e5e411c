import json
import shutil
from pathlib import Path

import pytest
from made_outcomes import make_outcome, make_shortlist
from pages import run_search_net
from tiny_coco import write_tiny_coco
from tiny_search import write_recipe, write_search_config

from crnas_d2 import report
from crnas_d2.architecture import Architecture
from crnas_d2.commands import inspect as inspect_command
from crnas_d2.procedure import Procedure, Recipe
from crnas_d2.procedure.networks import networks_of
from crnas_d2.procedure.overview import overview
from crnas_d2.report.budgets_page import Budget, write_budgets_page
from crnas_d2.report.search_page import SearchPage
from crnas_d2.report.shortlists import Shortlist


@pytest.fixture
def unrendered(monkeypatch):
    """Figures are drawn, but not rendered, which takes half of the time of a page."""
    svg = b'<svg width="1" height="1"></svg>'
    monkeypatch.setattr("crnas_d2.report.themes.render", lambda *_: svg)


@pytest.fixture(scope="session")
def procedure_page(tmp_path_factory):
    """Path of the page of a whole procedure."""
    recipe = write_recipe(tmp_path_factory.mktemp("report"))
    write = report.report_procedure

    def at_the_end(procedure, changed):
        return write(procedure, changed) if all(step.done for step in overview(procedure)) else ""

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "report_procedure", at_the_end)
        return run_search_net(recipe, recipe.parent / "out")


@pytest.fixture(scope="session")
def verdict_page(procedure_page, tmp_path_factory):
    """Path of the page of the same procedure with five seeds and a short list, made of numbers."""
    folder = procedure_page.parents[1]
    procedure = Procedure(
        Recipe(str(procedure_page.parents[2] / "recipe.yaml"), ["OUTPUT_DIR", str(folder)])
    )
    page = SearchPage(
        str(tmp_path_factory.mktemp("verdict")),
        overview(procedure),
        networks_of(procedure),
        budget="5",
        outcome=make_outcome(budget="5"),
        shortlists=[Shortlist(make_shortlist(), [["model_0000099", "model_final", 0.4]])],
    )
    return Path(page.write({"Recipe": "made"}))


@pytest.fixture(scope="session")
def budgets_page(tmp_path_factory, verdict_page):
    """Path of the page over three budgets, the last of which is still open."""
    folder = tmp_path_factory.mktemp("budgets")
    outcomes = {
        "6": make_outcome(budget="6", cost={"blocks": {"baseline": 6.0, "found": 6.0}}),
        "8": make_outcome((72.0, 71.0, 73.5), (72.5, 71.9, 72.9), budget="8"),
        "10": None,
    }
    budgets = [
        Budget(
            name,
            Architecture((1, 2, 3, 2)),
            outcome,
            outcome.headline if outcome else f"Found under budget {name}: stage code 1-2-3-2.",
            str(verdict_page) if outcome else "",
        )
        for name, outcome in outcomes.items()
    ]
    return Path(write_budgets_page(str(folder), budgets, {"Recipe": "made"}))


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
    """Path of the page of two datasets, one of which has an error and a warning."""
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
