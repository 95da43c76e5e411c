"""Edits of a small dataset in COCO format, and what Detectron2 makes of it."""

import numpy as np
import torch

from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, DatasetMapper
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances, polygons_to_bitmask


def by_id(entries, entry_id):
    return next(entry for entry in entries if entry["id"] == entry_id)


def set_in(section, entry_id, /, **values):
    return lambda coco: by_id(coco[section], entry_id).update(values)


def drop(section, entry_id, key):
    return lambda coco: by_id(coco[section], entry_id).pop(key)


def append(section, entry):
    return lambda coco: coco[section].append(entry)


def box(*values):
    return set_in("annotations", 200, bbox=list(values))


def mask(segmentation):
    return set_in("annotations", 200, segmentation=segmentation)


def score_truth(name, folder, task="bbox"):
    """Detectron2's results for the boxes of a dataset, as they stand in it, as detections; for the
    task "segm" with their polygons."""
    evaluator = COCOEvaluator(name, output_dir=str(folder))
    evaluator.reset()
    for image in DatasetCatalog.get(name):
        annotations = image["annotations"]
        xywh = torch.tensor([a["bbox"] for a in annotations], dtype=torch.float).reshape(-1, 4)
        instances = Instances((image["height"], image["width"]))
        instances.pred_boxes = Boxes(torch.cat([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], 1))
        instances.scores = torch.linspace(0.9, 0.5, len(xywh))
        instances.pred_classes = torch.tensor([a["category_id"] for a in annotations], dtype=int)
        if task == "segm":
            sides = image["height"], image["width"]
            masks = [polygons_to_bitmask(a["segmentation"], *sides) for a in annotations]
            instances.pred_masks = torch.tensor(np.array(masks).reshape(-1, *sides))
        evaluator.process([image], [{"instances": instances}])
    return evaluator.evaluate().get(task, {})


def trained_boxes(name, masks=False):
    """Of each image by its id, (corners, class) of the objects that Detectron2 trains on."""
    cfg = get_cfg()
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.RANDOM_FLIP, cfg.MODEL.MASK_ON = (30,), "none", masks
    mapper = DatasetMapper(cfg)
    found = {}
    for image in DatasetCatalog.get(name):
        instances = mapper(image)["instances"]
        found[image["image_id"]] = [
            (*box, category)
            for box, category in zip(
                instances.gt_boxes.tensor.tolist(), instances.gt_classes.tolist()
            )
        ]
    return found
