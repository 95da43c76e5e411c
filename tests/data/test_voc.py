import os
import random

import pytest
from voc_layout import (
    CLASSES,
    OBJECTS,
    average_precision,
    edit_xml,
    evaluate,
    random_detections,
    write_set,
)

from crnas_d2.data.catalog import setup_datasets
from crnas_d2.data.voc import examine_voc_dir, register_voc_dir

from detectron2.data import DatasetCatalog, MetadataCatalog

pytestmark = pytest.mark.usefixtures("catalogs")


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


FAULTS = {
    "class of another name": (edit_xml("ball", "Ball"), "two.xml, object 1: name is 'Ball'"),
    "object without class": (edit_xml("<name>ball</name>", ""), "two.xml, object 1: name is None"),
    "box without a corner": (edit_xml("<xmin>5</xmin>", ""), "two.xml, object 1: bndbox is"),
    "box with text": (edit_xml("<xmax>5<", "<xmax>low<"), "two.xml, object 1: bndbox is"),
    "box with NaN": (edit_xml("<xmin>5<", "<xmin>nan<"), "two.xml, object 1: bndbox is"),
    "box without an end": (edit_xml("<xmax>5<", "<xmax>inf<"), "two.xml, object 1: bndbox is"),
    "size is text": (edit_xml("<width>40", "<width>4e1"), "two.xml: width, height are"),
    "size below 0": (edit_xml("<width>40", "<width>-40"), "two.xml: width, height are"),
    "size beyond integers": (
        edit_xml("<width>40", "<width>" + "9" * 5000),
        "two.xml: width, height are",
    ),
    "size beyond what Pillow opens": (
        edit_xml("<width>40", "<width>1000000000"),
        "two.xml: width, height are 1000000000, 30; expected at most 178956970 pixels",
    ),
    "no size, and no image to tell it": (
        lambda root: (
            edit_xml("<width>40</width>", "")(root),
            (root / "JPEGImages/two.jpg").write_bytes(b"no image"),
        ),
        r"two.xml: width, height are \['0', '30'\], and .*two.jpg is no image that Pillow can read",
    ),
    "truncated file": (edit_xml("</annotation>", ""), "two.xml: no element found"),
    "no annotation file": (
        lambda root: (root / "Annotations/two.xml").unlink(),
        "there is no file .*two.xml",
    ),
    "no annotation files at all": (
        lambda root: [path.unlink() for path in (root / "Annotations").iterdir()],
        "val.txt: none of its 4 images has a file in .*Annotations; a test set without",
    ),
    "no image file": (
        lambda root: (root / "JPEGImages/two.jpg").unlink(),
        "there is no file .*two.jpg",
    ),
    "two columns": (write_set("one 1\ntwo"), "val.txt, line 1: 'one 1' is no name"),
    "comment": (write_set("one\n#two"), "val.txt, line 2: '#two' is no name"),
    "name out of the folder": (write_set("one\n../two"), "val.txt, line 2: '../two' is no name"),
    "no image": (write_set("\n"), "val.txt, line 1: '' is no name of an image"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_reported_with_its_file(voc_dir, fault):
    edit, message = FAULTS[fault]
    edit(voc_dir)
    with pytest.raises(ValueError, match=rf"voc: 1 fault:\n  .*{message}"):
        examine_voc_dir(str(voc_dir), "val", CLASSES).raise_errors()


FAULTS_OF_SCORING = {
    "difficult is text": (
        edit_xml("<difficult>0", "<difficult>no"),
        "two.xml, object 1: difficult is 'no'",
    ),
    "an image twice": (write_set("one\ntwo\none"), "val.txt, line 3: 'one' is there twice"),
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
    assert examine_voc_dir(str(voc_dir), "val", CLASSES).errors == []
    with pytest.raises(ValueError, match=rf"voc: 1 fault:\n  .*{message}"):
        examine_voc_dir(str(voc_dir), "val", CLASSES, scored=True).raise_errors()


@pytest.mark.parametrize(
    "classes", [["cup", "ball", "cup"], ["cup", "ball", "a/b"], ["cup", "ball", " "]]
)
def test_class_names(voc_dir, classes):
    with pytest.raises(ValueError, match="class name is '"):
        examine_voc_dir(str(voc_dir), "val", classes).raise_errors()


def test_missing_split_year_and_name_taken(voc_dir):
    with pytest.raises(FileNotFoundError, match="train.txt"):
        examine_voc_dir(str(voc_dir), "train", CLASSES)
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
    edit_xml("<xmin>5", "<xmin>low")(voc_dir)
    with pytest.raises(ValueError, match="two.xml, object 1: bndbox is"):
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
        pytest.skip("CRNAS_D2_DATA does not name a folder with the dataset bccd")
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
