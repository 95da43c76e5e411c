"""The page of a recipe that found nothing better than its baseline: one network, and no difference."""

import shutil
from dataclasses import replace

import pytest
from made_outcomes import BETTER, make_outcome
from pages import Page

from crnas_d2.procedure import Procedure, Recipe
from crnas_d2.procedure.networks import compare, networks_of
from crnas_d2.procedure.outcome_text import seed_table
from crnas_d2.procedure.overview import overview
from crnas_d2.report.search_page import SearchPage

APS = [f"{ap:.2f}" for ap in BETTER["baseline"]]


@pytest.fixture(scope="module")
def networks(procedure_page):
    folder = procedure_page.parents[1]
    recipe = Recipe(str(folder.parent / "recipe.yaml"), ["OUTPUT_DIR", str(folder)])
    procedure = Procedure(recipe)
    baseline, _ = networks_of(procedure)
    return procedure, [baseline, replace(baseline, name="found")]


@pytest.fixture(scope="module")
def page(networks, tmp_path_factory):
    procedure, networks = networks
    folder, outcome = tmp_path_factory.mktemp("same"), make_outcome(found=None)
    shutil.copy(procedure.path("baseline", "config.yaml"), folder / "final.yaml")
    made = SearchPage(str(folder), overview(procedure), networks, outcome=outcome)
    path = made.write({"Recipe": "made"})
    assert not made.left_out
    return Page(path)


def test_it_says_so_first(page):
    for sentence in (
        "Nothing better than the baseline was found.",
        "The network that was found is the baseline itself.",
        "final.yaml is the baseline.",
    ):
        assert sentence in page.text
    assert "not shown to be better" not in page.text


def test_the_network_is_there_once(page):
    assert all(page.text.count(ap) == 1 for ap in APS)
    for words in ("interval", "sign-flip", "found won", "Found minus", "Compare the two"):
        assert words not in page.text
    assert "Train it with another seed" in page.text


def test_tables_of_the_terminal(networks):
    _, (baseline, found) = networks
    lines = seed_table(make_outcome(found=None)).splitlines()
    assert [cell.strip() for cell in lines[0].strip("|").split("|")] == ["bbox/AP", "baseline"]
    assert [line.split("|")[2].strip() for line in lines[2:7]] == APS
    table = compare(baseline, found)
    assert "found" not in table and "difference" not in table
    assert "AP50" in table
