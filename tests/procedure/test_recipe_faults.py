"""What is wrong with a recipe is told before its first step, and by --dry-run; nothing is written."""

import json
import os
import shutil
import uuid

import pytest
from on_disk import contents, edit
from PIL import Image
from tiny_search import add_masks, write_recipe

from crnas_d2 import ARCHITECTURES
from crnas_d2.commands import search as search_command
from crnas_d2.config import configs_dir
from crnas_d2.files import write_signed
from crnas_d2.procedure import Procedure, Recipe
from crnas_d2.procedure.dry_run import examine_recipe
from crnas_d2.procedure.overview import describe
from crnas_d2.search.result import write_architecture

pytestmark = pytest.mark.usefixtures("catalogs")


@pytest.fixture
def recipe(tmp_path):
    return write_recipe(tmp_path / "recipe")


def check(recipe, *opts):
    """Of a run, and that a dry run tells it too, and that they leave all files alone."""
    before = contents(recipe.parent)
    made = Recipe(str(recipe), list(map(str, opts)))
    _, found = examine_recipe(made)
    with pytest.raises(ValueError) as error:
        Procedure(made).run()
    known = {path for path in contents(recipe.parent) if "_size7_" not in path.name}  # of archval
    assert known - before.keys() == set()
    assert all(path.read_bytes() == content for path, content in before.items())
    message = str(error.value)
    assert message in found.faults and "\n" not in message
    return message


def is_ready(recipe, *opts):
    return examine_recipe(Recipe(str(recipe), list(map(str, opts))))[1].is_ready


def test_the_final_detectors_cannot_be_compared(recipe):
    """Which would come to light after all trainings."""
    final, val = recipe.parent / "final.yaml", recipe.parent / "data/val/annotations.json"
    content = json.loads(val.read_text())
    content["annotations"] = [it for it in content["annotations"] if it["category_id"] == 3]
    names = {category["id"]: category["name"] for category in content["categories"]}
    assert len(names) == 2 and content["annotations"]
    val.write_text(json.dumps(content))
    lacking = next(name for key, name in names.items() if key != 3)
    message = check(recipe, "SEARCH.METRIC", f"bbox/AP-{lacking}")
    assert f"_val ({val}) has no object of class '{lacking}'" in message
    assert is_ready(recipe, "SEARCH.METRIC", f"bbox/AP-{names[3]}")
    text = final.read_text()
    final.write_text(text[: text.index("DATASETS:")] + "DATASETS: {TRAIN: [], TEST: []}\n")
    edit(final, "TRAIN: []", text[text.index("TRAIN:") : text.index(", TEST")])
    message = check(recipe)
    assert message.startswith("DATASETS.TEST is empty; expected a test set, on which the final")
    assert is_ready(recipe, "SEARCH.RECIPE.TRAIN_FINAL", False)


def test_final_detectors_without_the_masks_that_are_compared(recipe):
    for part in ("", "val"):
        add_masks(recipe.parent / "data" / part / "annotations.json")
    for name in ("stage.yaml", "dilation.yaml"):
        edit(recipe.parent / name, "MASK_ON: False", "MASK_ON: True")
    edit(recipe.parent / "final.yaml", "MODEL:\n", "MODEL:\n  MASK_ON: False\n")
    message = check(recipe, "SEARCH.METRIC", "segm/AP")
    assert message.startswith("SEARCH.METRIC is 'segm/AP', and MODEL.MASK_ON is False")


STAGE, DILATION = "a detector with a stage supernet", "a detector with a dilation supernet"
PLAIN = "a detector with a network of one architecture"


@pytest.mark.parametrize(
    "key, file, found, expected",
    [
        ("RECIPE.STAGE_SUPERNET", "dilation.yaml", DILATION, STAGE),
        ("RECIPE.STAGE_SUPERNET", "final.yaml", PLAIN, STAGE),
        (
            "RECIPE.STAGE_SUPERNET",
            "stage_pretraining.yaml",
            "a classifier with a stage supernet",
            STAGE,
        ),
        ("RECIPE.DILATION_SUPERNET", "stage.yaml", STAGE, DILATION),
        (
            "RECIPE.STAGE_PRETRAINING",
            "stage.yaml",
            STAGE,
            "a classifier with a stage supernet",
        ),
        (
            "RECIPE.FINAL_PRETRAINING",
            "stage_pretraining.yaml",
            "a classifier with a stage supernet",
            "a classifier with a network of one architecture",
        ),
        ("FINAL", "dilation.yaml", DILATION, PLAIN),
    ],
)
def test_configs_at_the_wrong_place(recipe, key, file, found, expected):
    path = recipe.parent / file
    assert check(recipe, f"SEARCH.{key}", file) == (
        f"SEARCH.{key} is {str(path)!r}, {found}; expected {expected}"
    )


def test_networks_that_do_not_fit_each_other(recipe):
    (recipe.parent / "wide.yaml").write_text(
        '_BASE_: "stage_pretraining.yaml"\nMODEL: {RESNETS: {RES2_OUT_CHANNELS: 16}}\n'
    )
    message = check(recipe, "SEARCH.RECIPE.STAGE_PRETRAINING", "wide.yaml")
    assert (
        message.startswith("MODEL.RESNETS.RES2_OUT_CHANNELS is 16 in ") and " and 8 in " in message
    )
    (recipe.parent / "shared.yaml").write_text(
        '_BASE_: "stage_pretraining.yaml"\nMODEL: {SUPERNET: {SHARE_BLOCKS: True}}\n'
    )
    message = check(recipe, "SEARCH.RECIPE.STAGE_PRETRAINING", "shared.yaml")
    assert message.startswith("MODEL.SUPERNET.SHARE_BLOCKS is True in ") and " and False" in message
    (recipe.parent / "deep.yaml").write_text(
        '_BASE_: "final.yaml"\nMODEL: {CR: {BLOCK: "bottleneck"}}\n'
    )
    message = check(recipe, "SEARCH.FINAL", "deep.yaml")
    assert message.startswith("MODEL.CR.BLOCK is 'basic' in ") and "'bottleneck' in" in message
    (recipe.parent / "thin.yaml").write_text(
        '_BASE_: "final.yaml"\nMODEL: {RESNETS: {STEM_OUT_CHANNELS: 4}}\n'
    )
    Procedure(Recipe(str(recipe), ["SEARCH.FINAL", "thin.yaml"]))
    message = check(recipe, "SEARCH.FINAL", "thin.yaml", "SEARCH.RECIPE.INHERIT", True)
    assert message.startswith("MODEL.RESNETS.STEM_OUT_CHANNELS is 8 in ")


def test_an_output_without_a_name(recipe):
    assert check(recipe, "OUTPUT_DIR", "").startswith("OUTPUT_DIR is ''; expected a folder")


def test_the_folder_of_the_recipe_as_the_output(recipe):
    final = recipe.parent / "final.yaml"
    message = check(recipe, "OUTPUT_DIR", recipe.parent)
    assert f"the search writes {final}; {final} is read from there" in message


@pytest.mark.parametrize("step", ["stage_supernet", "final"])
@pytest.mark.parametrize("what", ["config", "base", "weights", "json", "images"])
def test_what_is_read_where_a_step_writes(recipe, step, what):
    output = recipe.parent / "output"
    (output / step).mkdir(parents=True)
    source = {
        "config": recipe.parent / "final.yaml",
        "base": recipe.parent / "dilation.yaml",
        "weights": recipe.parent / "data" / "annotations.json",
        "json": recipe.parent / "data" / "annotations.json",
        "images": recipe.parent / "data" / "images",
    }[what]
    there = output / step / source.name
    (shutil.copytree if source.is_dir() else shutil.copy)(source, there)
    opts = []
    if what == "config":
        edit(there, '"dilation.yaml"', f'"{recipe.parent}/dilation.yaml"')
        opts = ["SEARCH.FINAL", there]
    elif what == "base":
        edit(recipe.parent / "final.yaml", '"dilation.yaml"', f'"{there}"')
    elif what == "weights":
        edit(recipe.parent / "final.yaml", "MODEL:", f'MODEL:\n  WEIGHTS: "{there}"')
    else:
        edit(recipe, f'"{source}"', f'"{there}"')
    message = check(recipe, "OUTPUT_DIR", output, *opts)
    assert f"where the search writes {output / step}; {there} is read from there" in message


@pytest.mark.parametrize(
    "name",
    ["final.yaml", "architecture.yaml", "report/index.html", "final/notes.txt", "stage_search/a/b"],
)
def test_files_of_the_user_where_a_search_writes(recipe, name):
    output = recipe.parent / "output"
    path = output / name
    path.parent.mkdir(parents=True)
    path.write_text("MODEL: {}\n")
    message = check(recipe, "OUTPUT_DIR", output)
    place = path if name.split("/")[0] in ("report", path.name) else output / name.split("/")[0]
    assert f"where the search writes {place}; there is one already that it has not" in message


def test_a_step_that_was_killed_before_its_first_file_is_no_users(recipe):
    step = recipe.parent / "output" / "stage_search"
    step.mkdir(parents=True)
    begun = step / f"step.json.{uuid.uuid4().hex}.tmp"
    begun.write_text("{")
    assert is_ready(recipe, "OUTPUT_DIR", step.parent)
    begun.rename(step / "step.json.tmp")
    assert f"where the search writes {step};" in check(recipe, "OUTPUT_DIR", step.parent)


def test_an_edited_product_is_the_users(recipe, tmp_path):
    output = tmp_path / "output"
    output.mkdir()
    write_signed(str(output / "final.yaml"), "VERSION: 2\n")
    write_architecture(str(output), ARCHITECTURES["CR-ResNet18"])
    opts = ["OUTPUT_DIR", str(output)]
    assert is_ready(recipe, *opts)
    for name in ("final.yaml", "architecture.yaml"):
        with (output / name).open("a") as file:
            file.write("SEED: 2\n")
        assert f"the search writes {output / name}; there is" in check(recipe, *opts)
        os.remove(output / name)


def test_other_files_beside_the_products_do_no_harm(recipe):
    output = recipe.parent / "output"
    (output / "report").mkdir(parents=True)
    (output / "notes").mkdir()
    for name in ("my.yaml", "report/mine.html", "notes/final.yaml"):
        (output / name).write_text("mine")
    assert is_ready(recipe, "OUTPUT_DIR", output)


def test_a_test_set_that_is_the_training_set(recipe):
    final = recipe.parent / "final.yaml"
    name = final.read_text().split('TRAIN: ["')[1].split('"')[0]
    edit(final, name.replace("_train", "_val"), name)
    message = check(recipe)
    assert message.startswith(
        f"{name} is the DATASETS.TEST of baseline, and 12 of its images are in "
    )
    assert "on which baseline trains" in message


def link_into_val(recipe, number):
    """Put an image of the training set among those of the test set, by a symbolic link."""
    root = recipe.parent / "data"
    image = root / "val" / "images" / "0001.png"
    image.unlink()
    image.symlink_to(root / "images" / f"{number:04d}.png")
    data = json.loads((root / "val" / "annotations.json").read_text())
    for entry in data["images"]:
        if entry["file_name"] == image.name:
            entry["width"], entry["height"] = Image.open(image).size
    (root / "val" / "annotations.json").write_text(json.dumps(data))


@pytest.mark.parametrize("in_final", [True, False])
def test_an_image_of_the_test_set_that_is_trained_on(recipe, in_final):
    """In the final training, or in that of a supernet alone."""
    link_into_val(recipe, 3)
    if not in_final:
        other = recipe.parent / "data" / "other"
        shutil.copytree(recipe.parent / "data" / "images", other / "images")
        shutil.copy(recipe.parent / "data" / "annotations.json", other)
        text = (recipe.parent / "final.yaml").read_text()
        name = text.split('TRAIN: ["')[1].split('"')[0]
        entry = f'["{name}_other", "{other}/annotations.json", "{other}/images"]'
        edit(recipe, "  COCO_JSON:\n", f"  COCO_JSON:\n    - {entry}\n")
        edit(recipe.parent / "final.yaml", f'TRAIN: ["{name}"]', f'TRAIN: ["{name}_other"]')
    message = check(recipe)
    assert "is the DATASETS.TEST of " in message and "1 of its images are in " in message
    assert str(recipe.parent / "data" / "images" / "0003.png") in message
    assert ("on which baseline trains" in message) is in_final


def test_an_own_archval_that_is_trained_on(recipe):
    root = recipe.parent / "data"
    name = (recipe.parent / "final.yaml").read_text().split('TRAIN: ["')[1].split("_train")[0]
    for part in ("archtrain", "archval"):
        entry = f'["{name}_{part}", "{root}/annotations.json", "{root}/images"]'
        edit(recipe, "  COCO_JSON:\n", f"  COCO_JSON:\n    - {entry}\n")
    message = check(recipe)
    assert message.startswith(
        f"{name}_archval is the DATASETS.TEST of stage_supernet, and 12 of its images are in "
        f"{name}_archtrain, on which stage_supernet trains"
    )


def test_a_dry_run_without_the_data(recipe):
    shutil.rmtree(recipe.parent / "data")
    procedure, found = examine_recipe(Recipe(str(recipe)))
    assert "open" in describe(procedure)
    for path in ("annotations.json", "val/annotations.json", "colors"):
        assert sum(str(recipe.parent / "data" / path) in fault for fault in found.faults) >= 1


def test_a_dry_run_writes_nothing(recipe):
    before = contents(recipe.parent)
    assert is_ready(recipe)
    assert contents(recipe.parent) == before


def test_a_dry_run_makes_no_data(tmp_path, monkeypatch):
    monkeypatch.setattr("crnas_d2.data.digits.generate", lambda *_: pytest.fail("made data"))
    opts = ["OUTPUT_DIR", str(tmp_path / "output")]
    _, found = examine_recipe(Recipe(f"{configs_dir()}/Search/digits.yaml", opts))
    assert found.is_ready
    text = found.describe()
    assert "Not checked: the dataset 'digits_archtrain', which is made when it is first" in text
    assert text.splitlines()[-1].startswith("Ready: ")


def test_a_dry_run_tells_all_faults_of_all_datasets_and_configs(recipe, capsys):
    """With the file and the place of each; a run ends on the first of them."""
    data = recipe.parent / "data"
    places = []
    for path in (data / "annotations.json", data / "val" / "annotations.json"):
        coco = json.loads(path.read_text())
        for number in (1, 2, 3):
            coco["annotations"][number]["category_id"] = 99
            places.append((str(path), f"annotation {coco['annotations'][number]['id']} "))
        path.write_text(json.dumps(coco))
    edit(recipe.parent / "dilation.yaml", "FREEZE_AT: 0", "FREEZE_AT: 3")
    opts = ["SEARCH.METRIC", "bbox/APx", "SOLVER.AMP.ENABLED", "True"]
    with pytest.raises(SystemExit) as end:
        search_command.main(["--config-file", str(recipe), "--dry-run", *opts])
    assert end.value.code == 1
    said = capsys.readouterr().out
    head, *faults = said[said.index("To be mended") :].splitlines()
    assert head == f"To be mended, {len(faults)} faults:"
    for path, place in places:
        assert sum(path in fault and place in fault for fault in faults) == 1, said
    for fault in ("SEARCH.METRIC is 'bbox/APx'", "SOLVER.AMP.ENABLED is True", "FREEZE_AT is 3"):
        assert sum(fault in line for line in faults) == 1, said
    assert len(faults) == len(places) + 3


def test_configs_that_do_not_fit_hide_no_fault_of_the_data(recipe):
    path = recipe.parent / "data" / "annotations.json"
    path.write_text("[]")
    opts = ["SEARCH.RECIPE.STAGE_SUPERNET", "dilation.yaml"]
    procedure, found = examine_recipe(Recipe(str(recipe), opts))
    assert procedure is None and len(found.faults) == 2
    assert any(str(path) in fault for fault in found.faults)


def test_a_metric_that_archval_cannot_have(recipe):
    """All objects of the tiny dataset are small."""
    message = check(recipe, "SEARCH.METRIC", "bbox/APl")
    assert message.startswith("SEARCH.METRIC is 'bbox/APl', and ")
    assert (
        f"(drawn from {recipe.parent / 'data' / 'annotations.json'}) has no object with an area"
        in message
    )
    assert is_ready(recipe, "SEARCH.METRIC", "bbox/APs")


def test_the_archval_of_one_search(recipe, capsys):
    """A search over one supernet is examined as the steps of a recipe are."""
    args = ["--config-file", str(recipe.parent / "stage.yaml"), "--dry-run"]
    weights = recipe.parent / "none.pth"
    with pytest.raises(SystemExit):
        search_command.main([*args, "MODEL.WEIGHTS", str(weights), "SEARCH.METRIC", "bbox/APl"])
    said = capsys.readouterr().out
    assert "To be mended, 2 faults:" in said and f"{str(weights)!r}: no such file" in said
    assert "SEARCH.METRIC is 'bbox/APl', and " in said
