"""A recipe has its images looked at once, whatever its steps."""

import os

import pytest
from PIL import Image
from tiny_search import write_recipe

from crnas_d2.data import image_check
from crnas_d2.procedure import Procedure, Recipe
from crnas_d2.procedure.checks import check_procedure

pytestmark = pytest.mark.usefixtures("catalogs")


@pytest.fixture
def opened(monkeypatch):
    """The files whose headers are read."""
    paths = []

    def read_facts(path, decode):
        paths.append(path)
        return original(path, decode)

    original = image_check.read_facts
    monkeypatch.setattr(image_check, "read_facts", read_facts)
    return paths


def procedure_of(path, cache):
    return Procedure(Recipe(str(path), ["DATASETS.CACHE_DIR", str(cache)]))


def test_each_image_is_opened_once_before_the_first_step(tmp_path, opened, monkeypatch):
    recipe = write_recipe(tmp_path / "recipe")
    check_procedure(procedure_of(recipe, tmp_path / "cache"), splits=str(tmp_path))
    files = [path for path in (tmp_path / "recipe" / "data").rglob("*") if path.is_file()]
    images = {str(path) for path in files if path.suffix in (".jpg", ".png")}
    assert set(opened) == images  # those of the classifiers' folders too
    assert len(opened) == len(images)

    monkeypatch.setattr(image_check, "ImageStore", lambda *_: pytest.fail("looked at again"))
    check_procedure(procedure_of(recipe, tmp_path / "cache"), splits=str(tmp_path))


def test_an_image_of_the_last_step_is_refused_before_the_first(tmp_path):
    recipe = write_recipe(tmp_path / "recipe")
    path = tmp_path / "recipe" / "data" / "val" / "images" / "0001.png"
    Image.new("RGB", (65, 64)).save(path)
    with pytest.raises(
        ValueError, match=f"{path} has 65 x 64 pixels, and the dataset says 64 x 64"
    ):
        check_procedure(procedure_of(recipe, tmp_path / "cache"), splits=str(tmp_path))
    assert not os.path.exists(tmp_path / "recipe" / "output")
