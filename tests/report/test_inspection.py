"""The page of datasets, and its numbers."""

import json

import numpy as np
import pytest
from inspected_recipe import write_inspected_recipe
from pages import Page

from crnas import main as crnas


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path, catalogs):
    """With a recipe and its two datasets."""
    monkeypatch.chdir(tmp_path)
    write_inspected_recipe(tmp_path)
    return tmp_path


def change(path, **changes):
    """Give the first annotation of a json other values."""
    coco = json.loads(path.read_text())
    coco["annotations"][0].update(changes)
    path.write_text(json.dumps(coco))


def test_a_recipe(folder, capsys):
    crnas(["inspect", "--config-file", "recipe.yaml"])
    printed = capsys.readouterr().out
    assert printed == (
        "wrote out/inspection/index.html and out/inspection/index.json: 0 errors, 0 warnings\n"
    )
    numbers = json.loads((folder / "out/inspection/index.json").read_text())
    sets = numbers["datasets"]
    assert list(sets) == ["own_train", "own_archtrain", "own_archval", "own_val"]
    assert [s["images"] for s in sets.values()] == [8, 5, 3, 4]
    assert [s["objects"] for s in sets.values()] == [16, 10, 6, 8]
    coco = json.loads((folder / "train/annotations.json").read_text())
    of_red = [a["image_id"] for a in coco["annotations"] if a["category_id"] == 3]
    red = {"name": "red", "images": len(set(of_red)), "objects": len(of_red)}
    assert sets["own_train"]["classes"][0] == red
    assert sets["own_train"]["image_sizes"] == [
        {"file": [64, 48], "input": [256, 192], "scale": 4.0, "images": 4},
        {"file": [40, 64], "input": [192, 307], "scale": 4.8, "images": 4},
    ]
    lengths = [np.sqrt(w * h) for _, _, w, h in (a["bbox"] for a in coco["annotations"])]
    assert sets["own_train"]["lengths"]["file"]["0.5"] == pytest.approx(np.median(lengths))
    assert [a["subject"] for a in numbers["advice"]][:2] == ["Input size", "Detections per image"]

    page = Page(folder / "out/inspection/index.html")
    assert "The checks found nothing to mend" in " ".join(page.text.split())
    [images, *_] = page.table("own_archtrain")
    assert images["own_train"] == "8" and images["own_val"] == "4"
    # Those of archtrain and archval are images of own_train.
    assert len([link for link in page.links if link.startswith("data:image/jpeg")]) == 8 + 4
    assert all(link.startswith(("data:", "#")) for link in page.links)


def test_a_dataset_with_errors_has_a_page(folder, capsys):
    """Of what is sound; the other dataset is whole."""
    change(folder / "train/annotations.json", category_id=77)
    crnas(["inspect", "--config-file", "recipe.yaml", "--output", "there"])
    assert "0 errors" not in capsys.readouterr().out
    numbers = json.loads((folder / "there/index.json").read_text())
    [*_, error] = [error for found in numbers["findings"] for error in found["errors"]]
    assert "category_id 77" in error
    sets = numbers["datasets"]
    assert sets["own_train"]["objects"] == 15 and sets["own_val"]["objects"] == 8
    text = " ".join(Page(folder / "there/index.html").text.split())
    assert "1 error" in text and "0 images and 1 objects are left out" in text


def test_a_dataset_without_an_object_has_a_page(folder):
    path = folder / "train/annotations.json"
    coco = json.loads(path.read_text())
    for annotation in coco["annotations"]:
        annotation["iscrowd"] = 1
    path.write_text(json.dumps(coco))
    crnas(["inspect", "--json", str(path), "--images", "train/images", "--output", "crowds.html"])
    assert "have iscrowd 1" in Page(folder / "crowds.html").text


def test_an_image_that_is_missing_or_of_another_size(folder):
    coco = json.loads((folder / "train/annotations.json").read_text())
    names = [image["file_name"] for image in coco["images"]]
    cut = folder / "train/images" / names[0]
    cut.write_bytes(cut.read_bytes()[:-60])  # of which the header is whole
    coco["images"][1]["width"] += 1
    (folder / "train/annotations.json").write_text(json.dumps(coco))
    crnas(["inspect", "--config-file", "recipe.yaml", "--output", "page.html"])
    page = Page(folder / "page.html")
    [*_, found] = json.loads((folder / "page.json").read_text())["findings"]
    assert found["path"] == "images of own_train" and names[0] in found["errors"][0]
    assert found["errors"][0] in page.text
    width, height = coco["images"][1]["width"], coco["images"][1]["height"]
    assert f"said to be {width} x {height}" in " ".join(page.text.split())
    assert len([link for link in page.links if link.startswith("data:image/jpeg")]) == 7 + 4


def test_a_class_that_a_part_lacks(folder):
    """The parts are those of a split of one's own."""
    json_file = folder / "train/annotations.json"
    coco = json.loads(json_file.read_text())
    ids = [image["id"] for image in coco["images"]]
    for name, chosen in (("archtrain", ids[:5]), ("archval", ids[5:])):
        kept = [a for a in coco["annotations"] if a["image_id"] in chosen]
        if name == "archval":
            kept = [a for a in kept if a["category_id"] == 3]
        images = [image for image in coco["images"] if image["id"] in chosen]
        part = {**coco, "images": images, "annotations": kept}
        (folder / f"{name}.json").write_text(json.dumps(part))
    entries = "".join(
        f'    - ["own_{name}", "{name}.json", "train/images"]\n'
        for name in ("archtrain", "archval")
    )
    recipe = (folder / "recipe.yaml").read_text()
    (folder / "recipe.yaml").write_text(recipe.replace("  ARCHVAL:", f"{entries}  ARCHVAL:"))
    crnas(["inspect", "--config-file", "recipe.yaml", "--output", "page.html"])
    [note] = json.loads((folder / "page.json").read_text())["notes"]
    assert note.startswith("archval (own_archval) has no object of 'blue': ")
    assert note in " ".join(Page(folder / "page.html").text.split())
