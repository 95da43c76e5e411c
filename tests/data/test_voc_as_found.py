"""Files in VOC layout as real tools write them: what Detectron2 makes of them is the truth."""

import os

import numpy as np
import pytest
from PIL import Image
from voc_layout import CLASSES, OBJECTS, edit_xml, evaluate, write_set

from crnas_d2.data import boxes, voc_images
from crnas_d2.data.catalog import setup_datasets
from crnas_d2.data.voc import examine_voc_dir, load_voc_dir, register_voc_dir

from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.data.datasets.pascal_voc import load_voc_instances
from detectron2.evaluation import PascalVOCDetectionEvaluator

pytestmark = pytest.mark.usefixtures("catalogs")

SCORED = boxes.IN_A_TEST[boxes.EMPTY]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))


def perfect_detections(objects):
    return [
        (1 - i / 100, image, cls, tuple(box))
        for image, found in objects.items()
        for i, (cls, *box, difficult) in enumerate(found)
        if not difficult
    ]


# Object 1 of image "two" is a ball from 5,5 to 5,30, object 2 a cup from 11,11 to 30,30
BOXES = {
    "width 0": ([("<xmin>5<", "<xmin>6<")], boxes.EMPTY, 1),
    "maximum below minimum": ([("<xmin>5<", "<xmin>9<")], boxes.TURNED, 2),
    "far outside on the right": ([("<xmax>30", "<xmax>900")], boxes.CLIPPED, 2),
    "far outside above": ([("<ymin>5", "<ymin>-70.5")], boxes.CLIPPED, 2),
    "nothing inside": (
        [("<xmin>5<", "<xmin>905<"), ("<xmax>5<", "<xmax>920<")],
        boxes.OUTSIDE,
        1,
    ),
}


@pytest.mark.parametrize("case", BOXES)
def test_boxes_that_the_training_keeps(cfg, voc_dir, case):
    edits, kind, kept = BOXES[case]
    for old, new in edits:
        edit_xml(old, new)(voc_dir)
    findings = examine_voc_dir(str(voc_dir), "val", CLASSES)
    assert findings.errors == []
    assert [(k, w.count) for k, w in findings.warnings.items()] == [(kind, 1)]
    loaded = load_voc_dir(str(voc_dir), "val", CLASSES)
    assert loaded == load_voc_instances(str(voc_dir), "val", CLASSES)
    cfg.INPUT.RANDOM_FLIP = "none"
    cfg.INPUT.MIN_SIZE_TRAIN = (30,)
    instances = DatasetMapper(cfg, is_train=True)(loaded[1])["instances"]
    assert len(instances) == kept


def test_a_box_that_no_detection_finds_lowers_ap_as_in_detectron2(voc_dir):
    edit_xml("<xmin>5<", "<xmin>9<")(voc_dir)
    register_voc_dir("cells_val", str(voc_dir), "val", 2012, CLASSES, scored=True)
    meta = MetadataCatalog.get("cells_val")
    assert meta.dirname == str(voc_dir)  # it is scored as it is
    perfect = [d for d in perfect_detections(OBJECTS) if d[1:3] != ("two", "ball")]
    assert evaluate("cells_val", perfect, (40, 30))["AP"] == pytest.approx(75)  # 1 of 2 balls
    findings = examine_voc_dir(str(voc_dir), "val", CLASSES, scored=True)
    assert list(findings.warnings) == [boxes.TURNED + SCORED]


def test_valid_files_are_registered_as_they_are(voc_dir, tmp_path):
    register_voc_dir("cells_val", str(voc_dir), "val", 2012, CLASSES, scored=True)
    assert examine_voc_dir(str(voc_dir), "val", CLASSES, scored=True).warnings == {}
    assert MetadataCatalog.get("cells_val").dirname == str(voc_dir)
    assert DatasetCatalog.get("cells_val") == load_voc_instances(str(voc_dir), "val", CLASSES)
    assert not (tmp_path / "datasets").exists()


@pytest.mark.parametrize("extension", [".JPG", ".jpeg", ".png", ".Tif", ".bmp"])
def test_an_image_of_another_extension(voc_dir, extension):
    images = voc_dir / "JPEGImages"
    (images / "two.jpg").unlink()
    Image.new("RGB", (40, 30)).save(images / f"two{extension}")
    assert examine_voc_dir(str(voc_dir), "val", CLASSES, scored=True).warnings == {}
    files = [image["file_name"] for image in load_voc_dir(str(voc_dir), "val", CLASSES)]
    assert [os.path.basename(file) for file in files] == [
        *("one.jpg", f"two{extension}", "three.jpg", "four.jpg")
    ]


def test_several_images_of_a_name(voc_dir):
    Image.new("RGB", (40, 30)).save(voc_dir / "JPEGImages" / "two.bmp")
    findings = examine_voc_dir(str(voc_dir), "val", CLASSES)
    assert findings.warnings[voc_images.SEVERAL_FILES].places == ["two (two.jpg, two.bmp)"]
    loaded = load_voc_dir(str(voc_dir), "val", CLASSES)
    assert loaded == load_voc_instances(str(voc_dir), "val", CLASSES)


SIZES = {
    "0": [("<width>40", "<width>0"), ("<height>30", "<height>0")],
    "one is 0": [("<width>40", "<width>0")],
    "none": [("<size><width>40</width><height>30</height></size>", "")],
    "empty": [("<width>40", "<width>")],
    "written as fractions": [("<width>40", "<width>40.0"), ("<height>30", "<height> 30. ")],
}


@pytest.mark.parametrize("case", SIZES)
def test_size(voc_dir, case):
    for old, new in SIZES[case]:
        edit_xml(old, new)(voc_dir)
    findings = examine_voc_dir(str(voc_dir), "val", CLASSES)
    assert findings.errors == []
    told = {} if "fractions" in case else {voc_images.SIZE_OF_FILE: 1}
    assert {kind: warned.count for kind, warned in findings.warnings.items()} == told
    image = load_voc_dir(str(voc_dir), "val", CLASSES)[1]
    assert (image["width"], image["height"]) == (40, 30)


def test_size_of_an_image_that_exif_turns(cfg, voc_dir):
    edit_xml("<width>40", "<width>0")(voc_dir)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 40)).save(voc_dir / "JPEGImages/two.jpg", exif=exif)
    image = load_voc_dir(str(voc_dir), "val", CLASSES)[1]
    assert (image["width"], image["height"]) == (40, 30)
    DatasetMapper(cfg, is_train=False)(image)  # or Detectron2 finds another size


NOT_READ_BY_DETECTRON2 = {
    "no difficult": ([("<difficult>0</difficult>", "")], {voc_images.NO_FLAG: 1}),
    "no pose, no truncated": (
        [("<pose>Left</pose>", ""), ("<truncated>0</truncated>", "")],
        {voc_images.NO_FLAG: 1},
    ),
    "empty flags": (
        [("<truncated>0<", "<truncated><"), ("<difficult>0<", "<difficult><")],
        {voc_images.NO_FLAG: 1},
    ),
    "truncated is text": ([("<truncated>0<", "<truncated>no<")], {voc_images.NO_FLAG: 1}),
    "fractions": (
        [("<xmin>11<", "<xmin>10.8<"), ("<ymax>30<", "<ymax>30.4<")],
        {voc_images.FRACTION: 2},  # of both objects
    ),
    "whole numbers as fractions": ([("<xmin>11<", "<xmin>11.0<")], {}),
}


@pytest.mark.parametrize("year", [2007, 2012])
@pytest.mark.parametrize("case", NOT_READ_BY_DETECTRON2)
def test_scored_though_detectron2_cannot_read_it(voc_dir, tmp_path, case, year):
    edits, told = NOT_READ_BY_DETECTRON2[case]
    for old, new in edits:
        edit_xml(old, new)(voc_dir)
    register_voc_dir("cells_val", str(voc_dir), "val", year, CLASSES, scored=True)
    findings = examine_voc_dir(str(voc_dir), "val", CLASSES, scored=True)
    assert {kind: warned.count for kind, warned in findings.warnings.items()} == told
    meta = MetadataCatalog.get("cells_val")
    assert (meta.source, os.path.dirname(meta.dirname)) == (
        *(str(voc_dir), str(tmp_path / "datasets/crnas_d2_cache")),
    )
    detections = perfect_detections(OBJECTS)
    assert evaluate("cells_val", detections, (40, 30)) == pytest.approx(
        {"AP": 100, "AP50": 100, "AP75": 100}
    )
    two_of_three_cups = {2007: 7 / 11, 2012: 2 / 3}[year]
    result = evaluate("cells_val", detections[1:], (40, 30))
    assert result["AP"] == pytest.approx((two_of_three_cups + 1) / 2 * 100)
    meta.__dict__["dirname"] = str(voc_dir)
    with pytest.raises((AttributeError, TypeError, ValueError)):
        evaluate("cells_val", detections, (40, 30))


def test_difficult_objects_stay_difficult_in_the_copy(voc_dir):
    edit_xml("<pose>Left</pose>", "", "three")(voc_dir)
    register_voc_dir("cells_val", str(voc_dir), "val", 2012, CLASSES, scored=True)
    assert MetadataCatalog.get("cells_val").dirname != str(voc_dir)
    # The ball of "one" from 21,6 to 34,24 is difficult: found or not, it does not count.
    every = perfect_detections({k: [(*o[:5], 0) for o in v] for k, v in OBJECTS.items()})
    assert evaluate("cells_val", every, (40, 30))["AP"] == pytest.approx(100)


def test_set_of_one_image_with_blank_lines(cfg, voc_dir):
    write_set("one\r\n\r\n")(voc_dir)
    register_voc_dir("cells_val", str(voc_dir), "val", 2012, CLASSES, scored=True)
    findings = examine_voc_dir(str(voc_dir), "val", CLASSES, scored=True)
    assert {kind: warned.count for kind, warned in findings.warnings.items()} == {
        voc_images.BLANK_LINE: 1
    }
    (image,) = DatasetCatalog.get("cells_val")
    assert [np.array(a["bbox"]).tolist() for a in image["annotations"]] == [
        [x0 - 1, y0 - 1, x1, y1] for _, x0, y0, x1, y1, _ in OBJECTS["one"]
    ]
    one = perfect_detections({"one": OBJECTS["one"]})
    assert evaluate("cells_val", one, (40, 30))["AP"] == pytest.approx(100)


def test_names_and_files_in_other_encodings(voc_dir):
    classes = ["größe", "ball"]
    for name in OBJECTS:
        path = voc_dir / "Annotations" / f"{name}.xml"
        text = '<?xml version="1.0" encoding="{}"?>' + path.read_text().replace("cup", "größe")
        encoding = {"one": "iso-8859-1", "two": "utf-16"}.get(name, "utf-8")
        path.write_bytes(text.format(encoding).encode(encoding))
    write_set("\ufeff" + "\n".join(OBJECTS))(voc_dir)
    register_voc_dir("cells_val", str(voc_dir), "val", 2012, classes, scored=True)
    assert examine_voc_dir(str(voc_dir), "val", classes, scored=True).warnings == {}
    objects = {
        image: [(cls.replace("cup", "größe"), *rest) for cls, *rest in found]
        for image, found in OBJECTS.items()
    }
    detections = perfect_detections(objects)
    assert evaluate("cells_val", detections, (40, 30))["AP"] == pytest.approx(100)


def test_an_image_twice_is_trained_on_twice(voc_dir):
    write_set("one\ntwo\none")(voc_dir)
    findings = examine_voc_dir(str(voc_dir), "val", CLASSES)
    assert findings.errors == [] and findings.warnings[voc_images.TWICE].count == 1
    loaded = load_voc_dir(str(voc_dir), "val", CLASSES)
    assert loaded == load_voc_instances(str(voc_dir), "val", CLASSES)


def test_the_copy_is_where_the_config_says_and_is_written_once(cfg, voc_dir, tmp_path, monkeypatch):
    edit_xml("<pose>Left</pose>", "")(voc_dir)
    monkeypatch.chdir(tmp_path)
    cfg.DATASETS.VOC_DIRS = [["cells_val", str(voc_dir), "val", 2012, CLASSES]]
    cfg.DATASETS.TEST = ("cells_val",)
    cfg.DATASETS.CACHE_DIR = "my cache"
    setup_datasets(cfg)
    (copy,) = [path for path in (tmp_path / "my cache").iterdir() if path.is_dir()]
    assert MetadataCatalog.get("cells_val").dirname == str(copy)
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    setup_datasets(cfg)
    assert before == {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    PascalVOCDetectionEvaluator("cells_val")

    (tmp_path / "file").write_text("")
    cfg.DATASETS.CACHE_DIR = "file"
    with pytest.raises(OSError, match=f"{voc_dir}: .*{tmp_path}/file.*DATASETS.CACHE_DIR"):
        setup_datasets(cfg)


def test_warnings_are_logged_with_their_places(voc_dir, caplog):
    edit_xml("<xmin>5<", "<xmin>6<")(voc_dir)
    edit_xml("<difficult>0</difficult>", "", "three")(voc_dir)
    with caplog.at_level("WARNING"):
        register_voc_dir("cells_val", str(voc_dir), "val", 2012, CLASSES, scored=True)
    file = os.path.join("Annotations", "{}.xml, object 1")
    assert caplog.messages == [
        f"{voc_dir}: {boxes.EMPTY}{SCORED} ({file.format('two')})",
        f"{voc_dir}: {voc_images.NO_FLAG} ({file.format('three')})",
    ]


def test_a_name_that_was_for_training_may_be_tested_later(voc_dir):
    edit_xml("<pose>Left</pose>", "")(voc_dir)
    register_voc_dir("cells_val", str(voc_dir), "val", 2012, CLASSES)
    assert MetadataCatalog.get("cells_val").dirname == str(voc_dir)
    register_voc_dir("cells_val", str(voc_dir), "val", 2012, CLASSES, scored=True)
    assert evaluate("cells_val", perfect_detections(OBJECTS), (40, 30))["AP"] == pytest.approx(100)
