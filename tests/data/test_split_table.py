"""The table of the parts, against what Detectron2 loads and trains on."""

import json
from collections import Counter
from pathlib import Path

import pytest

from crnas_d2.data.catalog import setup_datasets
from crnas_d2.data.class_counts import count_classes
from crnas_d2.data.split_table import SplitTable
from crnas_d2.data.voc import register_voc_dir

from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.data.transforms import ResizeShortestEdge

pytestmark = pytest.mark.usefixtures("catalogs")
ROLES = {"archtrain": ["cells_archtrain"], "archval": ["cells_archval"], "test": ["cells_val"]}


@pytest.fixture
def cells(cfg, write_coco, tmp_path):
    """A config with "cells_train" of 8 images, to be split, and "cells_val" of 4."""

    def make(edit=lambda coco: None, edit_val=lambda coco: None):
        register_coco_instances("cells_train", {}, *write_coco("train", 8, edit))
        register_coco_instances("cells_val", {}, *write_coco("val", 4, edit_val))
        cfg.DATASETS.ARCHVAL.SIZE, cfg.DATASETS.ARCHVAL.DIR = 3, str(tmp_path / "parts")
        return cfg

    return make


def trained_on(name):
    """Images and objects of each class that Detectron2's mapper keeps."""
    mapper = DatasetMapper(True, augmentations=[ResizeShortestEdge(60)], image_format="BGR")
    images, objects = Counter(), Counter()
    for image in DatasetCatalog.get(name):
        classes = mapper(image)["instances"].gt_classes.tolist()
        objects.update(classes)
        images.update(set(classes))
    return tuple(images[i] for i in range(2)), tuple(objects[i] for i in range(2))


def with_what_is_not_trained_on(coco):
    """A crowd, and boxes of which nothing is in the image; and one that goes to the left, which is."""
    crowd, empty, outside, left, *_ = [a for a in coco["annotations"] if a["category_id"] == 7]
    crowd["iscrowd"] = 1
    empty["bbox"] = [5, 5, 0, 4]
    outside["bbox"] = [40, 5, 10, 4]
    left["bbox"] = [9, 5, -4, 4]


def test_counts_are_those_of_the_mapper(cells):
    cfg = cells(with_what_is_not_trained_on)
    before = {name: count_classes(name, cfg.DATASETS) for (name,) in ROLES.values()}
    assert not Path(cfg.DATASETS.ARCHVAL.DIR).exists()
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("cells_archtrain",), ("cells_archval",)
    setup_datasets(cfg)
    for name, counts in before.items():
        assert (counts.with_class, counts.objects) == trained_on(name)
        assert counts.images == len(DatasetCatalog.get(name))
        assert counts.classes == ("cup", "ball") and counts.annotated
        assert count_classes(name, cfg.DATASETS) == counts
    total = count_classes("cells_train", cfg.DATASETS)
    assert total == before["cells_archtrain"] + before["cells_archval"]
    assert total.objects == trained_on("cells_train")[1]


def test_counts_in_the_layout_of_voc(cfg, voc_dir):
    register_voc_dir("cells_voc", str(voc_dir), "val", 2007, ["cup", "ball"])
    counts = count_classes("cells_voc", cfg.DATASETS)
    assert (counts.with_class, counts.objects) == trained_on("cells_voc")
    assert (counts.images, counts.classes) == (4, ("cup", "ball"))


def test_what_a_part_lacks_is_told(cells):
    def without_balls(coco):
        coco["annotations"] = [a for a in coco["annotations"] if a["category_id"] != 7]

    def one_image_with_balls(coco):
        """And a class that nothing has."""
        coco["annotations"] = [
            a for a in coco["annotations"] if a["category_id"] == 2 or a["image_id"] == 13
        ]
        coco["categories"].append({"id": 9, "name": "plate"})

    cfg = cells(
        one_image_with_balls, lambda coco: (without_balls(coco), one_image_with_balls(coco))
    )
    table = SplitTable.of(ROLES, cfg.DATASETS)
    assert table.classes == ("cup", "ball", "plate")
    (without,) = {"archtrain", "archval"} & set(table.lacking[1])
    assert table.lacking == [[], [without, "test"], ["archtrain", "archval", "test"]]
    nowhere, first, second = table.warnings()
    assert nowhere == "No part has an object of 'plate'"
    assert first.startswith(f"{without} (cells_{without}) has no object of 'ball': ")
    assert second == "test (cells_val) has no object of 'ball': its AP is no part of its result"
    assert table.rows()[1][-1] == f"{without}, test"


def test_a_test_set_without_annotations_lacks_nothing(cells):
    cfg = cells()
    path = Path(MetadataCatalog.get("cells_val").json_file)
    coco = json.loads(path.read_text())
    del coco["annotations"]
    path.write_text(json.dumps(coco))
    table = SplitTable.of(ROLES, cfg.DATASETS)
    assert table.warnings() == [] and table.rows()[0][-3:] == [None, None, ""]
    assert table.rows()[-1][-3:] == [4, None, ""]


def test_the_number_of_images_by_groups(cells):
    def in_pairs(coco):
        for image in coco["images"]:
            image["well"] = image["id"] // 20

    cfg = cells(in_pairs)
    cfg.DATASETS.ARCHVAL.GROUP_KEY = "well"
    table = SplitTable.of(ROLES, cfg.DATASETS)
    archval = count_classes("cells_archval", cfg.DATASETS)
    assert archval.images in (2, 4)
    assert table.notes == (
        f"archval has {archval.images} images, as near to DATASETS.ARCHVAL.SIZE, 3, as whole groups "
        "of 'well' come",
    )
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("cells_archtrain",), ("cells_archval",)
    setup_datasets(cfg)
    wells = [
        {i["id"] // 20 for i in json.loads(path.read_text())["images"]}
        for path in Path(cfg.DATASETS.ARCHVAL.DIR).glob("*_by_well_*.json")
    ]
    assert len(wells) == 2 and not wells[0] & wells[1]
    assert len(DatasetCatalog.get("cells_archval")) == archval.images


def test_it_survives_json(cells):
    table = SplitTable.of(ROLES, cells().DATASETS)
    assert SplitTable.from_json(json.loads(json.dumps(table.as_json()))) == table


def test_of_many_classes_a_terminal_sees_those_that_are_rare(cells):
    def with_many_classes(coco):
        coco["categories"] = [{"id": i, "name": f"class {i}"} for i in range(1, 81)]
        for k, annotation in enumerate(coco["annotations"]):
            annotation["category_id"] = k % 5 + 1

    cfg = cells(with_many_classes, with_many_classes)
    table = SplitTable.of(ROLES, cfg.DATASETS)
    lines = table.describe(12).splitlines()
    assert len(table.describe().splitlines()) == 2 + 1 + 80 + 1
    assert lines[-1] == "and 68 more classes"
    assert [line.split()[1] for line in lines[3:15]] == [str(i) for i in range(6, 18)]
    assert lines[15].split()[:2] == ["all", "5"]
    assert max(map(len, lines)) <= 110


def test_a_test_set_of_other_classes_is_not_counted(cells):
    cfg = cells(edit_val=lambda coco: coco["categories"][0].update(name="bowl"))
    table = SplitTable.of(ROLES, cfg.DATASETS)
    assert [part.role for part in table.parts] == ["archtrain", "archval"]
    assert table.notes == ("cells_val is not counted, as its classes are others",)
