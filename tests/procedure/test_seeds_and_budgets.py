"""A recipe with several seeds and several budgets, on a tiny dataset."""

import shutil

import pytest
import torch
import yaml
from tiny_search import write_recipe

from crnas_d2.config import get_architecture, read_config
from crnas_d2.engine import terminal
from crnas_d2.procedure import Procedure, Recipe
from crnas_d2.procedure.networks import networks_of
from crnas_d2.procedure.standing import Standing
from crnas_d2.procedure.steps import plan

# Without the operation search, so that it takes seconds
STAGES_ALONE = ["SEARCH.RECIPE.STAGE_PRETRAINING", "", "SEARCH.RECIPE.DILATION_SUPERNET", ""]
NOT_OF_THE_BASELINE = ("SEARCH.BUDGETS", [6])


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """Path of a recipe."""
    return write_recipe(tmp_path_factory.mktemp("seeds"))


def procedure(recipe, folder, *opts):
    keys = [*STAGES_ALONE, *opts, "OUTPUT_DIR", folder]
    return Procedure(Recipe(str(recipe), list(map(str, keys))))


@pytest.fixture(scope="module")
def one_seed(recipe):
    """Folder of a run with one seed, which the config does not set."""
    folder = recipe.parent / "one_seed"
    procedure(recipe, folder, "SEED", -1, *NOT_OF_THE_BASELINE).run()
    return folder


@pytest.fixture(scope="module")
def budgets(recipe):
    """Folder of a run with two budgets, with the operation search, and what it has printed."""
    folder = recipe.parent / "budgets"
    return folder, two_budgets(recipe, folder).run()


def two_budgets(recipe, folder):
    opts = ["OUTPUT_DIR", folder, "SEARCH.BUDGETS", [5, 7], "SEARCH.RECIPE.STAGE_PRETRAINING", ""]
    return Procedure(Recipe(str(recipe), list(map(str, opts))))


def weights(folder):
    return torch.load(folder / "model_final.pth", weights_only=True)["model"]


def codes(path):
    cr = yaml.safe_load(path.read_text())["MODEL"]["CR"]
    return cr["STAGE_CODE"], cr["OPERATION_CODE"]


def test_pairs_have_the_same_seeds_in_turn(recipe):
    names = [step.name for step in plan(procedure(recipe, "out", "SEARCH.RECIPE.SEEDS", 3).recipe)]
    assert names[2:] == ["baseline", "final", "baseline_2", "final_2", "baseline_3", "final_3"]
    for seed, first in ((-1, 0), (0, 0), (7, 7)):
        opts = ("SEARCH.RECIPE.SEEDS", 3, "SEED", seed)
        made = procedure(recipe, "out", *opts)
        seeds = {step.name: made.config(step).SEED for step in made.steps}
        for number, name in enumerate(("", "_2", "_3")):
            assert seeds[f"baseline{name}"] == seeds[f"final{name}"] == first + number
        assert seeds["stage_supernet"] == seed


def test_seeds_are_added_to_a_run_that_has_ended(recipe, one_seed):
    folder = recipe.parent / "more_seeds"
    shutil.copytree(one_seed, folder)
    paths = [p for s in ("baseline", "final") for p in (folder / s).glob("*") if p.is_file()]
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in paths}
    made = procedure(recipe, folder, "SEED", -1, *NOT_OF_THE_BASELINE, "SEARCH.RECIPE.SEEDS", 3)
    made.run()
    assert {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in paths} == before
    for network, name in zip(networks_of(made), ("baseline", "final")):
        assert [training.seed for training in network.trainings] == [0, 1, 2]
        folders = [str(folder / (name + number)) for number in ("", "_2", "_3")]
        assert [training.folder for training in network.trainings] == folders
        assert all("AP" in training.results["bbox"] for training in network.trainings)
    one, other = weights(folder / "final"), weights(folder / "final_2")
    assert not all(torch.equal(one[key], other[key]) for key in one)


def test_the_baseline_that_was_found_is_trained_once(recipe, monkeypatch):
    later = {}  # number of later steps that the time left is estimated from, by step
    begin = terminal.step

    def step(name, number, count, pixels, works):
        later[name] = len(works)
        return begin(name, number, count, pixels, works)

    monkeypatch.setattr(terminal, "step", step)
    folder = recipe.parent / "same"
    opts = ("MODEL.SUPERNET.STAGE_CHOICES", [[1], [1], [2], [1]], "SEARCH.RECIPE.SEEDS", 2)
    made = procedure(recipe, folder, *opts)
    made.run()
    assert later == {"stage_supernet": 5, "stage_search": 4, "baseline": 1, "baseline_2": 0}
    assert not (folder / "final").exists() and not (folder / "final_2").exists()
    baseline, found = networks_of(made)
    assert baseline.architecture == found.architecture
    assert found.trainings == baseline.trainings and len(found.trainings) == 2
    assert found.weights == str(folder / "baseline" / "model_final.pth")
    assert yaml.safe_load((folder / "final.yaml").read_text())["MODEL"]["WEIGHTS"] == (
        "baseline/model_final.pth"
    )
    again = procedure(recipe, folder, *opts)
    assert all(standing.done for standing in again.look().values())


def test_what_starts_from_a_pretraining_that_another_stands_for(recipe):
    text = (recipe.parent / "stage_pretraining.yaml").read_text()
    text = text.replace("stage.yaml", "final.yaml").replace(
        "stage_supernet_backbone", "cr_backbone"
    )
    (recipe.parent / "final_pretraining.yaml").write_text(text)
    made = procedure(recipe, "out", "SEARCH.RECIPE.FINAL_PRETRAINING", "final_pretraining.yaml")
    made._standings["final_pretraining"] = Standing(True, True, folder="baseline_pretraining")
    starts = {step.name: made.config(step).MODEL.WEIGHTS for step in made.steps if step.weights}
    assert starts["final"] == starts["baseline"] == "out/baseline_pretraining/model_final.pth"


def test_each_budget_has_its_own_networks(budgets):
    folder, table = budgets
    assert {p.name for p in folder.iterdir() if p.is_dir()} == {
        *("stage_supernet", "stage_search", "budget_5", "budget_7")
    }
    for budget in (5, 7):
        own = folder / f"budget_{budget}"
        stage_code, operation_code = codes(own / "architecture.yaml")
        assert sum(stage_code) == budget == len(operation_code)
        supernet = read_config(str(own / "dilation_supernet" / "config.yaml"))
        assert list(supernet.MODEL.CR.STAGE_CODE) == stage_code
        baseline = read_config(str(own / "baseline" / "config.yaml"))
        assert sum(baseline.MODEL.CR.STAGE_CODE) == budget
        assert (own / "final.yaml").is_file()
        assert f"Under budget {budget}, what was found is" in table
    assert list(read_config(str(folder / "budget_5/baseline/config.yaml")).MODEL.CR.STAGE_CODE) == [
        *(1, 1, 2, 1)
    ]
    assert not (folder / "final.yaml").exists()


def test_a_run_of_what_is_done_reports_each_budget_once(budgets, recipe):
    reported = []
    two_budgets(recipe, budgets[0]).run(reported.append)
    assert reported == [["5"], ["7"]]


def test_a_budget_that_is_there_twice_is_one(recipe):
    for budgets, names in (([5, 7, 5.0], ["5", "7"]), ([6, 6.0], [""])):
        made = procedure(recipe, "out", "SEARCH.BUDGETS", budgets)
        assert made.recipe.budgets == names
        assert len({step.name for step in made.steps}) == len(made.steps) == 2 + 2 * len(names)
        assert made.look().keys() == {step.name for step in made.steps}


def test_the_baseline_keeps_its_dilations_where_it_fits_a_budget(recipe):
    opts = ("SEARCH.BUDGETS", [5, 7], "MODEL.CR.OPERATION_CODE", [0, 0, 0, 1, 0])
    made = procedure(recipe, "out", *opts)
    trained = {step.budget: made.config(step) for step in made.steps if "baseline" in step.name}
    for budget, dilations in (("5", (0, 0, 0, 1, 0)), ("7", (0,) * 7)):
        for cfg in (made.baseline(budget), trained[budget]):
            assert get_architecture(cfg).operation_code == dilations


def test_products_of_one_budget_do_not_stay_beside_those_of_several(recipe, one_seed):
    folder = recipe.parent / "more_budgets"
    shutil.copytree(one_seed, folder)
    names = ("architecture.yaml", "final.yaml", "result.json")
    assert all((folder / name).is_file() for name in names)
    procedure(recipe, folder, "SEED", -1, "SEARCH.BUDGETS", [5, 7]).run()
    readme = (folder / "README.md").read_text()
    for name in names:
        assert not (folder / name).exists() and f"`{name}`" not in readme
        assert (folder / "budget_5" / name).is_file()


def test_a_run_of_several_budgets_that_has_ended_is_done(recipe, budgets):
    folder, table = budgets
    opts = ["OUTPUT_DIR", folder, "SEARCH.BUDGETS", [5, 7], "SEARCH.RECIPE.STAGE_PRETRAINING", ""]
    made = Procedure(Recipe(str(recipe), list(map(str, opts))))
    assert all(standing.done for standing in made.look().values())
    assert made.run() == table
