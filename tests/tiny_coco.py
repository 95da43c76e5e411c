"""A COCO dataset of a few colored rectangles, small enough to train on within a test."""

import json

import numpy as np
from PIL import Image

CATEGORIES = [{"id": 3, "name": "red"}, {"id": 7, "name": "blue"}]
COLORS = {3: (200, 30, 30), 7: (30, 30, 200)}


def write_tiny_coco(root, images=6, shapes=((64, 64),), seed=0):
    """Write images and ``annotations.json`` below ``root``; two rectangles in each image.

    Args:
        shapes: width and height of the images, in turns.

    Returns:
        The path of the json.
    """
    rng = np.random.default_rng(seed)
    (root / "images").mkdir(parents=True)
    data = {"images": [], "annotations": [], "categories": CATEGORIES}
    for image_id in range(1, images + 1):
        width, height = shapes[image_id % len(shapes)]
        pixels = np.full((height, width, 3), 128, dtype=np.uint8)
        for category_id, left in ((3, 0), (7, width // 2)):
            w, h = (int(rng.integers(side // 4, side // 2)) for side in (width, height))
            x, y = left, int(rng.integers(0, height - h))
            pixels[y : y + h, x : x + w] = COLORS[category_id]
            data["annotations"].append(
                {
                    "id": len(data["annotations"]) + 1,
                    "image_id": image_id,
                    "category_id": category_id,
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": 0,
                }
            )
        Image.fromarray(pixels).save(root / "images" / f"{image_id:04d}.png")
        data["images"].append(
            {"id": image_id, "file_name": f"{image_id:04d}.png", "width": width, "height": height}
        )
    path = root / "annotations.json"
    path.write_text(json.dumps(data))
    return path
