"""Images that two datasets have in common, against what was put into them."""

import json
import os
from pathlib import Path

import pytest
from image_folder import write_image_folder
from plain_draw import plain_draw

from crnas_d2.data.catalog import register_own, setup_datasets, warn_of_shared_images
from crnas_d2.data.shared_images import image_files, is_made_at_first_use, shared_images

from detectron2.data import DatasetCatalog

pytestmark = pytest.mark.usefixtures("catalogs")


@pytest.fixture
def cells(cfg, write_coco, tmp_path):
    """A config with "cells_train" of 8 images; returns it and the folder of the images."""
    json_file, root = write_coco("cells", 8)
    cfg.DATASETS.COCO_JSON = [["cells_train", json_file, root]]
    cfg.DATASETS.ARCHVAL.SIZE, cfg.DATASETS.ARCHVAL.DIR = 3, str(tmp_path / "parts")
    return cfg, Path(root)


def test_parts_of_a_draw_without_drawing(cells, tmp_path):
    cfg, root = cells
    register_own(cfg)
    chosen = {
        f"{(image_id - 3) // 10}.png" for image_id in plain_draw([10 * i + 3 for i in range(8)], 3)
    }
    archval = image_files("cells_archval", cfg.DATASETS)
    archtrain = image_files("cells_archtrain", cfg.DATASETS)
    assert archval == {str(root / name) for name in chosen}
    assert archval | archtrain == {str(path) for path in root.iterdir()}
    assert not archval & archtrain and not (tmp_path / "parts").exists()
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("cells_archtrain",), ("cells_archval",)
    setup_datasets(cfg)
    for name, files in (("cells_archtrain", archtrain), ("cells_archval", archval)):
        assert {image["file_name"] for image in DatasetCatalog.get(name)} == files
        assert image_files(name, cfg.DATASETS) == files


def test_shared_ones_by_links_of_files_and_folders(cells, write_coco, tmp_path):
    cfg, root = cells
    json_file, _ = write_coco("other", 3)
    folder = tmp_path / "folder"
    folder.mkdir()
    for i in range(2):
        (folder / f"{i}.png").symlink_to(root / f"{i + 4}.png")
    (folder / "2.png").write_bytes((root / "2.png").read_bytes())  # a copy is another file
    (tmp_path / "linked").symlink_to(folder)
    cfg.DATASETS.COCO_JSON += [["other_val", json_file, str(tmp_path / "linked")]]
    register_own(cfg)
    data = cfg.DATASETS
    expected = {str(root / "4.png"), str(root / "5.png")}
    assert shared_images("other_val", "cells_train", data) == expected
    parts = [shared_images("other_val", f"cells_{part}", data) for part in ("archtrain", "archval")]
    assert parts[0] | parts[1] == expected and not parts[0] & parts[1]
    assert len(shared_images("cells_train", "cells_train", data)) == 8
    assert len(shared_images("cells_archval", "cells_train", data)) == 3
    assert shared_images("cells_archval", "cells_archtrain", data) == set()


def test_an_edited_json_is_read_again(cells):
    cfg, _ = cells
    register_own(cfg)
    path = Path(cfg.DATASETS.COCO_JSON[0][1])
    assert len(image_files("cells_train", cfg.DATASETS)) == 8
    coco = json.loads(path.read_text())
    coco["images"] = coco["images"][:5]
    path.write_text(json.dumps(coco))
    os.utime(path, ns=(1, 1))
    assert len(image_files("cells_train", cfg.DATASETS)) == 5


def test_folders_of_classes(cfg, tmp_path):
    root = write_image_folder(tmp_path / "colors")
    cfg.DATASETS.IMAGE_FOLDERS = [["colors", root]]
    register_own(cfg)
    files = image_files("colors", cfg.DATASETS)
    assert files == {str(path) for path in Path(root).rglob("*.jpg")}


def test_what_is_generated_when_it_is_used():
    assert is_made_at_first_use("digits_train") and is_made_at_first_use("digits_archval")
    assert is_made_at_first_use("digits_crops_train")
    assert not is_made_at_first_use("coco_2017_archval")


@pytest.mark.parametrize(
    "train, shared",
    [("cells_train", 3), ("cells_archval", 3), ("cells_archtrain", 0), ("voc_2007_trainval", 0)],
)
def test_a_test_set_in_the_training_set_is_warned_of(
    cells, caplog, monkeypatch, tmp_path, train, shared
):
    """A dataset that is not there is passed over."""
    monkeypatch.chdir(tmp_path)
    cfg, _ = cells
    register_own(cfg)
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (train,), ("cells_archval",)
    warn_of_shared_images(cfg)
    told = [r.message for r in caplog.records if "the results will be too good" in r.message]
    assert [message.split()[0] for message in told] == [str(shared)] * bool(shared)
