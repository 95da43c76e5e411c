"""Objects and detections made up for tests of scores, and what pycocotools makes of them."""

import contextlib
import copy
import io

import numpy as np
from pycocotools import mask as mask_util
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

CONTIGUOUS_IDS = {2: 1, 5: 0, 9: 2, 11: 3}  # from the ids of a dataset, out of order
SIZE = 100


def make_coco(images, annotations, category_ids=CONTIGUOUS_IDS):
    """The ground truth of images with these ids."""
    coco = COCO()
    coco.dataset = {
        "images": [{"id": i, "width": SIZE, "height": SIZE} for i in images],
        "annotations": annotations,
        "categories": [{"id": c, "name": str(c)} for c in sorted(category_ids)],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def rle(box):
    """A box without its upper left part, so that masks overlap differently from boxes."""
    x, y, w, h = (int(round(v)) for v in box)
    mask = np.zeros((SIZE, SIZE), np.uint8, order="F")
    mask[y : y + max(h, 1), x : x + max(w, 1)] = 1
    mask[y : y + h // 3, x : x + w // 2] = 0
    encoded = mask_util.encode(mask)
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def make_annotations(rng, image_ids, objects=6, crowds=0.15, first_id=1):
    """Objects in a few places, many of them close to each other; none in every fourth image."""
    annotations = []
    for image_id in image_ids:
        for _ in range(0 if image_id % 4 == 0 else rng.integers(1, objects + 1)):
            box = [*rng.integers(5, 40, 2).tolist(), *rng.integers(15, 40, 2).tolist()]
            annotations.append(
                {
                    "id": first_id + len(annotations),
                    "image_id": image_id,
                    "category_id": int(rng.choice([2, 2, 5, 9])),  # none of 11
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": int(rng.random() < crowds),
                    "segmentation": rle(box),
                }
            )
    return annotations


def make_results(rng, annotations, image_ids, spread=4.0, false=5):
    """Two detections near each object, and some anywhere; as COCOEvaluator has them."""
    found = []
    for annotation in [*annotations, *annotations]:
        box = np.array(annotation["bbox"]) + rng.normal(0, spread, 4)
        found.append((annotation["image_id"], CONTIGUOUS_IDS[annotation["category_id"]], box))
    for image_id in image_ids:
        for _ in range(false):
            box = np.append(rng.uniform(0, 50, 2), rng.uniform(10, 40, 2))
            found.append((image_id, int(rng.integers(4)), box))
    results = [
        {"image_id": i, "category_id": c, "bbox": np.clip(box, 1, 55).tolist()}
        for i, c, box in found
    ]
    for result, score in zip(results, rng.random(len(results))):
        result["score"] = float(score)
        result["segmentation"] = rle(result["bbox"])
    rng.shuffle(results)
    return results


METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")  # the first of COCOeval's stats


def pycocotools_ap(coco, results, image_ids=None, iou_type="bbox", metric="AP", category=None):
    """In percent, the way that COCOEvaluator asks for it. NaN where there is no object."""
    dataset_ids = {v: k for k, v in CONTIGUOUS_IDS.items()}
    results = copy.deepcopy(results)
    for result in results:
        result["category_id"] = dataset_ids[result["category_id"]]
        if iou_type == "segm":
            del result["bbox"]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(coco, coco.loadRes(results), iou_type)
        if image_ids is not None:
            evaluation.params.imgIds = list(image_ids)
        if category is not None:
            evaluation.params.catIds = [dataset_ids[category]]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    value = evaluation.stats[METRICS.index(metric)]
    return 100 * value if value >= 0 else np.nan


def repeat_images(content, results, weights):
    """A ground truth and detections in which each image is there as often as its weight says, its
    copies in a row.

    Args:
        weights: of the images in the order of their ids, whole numbers.
    """
    images = sorted(content["images"], key=lambda image: image["id"])
    repeated, found = {**content, "images": [], "annotations": []}, []
    for image, weight in zip(images, weights):
        for _ in range(int(weight)):
            new = {"image_id": len(repeated["images"]) + 1}
            repeated["images"].append({**image, "id": new["image_id"]})
            for annotation in content["annotations"]:
                if annotation["image_id"] == image["id"]:
                    number = {"id": len(repeated["annotations"]) + 1}
                    repeated["annotations"].append({**annotation, **new, **number})
            found += [{**r, **new} for r in results if r["image_id"] == image["id"]]
    return repeated, found
