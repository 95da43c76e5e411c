"""A folder in which the commands of the documents find all that they name, in small."""

import json
import os
import shutil
import tempfile
from pathlib import Path

import torch
from image_folder import write_image_folder
from reductions import WIDTHS
from tiny_coco import write_tiny_coco
from torchvision.models import mobilenet_v2, resnet50
from zoo_files import write_zoo_detector

from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

ROOT = Path(__file__).resolve().parents[2]
# Of Detectron2's Faster R-CNN with FPN, as far as commands do not reduce them
ZOO_WIDTHS = {
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 64,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 256,
    **WIDTHS,
}
LINKS = ("train_net.py", "search_net.py", "tools", "configs", "benchmarks", "crnas_d2", "Makefile")


def make_sandbox():
    """Scripts and configs at their places, and made stand-ins for datasets and weights."""
    folder = Path(tempfile.mkdtemp(prefix="crnas_d2_docs_"))
    for name in LINKS:
        (folder / name).symlink_to(ROOT / name)
    write_coco(folder / "datasets" / "coco")
    for seed, split in enumerate(("train", "val")):
        write_image_folder(folder / "datasets" / "imagenet" / split, seed=seed)
        write_image_folder(folder / "birds" / split, seed=seed)
    write_cells(folder / "cells")
    torch.manual_seed(0)
    width = int(WIDTHS["MODEL.RESNETS.WIDTH_PER_GROUP"])
    torch.save(resnet50(width_per_group=width).state_dict(), folder / "resnet50-0676ba61.pth")
    torch.save(mobilenet_v2().state_dict(), folder / "mobilenet_v2-b0353104.pth")
    widths = [word for pair in ZOO_WIDTHS.items() for word in pair]
    write_zoo_detector(folder / "model_final_280758.pkl", opts=widths)
    return folder


def remove_sandbox(folder):
    shutil.rmtree(folder)


def write_cells(folder):
    """The reader's own dataset: train.json, val.json and images, with boxes and masks."""
    data = json.loads(write_tiny_coco(folder, images=12).read_text())
    add_polygons(data)
    for split, images in (("train", data["images"][:8]), ("val", data["images"][8:])):
        ids = {image["id"] for image in images}
        annotations = [a for a in data["annotations"] if a["image_id"] in ids]
        part = {**data, "images": images, "annotations": annotations}
        (folder / f"{split}.json").write_text(json.dumps(part))


def write_coco(folder):
    """COCO's layout and categories, with 8 and 4 images."""
    things = [category for category in COCO_CATEGORIES if category["isthing"]]
    categories = [{"id": category["id"], "name": category["name"]} for category in things]
    (folder / "annotations").mkdir(parents=True)
    for seed, (split, images) in enumerate((("train2017", 8), ("val2017", 4))):
        path = write_tiny_coco(folder / split, images=images, seed=seed)
        data = json.loads(path.read_text())
        add_polygons(data)
        for image in data["images"]:
            image["file_name"] = f"images/{image['file_name']}"
        data["categories"] = categories
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(data))


def add_polygons(data):
    for annotation in data["annotations"]:
        x, y, w, h = annotation["bbox"]
        annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]


def environment():
    """Of the commands: one thread, no GPU, and Detectron2's folder of datasets in the sandbox."""
    known = {name: value for name, value in os.environ.items() if name != "DETECTRON2_DATASETS"}
    return {**known, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
