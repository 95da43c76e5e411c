import json

import pytest
from PIL import Image
from voc_layout import write_voc_dir

import crnas_d2

from detectron2.config import get_cfg


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
