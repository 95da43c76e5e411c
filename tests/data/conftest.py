import json
import os

import pytest
from PIL import Image
from voc_layout import write_voc_dir

import crnas_d2
from crnas_d2.data import image_check

from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog
from detectron2.data.datasets import register_coco_instances


@pytest.fixture
def cfg():
    cfg = get_cfg()
    crnas_d2.add_crnas_config(cfg)
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ()
    return cfg


@pytest.fixture
def write_coco(tmp_path):
    """Writes a valid dataset in COCO format; returns its json file and image root.

    Image i (id 10 * i + 3, 40 x 30 pixels) has i % 3 + 1 boxes. Images and annotations are not in
    the order of their ids, nor are the categories 7 "ball" and 2 "cup".
    """

    def write(name="cells", num_images=4, edit=lambda coco: None):
        root = tmp_path / f"{name}_images"
        root.mkdir(exist_ok=True)
        images, annotations = [], []
        for i in reversed(range(num_images)):
            Image.new("RGB", (40, 30)).save(root / f"{i}.png")
            images.append(
                {"id": 10 * i + 3, "file_name": f"{i}.png", "width": 40, "height": 30, "license": 1}
            )
            for k in reversed(range(i % 3 + 1)):
                x, y, w, h = 2 + 9 * k, 3 + i % 5, 6, 5
                annotations.append(
                    {
                        "id": 100 * (i + 1) + k,
                        "image_id": 10 * i + 3,
                        "category_id": 7 if k else 2,
                        "bbox": [x, y, w, h],
                        "area": w * h,
                        "iscrowd": 0,
                        "segmentation": [[x, y, x + w, y, x + w, y + h]],
                    }
                )
        coco = {
            "info": {"description": "tiny"},
            "licenses": [{"id": 1, "name": "none"}],
            "categories": [{"id": 7, "name": "ball"}, {"id": 2, "name": "cup"}],
            "images": images,
            "annotations": annotations,
        }
        edit(coco)
        json_file = tmp_path / f"{name}.json"
        json_file.write_text(json.dumps(coco))
        return str(json_file), str(root)

    return write


@pytest.fixture
def voc_dir(tmp_path):
    """A dataset in VOC layout, see :func:`write_voc_dir`."""
    return write_voc_dir(tmp_path / "voc")


@pytest.fixture
def nothing_is_known(catalogs):
    image_check._look.cache_clear()


@pytest.fixture
def dataset(cfg, tmp_path):
    """Registers a dataset, as user's own code does, of images 1, 2, ... that are given."""

    def register(*files, sizes=None, way="header"):
        root = tmp_path / "images"
        root.mkdir(exist_ok=True)
        images = []
        for number, file in enumerate(files, start=1):
            name = file if isinstance(file, str) else f"{number}.png"
            if not isinstance(file, str):
                file.save(root / name)
            size = (sizes or {}).get(number, (24, 16))
            images.append({"id": number, "file_name": name, "width": size[0], "height": size[1]})
        boxes = [
            {"id": i["id"], "image_id": i["id"], "category_id": 1, "bbox": [1, 1, 5, 5], "area": 25}
            | {"iscrowd": 0}
            for i in images
        ]
        content = {"images": images, "annotations": boxes}
        content["categories"] = [{"id": 1, "name": "cell"}]
        (tmp_path / "cells.json").write_text(json.dumps(content))
        if "cells" not in DatasetCatalog:
            register_coco_instances("cells", {}, str(tmp_path / "cells.json"), str(root))
        cfg.DATASETS.TRAIN = ("cells",)
        cfg.DATASETS.CACHE_DIR = str(tmp_path / "cache")
        cfg.DATASETS.CHECK_IMAGES = way
        return root

    return register


@pytest.fixture
def opened(monkeypatch):
    """The files whose headers are read."""
    paths = []

    def read_facts(path, decode):
        paths.append(os.path.basename(path))
        return original(path, decode)

    original = image_check.read_facts
    monkeypatch.setattr(image_check, "read_facts", read_facts)
    return paths
