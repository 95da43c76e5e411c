"""Datasets as Roboflow, CVAT, Label Studio and labelme's labelme2coco.py write them.

Each writer makes images with two colored rectangles and the file of its tool, and returns what
DATASETS.COCO_JSON wants to have: the json file, and the folder that its file names are relative to.
"""

import hashlib
import json

import numpy as np
from PIL import Image
from pycocotools import mask as mask_util

NAMES = ["blue", "red"]
COLORS = {"blue": (30, 30, 200), "red": (200, 30, 30)}
WIDTH, HEIGHT = 64, 48


def scenes(count, seed):
    """Pixels, and the name and the box (x, y, width, height) of each object."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        pixels = rng.integers(100, 150, (HEIGHT, WIDTH, 3)).astype(np.uint8)
        objects = []
        for name, left in zip(NAMES, (0, WIDTH // 2)):
            w, h = (int(rng.integers(side // 4, side // 2)) for side in (WIDTH, HEIGHT))
            y = int(rng.integers(0, HEIGHT - h))
            pixels[y : y + h, left : left + w] = COLORS[name]
            objects.append((name, (left, y, w, h)))
        yield Image.fromarray(pixels), objects


def save(image, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data))
    return path


def outline(box):
    x, y, w, h = map(float, box)
    return [x, y, x + w, y, x + w, y + h, x, y + h]


def write_roboflow(root, count=6, seed=0, project="shapes"):
    """``_annotations.coco.json`` beside the images. All ids count from 0; category 0 is the
    project, of which the classes are parts."""
    images, annotations = [], []
    for number, (image, objects) in enumerate(scenes(count, seed)):
        name = f"{number:04d}_png.rf.{hashlib.md5(str((seed, number)).encode()).hexdigest()}.jpg"
        save(image, root / name)
        images.append(
            {
                "id": number,
                "license": 1,
                "file_name": name,
                "height": HEIGHT,
                "width": WIDTH,
                "date_captured": "2024-05-01T10:00:00+00:00",
                "extra": {"name": f"{number:04d}.png"},
            }
        )
        for class_name, (x, y, w, h) in objects:
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": number,
                    "category_id": NAMES.index(class_name) + 1,
                    "bbox": [x, y, w, h + 0.5],
                    "area": w * (h + 0.5),
                    "segmentation": [],
                    "iscrowd": 0,
                }
            )
    categories = [{"id": 0, "name": project, "supercategory": "none"}] + [
        {"id": i + 1, "name": name, "supercategory": project} for i, name in enumerate(NAMES)
    ]
    info = {
        "year": "2024",
        "version": "1",
        "description": "Exported from roboflow.com",
        "contributor": "",
        "url": "https://public.roboflow.com/object-detection/undefined",
        "date_created": "2024-05-01T10:00:00+00:00",
    }
    licenses = [
        {"id": 1, "url": "https://creativecommons.org/licenses/by/4.0/", "name": "CC BY 4.0"}
    ]
    data = {"info": info, "licenses": licenses, "categories": categories}
    data |= {"images": images, "annotations": annotations}
    return str(write(root / "_annotations.coco.json", data)), str(root)


def write_cvat(root, count=6, seed=0, brush=False):
    """COCO 1.0: ids from 1, boxes rounded to two digits, attributes of each annotation.

    Args:
        brush: objects are masks, which become run lengths with iscrowd 1.
    """
    images, annotations = [], []
    for number, (image, objects) in enumerate(scenes(count, seed)):
        name = f"frame_{number:06d}.PNG"
        save(image, root / "images" / "default" / name)
        images.append(
            {
                "id": number + 1,
                "width": WIDTH,
                "height": HEIGHT,
                "file_name": name,
                "license": 0,
                "flickr_url": "",
                "coco_url": "",
                "date_captured": 0,
            }
        )
        for class_name, box in objects:
            segmentation = []
            if brush:
                (rle,) = mask_util.frPyObjects([outline(box)], HEIGHT, WIDTH)
                pixels = mask_util.decode(rle).flatten(order="F")
                ends = np.flatnonzero(np.diff(pixels, prepend=0)).tolist() + [pixels.size]
                counts = np.diff(ends, prepend=0).tolist()
                segmentation = {"counts": counts, "size": [HEIGHT, WIDTH]}
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number + 1,
                    "category_id": NAMES.index(class_name) + 1,
                    "segmentation": segmentation,
                    "area": float(box[2] * box[3]),
                    "bbox": [round(float(v), 2) for v in box],
                    "iscrowd": int(brush),
                    "attributes": {"occluded": False, "rotation": 0.0},
                }
            )
    names = ("contributor", "date_created", "description", "url", "version", "year")
    data = {
        "licenses": [{"name": "", "id": 0, "url": ""}],
        "info": dict.fromkeys(names, ""),
        "categories": [
            {"id": i + 1, "name": name, "supercategory": ""} for i, name in enumerate(NAMES)
        ],
        "images": images,
        "annotations": annotations,
    }
    path = write(root / "annotations" / "instances_default.json", data)
    return str(path), str(root / "images" / "default")


def write_label_studio(root, count=6, seed=0, folder="images"):
    """``result.json``: all ids from 0, boxes from percents, "ignore" in each annotation.

    Args:
        folder: of the images, relative to the file.
    """
    images, annotations = [], []
    for number, (image, objects) in enumerate(scenes(count, seed)):
        name = f"{folder}/{hashlib.md5(str((seed, number)).encode()).hexdigest()[:8]}-{number}.png"
        save(image, root / name)
        images.append({"width": WIDTH, "height": HEIGHT, "id": number, "file_name": name})
        for class_name, box in objects:
            x, y, w, h = (
                v / side * 100 * side / 100 for v, side in zip(box, (WIDTH, HEIGHT, WIDTH, HEIGHT))
            )
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": number,
                    "category_id": NAMES.index(class_name),
                    "segmentation": [],
                    "bbox": [x, y, w, h],
                    "ignore": 0,
                    "iscrowd": 0,
                    "area": w * h,
                }
            )
    info = {
        "year": 2024,
        "version": "1.0",
        "description": "",
        "contributor": "Label Studio",
        "url": "",
        "date_created": "2024-05-01 10:00:00.000000",
    }
    data = {
        "images": images,
        "categories": [{"id": i, "name": name} for i, name in enumerate(NAMES)],
        "annotations": annotations,
        "info": info,
    }
    return str(write(root / "result.json", data)), str(root)


def write_labelme(root, count=6, seed=0, labels=("__ignore__", "_background_", *NAMES)):
    """labelme2coco.py: ``JPEGImages`` in the file names; a label's id is its line in labels.txt less
    1, of which the first one is left out."""
    ids = {name: line - 1 for line, name in enumerate(labels) if line > 0}
    images, annotations = [], []
    for number, (image, objects) in enumerate(scenes(count, seed)):
        name = f"JPEGImages/{number:04d}.jpg"
        save(image, root / name)
        images.append(
            {
                "license": 0,
                "url": None,
                "file_name": name,
                "height": HEIGHT,
                "width": WIDTH,
                "date_captured": None,
                "id": number,
            }
        )
        for class_name, box in objects:
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": number,
                    "category_id": ids[class_name],
                    "segmentation": [outline(box)],
                    "area": float(box[2] * box[3]),
                    "bbox": list(map(float, box)),
                    "iscrowd": 0,
                }
            )
    info = dict.fromkeys(("description", "url", "version", "contributor"))
    data = {
        "info": {**info, "year": 2024, "date_created": "2024-05-01 10:00:00.000000"},
        "licenses": [{"url": None, "id": 0, "name": None}],
        "images": images,
        "type": "instances",
        "annotations": annotations,
        "categories": [{"supercategory": None, "id": i, "name": n} for n, i in ids.items()],
    }
    return str(write(root / "annotations.json", data)), str(root)
