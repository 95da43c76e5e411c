"""A small dataset in VOC layout, edits of its files, and VOC's AP by its definition."""

import torch
from PIL import Image

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import PascalVOCDetectionEvaluator
from detectron2.structures import Boxes, Instances

CLASSES = ["cup", "ball"]
# image -> [(class, xmin, ymin, xmax, ymax, difficult)], corners counted from 1, both inclusive
OBJECTS = {
    "one": [("cup", 1, 1, 10, 10, 0), ("ball", 20, 5, 35, 25, 0), ("ball", 21, 6, 34, 24, 1)],
    "two": [("ball", 5, 5, 5, 30, 0), ("cup", 11, 11, 30, 30, 0)],
    "three": [("cup", 2, 3, 40, 30, 0)],
    "four": [],
}


def write_voc_dir(root):
    """Images of 40 x 30 pixels, with one split "val"."""
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    (root / "ImageSets/Main/val.txt").write_text("".join(f"{name}\n" for name in OBJECTS))
    for name, objects in OBJECTS.items():
        Image.new("RGB", (40, 30)).save(root / "JPEGImages" / f"{name}.jpg")
        text = "<annotation><size><width>40</width><height>30</height></size>"
        for cls, xmin, ymin, xmax, ymax, difficult in objects:
            text += (
                f"<object><name>{cls}</name><pose>Left</pose><truncated>0</truncated>"
                f"<difficult>{difficult}</difficult><bndbox><xmin>{xmin}</xmin><ymin>{ymin}</ymin>"
                f"<xmax>{xmax}</xmax><ymax>{ymax}</ymax></bndbox></object>"
            )
        (root / "Annotations" / f"{name}.xml").write_text(text + "</annotation>")
    return root


def overlap(a, b):
    """Intersection over union of boxes of whole pixels, corners inclusive: counted, not computed."""
    pixels_a, pixels_b = (
        {(x, y) for x in range(x0, x1 + 1) for y in range(y0, y1 + 1)} for x0, y0, x1, y1 in (a, b)
    )
    return len(pixels_a & pixels_b) / len(pixels_a | pixels_b)


def average_precision(detections, objects, cls, threshold, year):
    """VOC's AP by its definition.

    Args:
        detections: [(score, image, class, box)], distinct scores.
        objects: image -> [(class, box, difficult)].
    """
    truth = {image: [o for o in found if o[0] == cls] for image, found in objects.items()}
    positives = sum(not difficult for found in truth.values() for *_, difficult in found)
    taken, hits = set(), []
    for _, image, _, box in sorted((d for d in detections if d[2] == cls), reverse=True):
        best = max(
            range(len(truth[image])), key=lambda i: overlap(box, truth[image][i][1]), default=None
        )
        if best is None or overlap(box, truth[image][best][1]) <= threshold:
            hits.append(False)
        elif not truth[image][best][2]:
            hits.append((image, best) not in taken)
            taken.add((image, best))
    points = [(sum(hits[:n]) / positives, sum(hits[:n]) / n) for n in range(1, len(hits) + 1)]

    def best_from(recall):
        return max((p for r, p in points if r >= recall - 1e-12), default=0)

    if year == 2007:
        return sum(best_from(i / 10) for i in range(11)) / 11
    return sum(best_from(i / positives) for i in range(1, positives + 1)) / positives


def random_detections(objects, class_names, size, rng):
    """Moved and doubled ground truth, other classes, and boxes of nothing."""
    detections = []
    scores = rng.sample(range(1, 1000), 999)  # the evaluator rounds them to thousandths
    for image, found in objects.items():
        boxes = [(cls, box) for cls, box, _ in found for _ in range(rng.choice([0, 1, 1, 2]))]
        boxes += [(rng.choice(class_names), box) for _, box, _ in found if rng.random() < 0.3]
        if rng.random() < 0.5:
            boxes.append((rng.choice(class_names), (3, 4, 12, 15)))
        for cls, box in boxes:
            x0, y0, x1, y1 = (v + rng.choice([-2, -1, 0, 0, 1, 2]) for v in box)
            x0, y0 = max(x0, 1), max(y0, 1)
            box = (x0, y0, min(max(x1, x0), size[0]), min(max(y1, y0), size[1]))
            detections.append((scores.pop() / 1000, image, cls, box))
    return detections


def evaluate(name, detections, size):
    class_names = MetadataCatalog.get(name).thing_classes
    evaluator = PascalVOCDetectionEvaluator(name)
    evaluator.reset()
    for image in DatasetCatalog.get(name):
        found = [d for d in detections if d[1] == image["image_id"]]
        instances = Instances((size[1], size[0]))
        corners = [(x0 - 1, y0 - 1, x1, y1) for *_, (x0, y0, x1, y1) in found]
        instances.pred_boxes = Boxes(torch.tensor(corners, dtype=torch.float).reshape(-1, 4))
        instances.scores = torch.tensor([d[0] for d in found])
        instances.pred_classes = torch.tensor([class_names.index(d[2]) for d in found])
        evaluator.process([{"image_id": image["image_id"]}], [{"instances": instances}])
    return evaluator.evaluate()["bbox"]


def edit_xml(old, new, name="two"):
    def edit(root):
        path = root / "Annotations" / f"{name}.xml"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new, 1))

    return edit


def write_set(text):
    return lambda root: (root / "ImageSets/Main/val.txt").write_text(text)
