"""The table of a config: which datasets are which part, and what is logged of them."""

import logging

import pytest

from crnas_d2.data.catalog import setup_datasets
from crnas_d2.data.parts import count_images, table_of_parts, table_of_training, tell

pytestmark = pytest.mark.usefixtures("catalogs")


@pytest.fixture
def drawn(cfg, write_coco, tmp_path):
    """A config that trains on a part of 8 images and tests on another; "cells_val" has 4."""
    cfg.DATASETS.COCO_JSON = [
        ["cells_train", *write_coco("train", 8)],
        ["cells_val", *write_coco("val", 4)],
    ]
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("cells_archtrain",), ("cells_val",)
    cfg.DATASETS.ARCHVAL.SIZE, cfg.DATASETS.ARCHVAL.DIR = 3, str(tmp_path / "parts")
    setup_datasets(cfg)
    return cfg


def images(table):
    return {part.role: (part.names, part.counts.images) for part in table.parts}


def test_a_training_on_archtrain_tells_of_the_archval_beside_it(drawn):
    assert images(table_of_training(drawn)) == {
        "archtrain": (("cells_archtrain",), 5),
        "archval": (("cells_archval",), 3),
        "test": (("cells_val",), 4),
    }
    drawn.DATASETS.TRAIN = ("cells_train",)
    assert table_of_training(drawn) is None


def test_own_parts_have_the_table_too(cfg, write_coco):
    """And the images of the plan are theirs, whatever ARCHVAL.SIZE says."""
    own = {"archtrain": 6, "archval": 5, "val": 4}
    cfg.DATASETS.COCO_JSON = [[f"own_{k}", *write_coco(k, n)] for k, n in own.items()]
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("own_archtrain",), ("own_archval",)
    setup_datasets(cfg)
    final = cfg.clone()
    final.DATASETS.TEST = ("own_val",)
    expected = {
        "archtrain": (("own_archtrain",), 6),
        "archval": (("own_archval",), 5),
        "test": (("own_val",), 4),
    }
    assert images(table_of_parts(cfg, final)) == expected
    assert list(images(table_of_parts(cfg, None))) == ["archtrain", "archval"]
    assert table_of_parts(cfg, None).notes == ()
    assert list(images(table_of_training(cfg))) == ["archtrain", "archval"]
    assert count_images(cfg) == 5


def test_what_is_not_there_has_no_table(cfg, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("coco_2017_archtrain",), ("coco_2017_archval",)
    assert table_of_parts(cfg, None) is None and count_images(cfg) == 5000
    cfg.DATASETS.TEST = ("nowhere_archval",)
    assert table_of_parts(cfg, None) is None and count_images(cfg) == 5000


def test_the_log_has_all_classes_and_the_terminal_the_rare_ones(drawn, caplog, write_coco):
    def with_many_classes(coco):
        coco["categories"] = [{"id": i, "name": f"class {i}"} for i in range(1, 41)]

    drawn.DATASETS.COCO_JSON = [["many_train", *write_coco("many", 8, with_many_classes)]]
    drawn.DATASETS.TRAIN, drawn.DATASETS.TEST = ("many_archtrain",), ("many_archval",)
    setup_datasets(drawn)
    with caplog.at_level(logging.DEBUG, "crnas_d2.data.parts"):
        caplog.clear()
        tell(table_of_parts(drawn, None))
    levels = [record.levelname for record in caplog.records]
    assert levels == ["INFO", "DEBUG", "WARNING"]
    shown, whole, warning = caplog.messages
    assert "(of all classes in log.txt)" in shown and "and 28 more classes" in shown
    assert (shown.count("\nclass "), whole.count("\nclass ")) == (1 + 12, 1 + 40)
    assert warning.startswith("No part has an object of 'class 1', 'class 3', 'class 4', ")
