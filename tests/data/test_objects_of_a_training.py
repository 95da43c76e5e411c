"""Data on which Detectron2 would end in a training, or learn nothing."""

import json

import numpy as np
import pytest
from pycocotools import mask as mask_util
from voc_layout import CLASSES, write_set

from crnas_d2.data.catalog import setup_datasets
from crnas_d2.data.voc import examine_voc_dir

from detectron2.data import DatasetMapper, get_detection_dataset_dicts

pytestmark = pytest.mark.usefixtures("catalogs")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))


def run_lengths(annotation):
    x, y, w, h = annotation["bbox"]
    mask = np.zeros((30, 40), np.uint8, order="F")
    mask[y : y + h, x : x + w] = 1
    encoded = mask_util.encode(mask)
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def with_run_lengths(count, iscrowd=0):
    def edit(coco):
        for annotation in coco["annotations"][:count]:
            annotation.update(segmentation=run_lengths(annotation), iscrowd=iscrowd)

    return edit


@pytest.fixture
def train_on(cfg, write_coco):
    """A config with such a training set, and its mapped samples by Detectron2."""

    def train_on(edit, **keys):
        cfg.DATASETS.COCO_JSON = [["cells_train", *write_coco(edit=edit)]]
        cfg.DATASETS.TRAIN = ("cells_train",)
        for key, value in keys.items():
            cfg.merge_from_list([key.replace("__", "."), value])
        return cfg

    return train_on


def mapped(cfg):
    mapper = DatasetMapper(cfg, is_train=True)
    return [mapper(image) for image in get_detection_dataset_dicts(cfg.DATASETS.TRAIN)]


@pytest.mark.parametrize("count", [1, 7])
def test_masks_of_run_lengths(train_on, count):
    cfg = train_on(with_run_lengths(count), MODEL__MASK_ON=True)
    with pytest.raises(ValueError, match=r"cells.json: 1 fault:\n") as caught:
        setup_datasets(cfg)
    annotation = json.load(open(cfg.DATASETS.COCO_JSON[0][1]))["annotations"][0]
    place = f"annotation {annotation['id']} of image {annotation['image_id']}"
    times = f"({place}), and" if count == 1 else f"(7 times: {place}, "
    assert f"masks of run lengths {times}" in str(caught.value)
    line = 'INPUT: {MASK_FORMAT: "bitmask"}'
    assert line in str(caught.value)

    cfg.MODEL.MASK_ON = False
    setup_datasets(cfg)
    cfg.MODEL.MASK_ON = True
    with pytest.raises(ValueError, match="Failed to use mask_format=='polygon'"):
        mapped(cfg)  # what Detectron2 says in the training
    cfg.merge_from_other_cfg(cfg.load_cfg(line))  # the line of the message
    setup_datasets(cfg)
    assert sum(len(image["instances"].gt_masks) for image in mapped(cfg)) == 7


def test_masks_of_run_lengths_that_are_not_trained_on(train_on):
    cfg = train_on(with_run_lengths(1, iscrowd=1), MODEL__MASK_ON=True)
    setup_datasets(cfg)
    assert sum(len(image["instances"].gt_masks) for image in mapped(cfg)) == 6
    cfg = train_on(with_run_lengths(7), MODEL__MASK_ON=True)
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (), ("cells_train",)
    setup_datasets(cfg)


def all_empty(coco):
    for annotation in coco["annotations"]:
        annotation["bbox"][2] = 0


def test_boxes_that_are_all_left_out(train_on):
    cfg = train_on(all_empty)
    with pytest.raises(ValueError, match="Detectron2 trains on none of the 7 annotations"):
        setup_datasets(cfg)
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (), ("cells_train",)
    setup_datasets(cfg)
    cfg.DATASETS.TRAIN = ("cells_train",)
    assert sum(len(image["instances"]) for image in mapped(cfg)) == 0


def one_box(coco):
    all_empty(coco)
    coco["annotations"][3]["bbox"][2] = 5


def test_one_box_is_enough(train_on):
    cfg = train_on(one_box)
    setup_datasets(cfg)
    assert sum(len(image["instances"]) for image in mapped(cfg)) == 1


def test_voc_without_objects(cfg, voc_dir):
    write_set("four\nfour\n")(voc_dir)
    findings = examine_voc_dir(str(voc_dir), "val", CLASSES, trained=True)
    assert (
        len(findings.errors) == 1 and "no object on which Detectron2 trains" in findings.errors[0]
    )
    cfg.DATASETS.VOC_DIRS = [["cells_train", str(voc_dir), "val", 2012, CLASSES]]
    setup_datasets(cfg)
    with pytest.raises(AssertionError, match="No valid data found"):
        get_detection_dataset_dicts(("cells_train",))  # Detectron2
    cfg.DATASETS.TRAIN = ("cells_train",)
    with pytest.raises(ValueError, match="no object on which Detectron2 trains"):
        setup_datasets(cfg)
