"""Images without labels, against those that a training gives its backbone."""

import json
from itertools import islice

import pytest
import torch
from image_folder import write_image_folder
from PIL import Image
from runs import parse
from tiny_coco import write_tiny_coco

from crnas_d2.config import read_config
from crnas_d2.data import setup_datasets
from crnas_d2.engine import CRTrainer, setup
from crnas_d2.engine.unlabeled import unlabeled_batches

from detectron2.data import DatasetCatalog, MetadataCatalog

PIXELS = ["MODEL.PIXEL_MEAN", "[10, 20, 30]", "MODEL.PIXEL_STD", "[2, 3, 4]"]
PIXELS += ["INPUT.FORMAT", "BGR", "INPUT.MIN_SIZE_TRAIN", "[32, 96]"]


def test_batches_are_those_of_a_training(tiny_config):
    cfg = setup(parse(tiny_config, *PIXELS))
    model = CRTrainer.build_model(cfg)
    expected = [
        model.preprocess_image(batch).tensor
        for batch in islice(CRTrainer.build_train_loader(cfg), 6)
    ]
    given = list(islice(unlabeled_batches(cfg, seed=cfg.SEED), 6))
    assert len({tuple(batch.shape) for batch in given}) > 1
    for ours, theirs in zip(given, expected):
        torch.testing.assert_close(ours, theirs)
    others = list(islice(unlabeled_batches(cfg, seed=cfg.SEED + 1), 6))
    assert any(a.shape != b.shape or not a.equal(b) for a, b in zip(given, others))


def test_labels_are_not_read(tmp_path):
    """Of a dataset whose annotations say nothing that a training could use."""
    path = write_tiny_coco(tmp_path)
    images = [
        {"file_name": f"{tmp_path}/images/{image['file_name']}", "annotations": None}
        for image in json.loads(path.read_text())["images"]
    ]
    DatasetCatalog.register("unlabeled_without", lambda: images)
    cfg = read_config("Small-Data/faster_rcnn_R_18_FPN.yaml")
    cfg.merge_from_list(["DATASETS.TRAIN", ("unlabeled_without",), "MODEL.DEVICE", "cpu"])
    try:
        batch = next(unlabeled_batches(cfg, seed=0))
    finally:
        DatasetCatalog.remove("unlabeled_without")
    assert batch.shape[:2] == (4, 3)


def test_a_folder_of_images(tmp_path):
    """All of them, at any depth, and nothing else."""
    colors = [(200, 0, 0), (0, 100, 0), (0, 0, 50)]
    for number, color in enumerate(colors):
        place = tmp_path / ("deep" if number else "") / f"{number}.png"
        place.parent.mkdir(exist_ok=True)
        Image.new("RGB", (64, 64), color).save(place)
    (tmp_path / "notes.txt").write_text("no image")
    cfg = read_config("Small-Data/faster_rcnn_R_18_FPN.yaml", ["SOLVER.IMS_PER_BATCH", "3"])
    cfg.MODEL.DEVICE = "cpu"
    batch = next(unlabeled_batches(cfg, seed=0, folder=str(tmp_path)))
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD))
    seen = {
        tuple((image[:, :1, :1] * std + mean).flatten().round().int().tolist()) for image in batch
    }
    assert seen == set(colors)
    with pytest.raises(FileNotFoundError, match="no image"):
        next(unlabeled_batches(cfg, seed=0, folder=str(tmp_path / "empty")))


def test_images_of_a_classification(tmp_path):
    write_image_folder(tmp_path)
    cfg = read_config("ImageNet/R_18.yaml", ["SOLVER.IMS_PER_BATCH", "2", "MODEL.DEVICE", "cpu"])
    cfg.DATASETS.IMAGE_FOLDERS = [["unlabeled_classes", str(tmp_path)]]
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("unlabeled_classes",)
    setup_datasets(cfg)
    try:
        assert next(unlabeled_batches(cfg, seed=0)).shape == (2, 3, 224, 224)
    finally:
        DatasetCatalog.remove("unlabeled_classes")
        MetadataCatalog.remove("unlabeled_classes")
