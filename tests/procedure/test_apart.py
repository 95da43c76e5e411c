"""The images that train, that choose and that test are apart, whatever names they have."""

import argparse
import json
import os
import re
import shutil

import on_disk
import pytest
from tiny_search import write_recipe, write_search_config

from crnas_d2.data.shared_images import copied_images
from crnas_d2.procedure import Procedure, Recipe
from crnas_d2.procedure.checks import check_before_run, check_before_search

IMAGES = 12


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
    return write_recipe(tmp_path)


def check(recipe, *opts):
    check_before_run(prepare(recipe, *opts))


def prepare(recipe, *opts):
    procedure = Procedure(Recipe(str(recipe), list(map(str, opts))))
    procedure.look()
    return procedure


def name_of(recipe):
    return json.loads(json.dumps(Recipe(str(recipe)).cfg.DATASETS.COCO_JSON))[0][0][
        : -len("_train")
    ]


def with_test(recipe, json_file, images):
    """The test set is another one, under its own name."""
    data, name = recipe.parent / "data", name_of(recipe)
    return [
        "DATASETS.COCO_JSON",
        [
            [f"{name}_train", str(data / "annotations.json"), str(data / "images")],
            [f"{name}_val", str(json_file), str(images)],
        ],
    ]


def copy_files(source, target):
    shutil.copytree(source, target)


def link_files(source, target):
    target.mkdir()
    for path in source.iterdir():
        os.link(path, target / path.name)


def link_folder(source, target):
    target.symlink_to(source)


def first_images(json_file, target, count):
    coco = json.loads(json_file.read_text())
    coco["images"] = coco["images"][:count]
    ids = {image["id"] for image in coco["images"]}
    coco["annotations"] = [a for a in coco["annotations"] if a["image_id"] in ids]
    target.write_text(json.dumps(coco))
    return target


def test_apart(recipe):
    check(recipe)


@pytest.mark.parametrize("json_copied", [False, True])
@pytest.mark.parametrize("get", [None, copy_files, link_files, link_folder])
def test_one_dataset_under_two_names(recipe, get, json_copied):
    data = recipe.parent / "data"
    json_file, images = data / "annotations.json", data / "images"
    if json_copied:
        json_file = shutil.copy(json_file, recipe.parent / "other.json")
    if get:
        get(images, recipe.parent / "copies")
        images = recipe.parent / "copies"
    message = "_val is the DATASETS.TEST of baseline, and 12 of its (images are in|12 images)"
    with pytest.raises(ValueError, match=message):
        check(recipe, *with_test(recipe, json_file, images))


@pytest.mark.parametrize("part", [3, IMAGES])
def test_copies_of_some_training_images_are_no_test_set(recipe, part):
    data = recipe.parent / "data"
    copy_files(data / "images", recipe.parent / "copies")
    some = first_images(data / "annotations.json", recipe.parent / "some.json", part)
    message = f"{part} of its {part} images are, byte for byte, images of .*_train, on which"
    with pytest.raises(ValueError, match=message):
        check(recipe, *with_test(recipe, some, recipe.parent / "copies"))


def test_a_few_copies_are_told_and_not_refused(recipe):
    """As large datasets have some. Near-copies are counted in the log, the report and the README."""
    data, copies_folder = recipe.parent / "data", recipe.parent / "copies"
    copy_files(data / "val" / "images", copies_folder)
    shutil.copy(data / "images" / "0002.png", copies_folder / "0002.png")
    opts = with_test(recipe, data / "val" / "annotations.json", copies_folder)
    check(recipe, *opts)
    procedure, name = prepare(recipe, *opts), name_of(recipe)
    copies, compared = copied_images(
        f"{name}_val", f"{name}_train", procedure.final_config().DATASETS
    )
    assert copies == {str(copies_folder / "0002.png"): str(data / "images" / "0002.png")}
    assert compared == 4


@pytest.mark.parametrize("part", ["train", "archval", "archtrain"])
def test_the_final_detector_is_not_tested_on_what_it_trains_on(recipe, part):
    edit(recipe, "final", '_val"]', f'_{part}"]')
    with pytest.raises(ValueError, match=f"_{part} is the DATASETS.TEST of baseline, and "):
        check(recipe)


def test_nor_on_a_second_test_set(recipe):
    name = name_of(recipe)
    edit(recipe, "final", f'TEST: ["{name}_val"]', f'TEST: ["{name}_val", "{name}_train"]')
    with pytest.raises(ValueError, match="_train is the DATASETS.TEST of baseline, and 12 of its"):
        check(recipe)


def test_the_test_set_chooses_nothing(recipe):
    for step in ("stage", "dilation"):
        edit(recipe, step, '_archval"]', '_val"]')
    message = "_val is the DATASETS.TEST of SEARCH.FINAL, .*, by which stage_search chooses"
    with pytest.raises(ValueError, match=message):
        check(recipe)


def test_a_copy_of_the_test_set_chooses_nothing(recipe):
    data, name = recipe.parent / "data" / "val", name_of(recipe)
    copy_files(data, recipe.parent / "copy")
    for step in ("stage", "dilation"):
        edit(recipe, step, '_archval"]', '_chosen"]')
    key, sets = with_test(recipe, data / "annotations.json", data / "images")
    copy = recipe.parent / "copy"
    sets.append([f"{name}_chosen", str(copy / "annotations.json"), str(copy / "images")])
    message = "_val is the DATASETS.TEST of SEARCH.FINAL, and 4 of its 4 images are, .*_chosen, by"
    with pytest.raises(ValueError, match=message):
        check(recipe, key, sets)


def test_supernets_do_not_train_on_archval(recipe):
    for step in ("stage", "dilation"):
        edit(recipe, step, '_archtrain"]', '_train"]')
    with pytest.raises(
        ValueError, match="_archval is the DATASETS.TEST of stage_supernet, and 7 of"
    ):
        check(recipe)


@pytest.mark.parametrize("part", ["archval", "archtrain"])
def test_a_search_over_one_supernet(tmp_path, part):
    path = write_search_config(tmp_path, "stage")
    text = path.read_text()
    (name,) = re.findall(r'TEST: \["(.*)_archval"\]', text)
    final = text.replace("build_stage_supernet_fpn_backbone", "build_cr_fpn_backbone")
    final = final.replace(f"{name}_archtrain", f"{name}_train")
    (tmp_path / "final.yaml").write_text(final.replace(f"{name}_archval", f"{name}_{part}"))
    args = argparse.Namespace(
        config_file=str(path), opts=["SEARCH.FINAL", "final.yaml"], eval_only=True, resume=False
    )
    message = f"_{part} is the DATASETS.TEST of SEARCH.FINAL, and [57] of its images are in"
    with pytest.raises(ValueError, match=message):
        check_before_search(args)


def edit(recipe, step, before, after):
    on_disk.edit(recipe.parent / f"{step}.yaml", before, after)
