import os
import random

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import PascalVOCDetectionEvaluator
from detectron2.structures import Boxes, Instances
from PIL import Image

from crnas_d2.data.catalog import setup_datasets
from crnas_d2.data.voc import register_voc_dir, validate_voc_dir

pytestmark = pytest.mark.usefixtures("catalogs")

CLASSES = ["cup", "ball"]
# image -> [(class, xmin, ymin, xmax, ymax, difficult)], corners counted from 1, both inclusive
OBJECTS = {
    "one": [("cup", 1, 1, 10, 10, 0), ("ball", 20, 5, 35, 25, 0), ("ball", 21, 6, 34, 24, 1)],
    "two": [("ball", 5, 5, 5, 30, 0), ("cup", 11, 11, 30, 30, 0)],
    "three": [("cup", 2, 3, 40, 30, 0)],
    "four": [],
}


@pytest.fixture
def voc_dir(tmp_path):
    """A data set in VOC layout, images of 40 x 30 pixels, with one split "val"."""
    root = tmp_path / "voc"
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


def test_loaded_boxes_and_metadata(voc_dir):
    register_voc_dir("cells_val", str(voc_dir), "val", 2012, CLASSES, scored=True)
    meta = MetadataCatalog.get("cells_val")
    assert (meta.thing_classes, meta.evaluator_type) == (CLASSES, "pascal_voc")
    loaded = DatasetCatalog.get("cells_val")
    assert [str(image["image_id"]) for image in loaded] == list(OBJECTS)
    for image in loaded:
        assert (image["width"], image["height"]) == (40, 30)
        assert os.path.isfile(image["file_name"])
        assert [(CLASSES[a["category_id"]], *a["bbox"]) for a in image["annotations"]] == [
            (cls, x0 - 1, y0 - 1, x1, y1) for cls, x0, y0, x1, y1, _ in OBJECTS[image["image_id"]]
        ]


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


@pytest.mark.parametrize("year", [2007, 2012])
def test_scores_equal_brute_force(voc_dir, year):
    register_voc_dir("cells_val", str(voc_dir), "val", year, CLASSES, scored=True)
    objects = {
        image: [(cls, tuple(box), bool(difficult)) for cls, *box, difficult in found]
        for image, found in OBJECTS.items()
    }
    seen = set()
    for seed in range(12):
        detections = random_detections(objects, CLASSES, (40, 30), random.Random(seed))
        result = evaluate("cells_val", detections, (40, 30))
        ap = {
            threshold: sum(
                average_precision(detections, objects, cls, threshold / 100, year)
                for cls in CLASSES
            )
            / len(CLASSES)
            * 100
            for threshold in range(50, 100, 5)
        }
        assert result["AP50"] == pytest.approx(ap[50])
        assert result["AP75"] == pytest.approx(ap[75])
        assert result["AP"] == pytest.approx(sum(ap.values()) / 10)
        seen.add(round(ap[50], 3))
    assert len(seen) > 6  # the detections were neither all right nor all wrong


def edit_xml(old, new, name="two"):
    def edit(root):
        path = root / "Annotations" / f"{name}.xml"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new, 1))

    return edit


def write_set(text):
    return lambda root: (root / "ImageSets/Main/val.txt").write_text(text)


FAULTS = {
    "class of another name": (edit_xml("ball", "Ball"), "two.xml, object 1: name is 'Ball'"),
    "object without class": (edit_xml("<name>ball</name>", ""), "two.xml, object 1: name is None"),
    "box without a corner": (edit_xml("<xmin>5</xmin>", ""), "two.xml, object 1: bndbox is"),
    "box with text": (edit_xml("<xmax>5<", "<xmax>low<"), "two.xml, object 1: bndbox is"),
    "box with NaN": (edit_xml("<xmin>5<", "<xmin>nan<"), "two.xml, object 1: bndbox .* is empty"),
    "size is text": (edit_xml("<width>40", "<width>4e1"), "two.xml: width, height are"),
    "corners in the wrong order": (
        edit_xml("<ymin>5", "<ymin>31"),
        "two.xml, object 1: .*is empty",
    ),
    "box right of the image": (edit_xml("<xmax>30", "<xmax>42"), "two.xml, object 2: .*leaves"),
    "box above the image": (edit_xml("<ymin>5", "<ymin>-1"), "two.xml, object 1: .*leaves"),
    "no size": (edit_xml("<width>40</width>", ""), r"two.xml: width, height are \[None, '30'\]"),
    "size beyond integers": (
        edit_xml("<width>40", "<width>" + "9" * 5000),
        "two.xml: width, height are",
    ),
    "size beyond what Pillow opens": (
        edit_xml("<width>40", "<width>1000000000"),
        "two.xml: width, height are 1000000000, 30; expected at most 178956970 pixels",
    ),
    "size 0": (edit_xml("<width>40", "<width>0"), r"two.xml: width, height are \['0', '30'\]"),
    "truncated file": (edit_xml("</annotation>", ""), "two.xml: no element found"),
    "no annotation file": (
        lambda root: (root / "Annotations/two.xml").unlink(),
        "there is no file .*two.xml",
    ),
    "no image file": (
        lambda root: (root / "JPEGImages/two.jpg").unlink(),
        "there is no file .*two.jpg",
    ),
    "blank line": (write_set("one\n\ntwo\n"), "val.txt, line 2: '' is no name"),
    "blank line at the end": (write_set("one\ntwo\n\n"), "val.txt, line 3: '' is no name"),
    "two columns": (write_set("one 1\ntwo"), "val.txt, line 1: 'one 1' is no name"),
    "comment": (write_set("one\n#two"), "val.txt, line 2: '#two' is no name"),
    "name out of the folder": (write_set("one\n../two"), "val.txt, line 2: '../two' is no name"),
    "an image twice": (write_set("one\ntwo\none"), "val.txt, line 3: 'one' is there twice"),
    "one image": (write_set("one\n"), "val.txt: expected the names of at least 2 images"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_reported_with_its_file(voc_dir, fault):
    edit, message = FAULTS[fault]
    edit(voc_dir)
    with pytest.raises(ValueError, match=rf"voc: 1 fault:\n  .*{message}"):
        validate_voc_dir(str(voc_dir), "val", CLASSES)


FAULTS_OF_SCORING = {
    "corner is a fraction": (
        edit_xml("<xmin>5", "<xmin>4.5"),
        "two.xml, object 1: .*whole numbers",
    ),
    "no pose": (edit_xml("<pose>Left</pose>", ""), "two.xml, object 1: it has .*expected a pose"),
    "difficult is text": (
        edit_xml("<difficult>0", "<difficult>no"),
        "two.xml, object 1: .*'difficult': 'no'",
    ),
    "class of difficult objects alone": (
        lambda root: (
            edit_xml("<difficult>0", "<difficult>1", "one")(root),
            write_set("one\ntwo")(root),
            edit_xml("ball", "cup")(root),
            edit_xml("ball", "cup", "one")(root),
        ),
        "val.txt: no object of class 'ball' that is not difficult",
    ),
    "class without object": (
        lambda root: (edit_xml(">cup<", ">ball<", "one")(root), write_set("one\nfour")(root)),
        "val.txt: no object of class 'cup' that is not difficult",
    ),
}


@pytest.mark.parametrize("fault", FAULTS_OF_SCORING)
def test_a_fault_of_scoring(voc_dir, fault):
    edit, message = FAULTS_OF_SCORING[fault]
    edit(voc_dir)
    validate_voc_dir(str(voc_dir), "val", CLASSES)
    with pytest.raises(ValueError, match=rf"voc: 1 fault:\n  .*{message}"):
        validate_voc_dir(str(voc_dir), "val", CLASSES, scored=True)


@pytest.mark.parametrize(
    "classes", [["cup", "ball", "cup"], ["cup", "ball", "a/b"], ["cup", "ball", " "]]
)
def test_class_names(voc_dir, classes):
    with pytest.raises(ValueError, match="class name '"):
        validate_voc_dir(str(voc_dir), "val", classes)


def test_missing_split_year_and_name_taken(voc_dir):
    with pytest.raises(FileNotFoundError, match="train.txt"):
        validate_voc_dir(str(voc_dir), "train", CLASSES)
    with pytest.raises(ValueError, match="cells_val: year is 2008; expected 2007 or 2012"):
        register_voc_dir("cells_val", str(voc_dir), "val", 2008, CLASSES)
    register_voc_dir("cells_val", str(voc_dir), "val", 2007, CLASSES)
    register_voc_dir("cells_val", str(voc_dir), "val", 2007, CLASSES)
    with pytest.raises(ValueError, match="'cells_val' is taken: .*year=2007.* year 2012"):
        register_voc_dir("cells_val", str(voc_dir), "val", 2012, CLASSES)


def test_setup_from_yaml(cfg, voc_dir, tmp_path):
    (tmp_path / "own.yaml").write_text(
        "DATASETS:\n"
        "  VOC_DIRS:\n"
        f"  - [cells_val, {voc_dir}, val, 2012, [cup, ball]]\n"
        "  TRAIN: [cells_val]\n"
        "  TEST: [cells_val]\n"
    )
    cfg.merge_from_file(str(tmp_path / "own.yaml"), allow_unsafe=False)
    setup_datasets(cfg)
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 2
    assert cfg.MODEL.CLASS_NAMES == ["cup", "ball"]
    cfg.freeze()
    setup_datasets(cfg)
    edit_xml("<xmin>5", "<xmin>4.5")(voc_dir)
    with pytest.raises(ValueError, match="two.xml, object 1: .*whole numbers"):
        setup_datasets(cfg)


@pytest.mark.parametrize(
    "entry",
    [
        ["a", "voc", "val", 2012],
        ["a", "voc", "val", "2012", ["cup"]],
        ["a", "voc", "val", 2012, "cup"],
        ["a", "voc", "val", 2012, []],
        ["a", "voc", "val", 2012, ["cup", 3]],
    ],
)
def test_malformed_entries(cfg, entry):
    cfg.DATASETS.VOC_DIRS = [entry]
    with pytest.raises(
        ValueError, match=r"VOC_DIRS\[0\] is .* expected \[name, folder, split, year"
    ):
        setup_datasets(cfg)


def test_real_photographs():
    root = os.environ.get("CRNAS_D2_DATA")
    if not root:
        pytest.skip("CRNAS_D2_DATA does not name a folder with the data set bccd")
    classes = ["RBC", "WBC", "Platelets"]
    voc = os.path.join(root, "bccd", "voc")
    for split in ("train", "test"):
        register_voc_dir(f"cells_{split}", voc, split, 2012, classes, scored=True)
    dicts = DatasetCatalog.get("cells_test")
    labels = [a["category_id"] for image in dicts for a in image["annotations"]]
    assert [labels.count(i) for i in range(3)] == [120, 10, 8]
    objects = {
        str(image["image_id"]): [
            (
                classes[a["category_id"]],
                tuple(int(v) + (i < 2) for i, v in enumerate(a["bbox"])),
                False,
            )
            for a in image["annotations"]
        ]
        for image in dicts
    }
    few = {image: found[:3] for image, found in objects.items()}
    detections = random_detections(few, classes, (640, 480), random.Random(0))
    result = evaluate("cells_test", detections, (640, 480))
    expected = [average_precision(detections, objects, cls, 0.5, 2012) for cls in classes]
    assert 0 < result["AP50"] == pytest.approx(100 * sum(expected) / 3)
