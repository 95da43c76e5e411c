"""Datasets in COCO format with one fault each, and what a run and a dry run find."""

import json
import zlib
from pathlib import Path

from exports import outline, write_cvat
from PIL import Image

from crnas_d2.config import configs_dir, read_config
from crnas_d2.engine.examination import Examination
from crnas_d2.engine.setup import check_run

from detectron2.engine import default_argument_parser

MASKS = ["MODEL.MASK_ON", True]


class Coco:
    """A training set and a test set in COCO format, without a fault until they are edited."""

    def __init__(self, folder):
        self.folder = folder
        self.entries = [write_cvat(folder / name, seed=i) for i, name in enumerate(("a", "b"))]
        for which in (0, 1):
            self.edit(add_masks, which)

    def edit(self, change, which=0):
        path = self.entries[which][0]
        with open(path) as file:
            data = json.load(file)
        change(data)
        with open(path, "w") as file:
            json.dump(data, file)
        return self

    def rewrite(self, change, which=0):
        """As :meth:`edit`, of the bytes."""
        path = Path(self.entries[which][0])
        path.write_bytes(change(path.read_bytes()))
        return self

    def images(self, change, which=0):
        for path in sorted(Path(self.entries[which][1]).iterdir())[:2]:
            change(path)
        return self

    def level(self, *opts):
        names = [f"{abs(hash(str(self.folder)))}_{part}" for part in ("train", "val")]
        named = [[name, *entry] for name, entry in zip(names, self.entries)]
        return level_of(self.folder, *names, "DATASETS.COCO_JSON", named, *opts)


def add_masks(data):
    for annotation in data["annotations"]:
        annotation["segmentation"] = [outline(annotation["bbox"])]


def level_of(folder, train, test, *opts):
    """Of a training."""
    opts = [
        *("DATASETS.TRAIN", f"('{train}',)", "DATASETS.TEST", f"('{test}',)"),
        *("OUTPUT_DIR", folder / "output", "MODEL.BACKBONE.FREEZE_AT", 0),
        *opts,
    ]
    cfg = read_config(f"{configs_dir()}/Small-Data/faster_rcnn_R_18_FPN.yaml", list(map(str, opts)))
    found = Examination()
    found.examine_data(cfg)
    check_run(cfg, default_argument_parser().parse_args([]), found.check, makes=False)
    return told(found)


def told(found):
    text = found.describe()
    if found.is_ready:
        return "warning" if "Warning: " in text else "taken"
    return "error"


def each(section, **values):
    def change(data):
        for entry in data[section]:
            entry.update(values)

    return change


def second(section, **values):
    return lambda data: data[section][1].update(values)


def without(section, key):
    return lambda data: data[section][1].pop(key)


def text_ids(prefix):
    """Of images and categories."""

    def change(data):
        for image in data["images"]:
            image["id"] = f"{prefix}{image['id']}"
        for category in data["categories"]:
            category["id"] = f"{prefix}{category['id']}"
        for annotation in data["annotations"]:
            annotation["image_id"] = f"{prefix}{annotation['image_id']}"
            annotation["category_id"] = f"{prefix}{annotation['category_id']}"

    return change


def polygons(*lists):
    return second("annotations", segmentation=[list(polygon) for polygon in lists])


def run_lengths(data):
    for annotation in data["annotations"]:
        annotation["segmentation"] = {"size": [48, 64], "counts": [10, 20, 48 * 64 - 30]}


LINE, FAR = (1.0, 2.0, 9.0, 9.0), (1e6, 0.0, 5.0, 5.0, 9.0, 1.0)
BOX = (1.0, 1.0, 9.0, 1.0, 9.0, 9.0)


def nan_box(data):
    data["annotations"][1]["bbox"][2] = float("nan")


def all_classes_twice(data):
    for category in data["categories"]:
        category["name"] = "cell"


def crowd(category):
    def change(data):
        for annotation in data["annotations"]:
            annotation["iscrowd"] = int(category in (None, annotation["category_id"]))

    return change


def share_image(data):
    data["images"][1]["file_name"] = data["images"][0]["file_name"]


def more_pixels(path):
    content = bytearray(path.read_bytes())  # a header that promises 30,000 x 30,000 pixels
    content[16:24] = (30_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(bytes(content[12:29])).to_bytes(4, "big")
    path.write_bytes(bytes(content))


def save(mode, **options):
    return lambda path: Image.new(mode, (64, 48)).save(path, **options)


def deep(path):
    Image.new("I;16", (64, 48), 4000).save(path)


def turned(orientation, kind="PNG", size=(64, 48)):
    def change(path):
        exif = Image.Exif()
        exif[274] = orientation
        Image.new("RGB", size).save(path, kind, exif=exif)

    return change


def both(change):
    """In the training set and the test set."""
    return lambda coco, *opts: coco.edit(change, 0).edit(change, 1).level(*opts)


def coco(change=None, *opts, which=0):
    return lambda made: made.edit(change, which).level(*opts)


def images(change):
    return lambda made: made.images(change).level()
