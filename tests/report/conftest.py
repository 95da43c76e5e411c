import shutil

import pytest
from pages import run_search_net
from tiny_search import write_recipe, write_search_config


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
def chromium():
    """Path of a browser."""
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip("no Chromium on this machine")
    return path
