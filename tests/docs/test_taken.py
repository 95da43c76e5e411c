"""The table of what is taken, in docs/own_data.md: each row is made, and found as the row says."""

import os
import re
import shutil
from pathlib import Path

import pytest
from faulty_data import (
    BOX,
    FAR,
    LINE,
    MASKS,
    Coco,
    all_classes_twice,
    both,
    coco,
    crowd,
    deep,
    each,
    images,
    level_of,
    more_pixels,
    nan_box,
    polygons,
    run_lengths,
    save,
    second,
    share_image,
    text_ids,
    told,
    turned,
    without,
)
from image_folder import write_image_folder
from PIL import Image
from tiny_search import write_recipe
from voc_layout import edit_xml, write_voc_dir

from crnas_d2.config import configs_dir, read_config
from crnas_d2.data.examine import examine
from crnas_d2.engine.examination import Examination
from crnas_d2.procedure import Recipe
from crnas_d2.procedure.dry_run import examine_recipe

pytestmark = pytest.mark.usefixtures("catalogs")
DOCUMENT = Path(__file__).parents[2] / "docs" / "own_data.md"


def read_rows():
    """What is found, and how it is told, by the headings of the table."""
    text = DOCUMENT.read_text().split("## What is taken")[1].split("\n\nA run ends")[0]
    rows = re.findall(r"^\| (.+?) \|.*\| *(error|warning|taken)? \|$", text, re.MULTILINE)
    section = None
    for found, level in rows:
        if found.startswith("**"):
            section = found.strip("*")
        elif level:
            yield section, found, level


IN_COCO = {
    "no such file; no folder of images": [
        lambda made: (os.remove(made.entries[0][0]), made.level())[1],
        lambda made: (shutil.rmtree(made.entries[0][1]), made.level())[1],
    ],
    "not JSON in UTF-8: another encoding, a byte order mark, an extra comma": [
        lambda made: made.rewrite(lambda content: b"\xef\xbb\xbf" + content).level(),
        lambda made: made.rewrite(lambda content: content.decode().encode("utf-16")).level(),
        lambda made: made.rewrite(lambda content: content[:-1] + b",}").level(),
    ],
    "no list of images or of categories; an entry that is not an object": [
        coco(lambda data: data.pop("images")),
        coco(lambda data: data.update(categories={})),
        coco(lambda data: data["annotations"].append(7)),
    ],
    "an id that is missing or not unique; ids of images that mix numbers and strings": [
        coco(without("images", "id")),
        coco(without("categories", "id")),
        coco(without("annotations", "id")),
        coco(lambda data: data["images"][1].update(id=data["images"][0]["id"])),
        coco(lambda data: data["annotations"][1].update(id=data["annotations"][0]["id"])),
        coco(second("images", id="frame")),
    ],
    "ids of images or categories that are all strings": [both(text_ids("id "))],
    'ids, widths and heights such as 512.0 or "512"; names of categories that are numbers': [
        coco(second("annotations", image_id="1")),
        coco(second("annotations", category_id=1.0)),
        coco(second("images", id=2.0)),
        coco(second("images", width=64.0)),
        coco(second("images", height="48")),
        both(second("categories", name=7)),
    ],
    "annotation ids that are 0 or not integers": [
        coco(second("annotations", id=0)),
        coco(second("annotations", id="a1")),
    ],
    "a width or height below 1, or missing; more pixels than Pillow opens (179 million)": [
        coco(second("images", width=0)),
        coco(without("images", "height")),
        coco(second("images", width=20_000, height=20_000)),
    ],
    "a file name that is absolute or has `..`": [
        coco(second("images", file_name="/frame.png")),
        coco(second("images", file_name="../default/frame_000001.PNG")),
    ],
    "one image under two ids": [coco(share_image)],
    "an annotation of an image that is not in the file": [coco(second("annotations", image_id=99))],
    "an annotation of a category that is not in the file": [
        coco(second("annotations", category_id=99))
    ],
    "a box that is not 4 finite numbers `[x, y, width, height]`": [
        coco(nan_box),
        coco(second("annotations", bbox=[1, 2, 3])),
        coco(without("annotations", "bbox")),
    ],
    "a box of width or height 0, or outside its image": [
        coco(second("annotations", bbox=[1, 2, 0, 5]), which=which) for which in (0, 1)
    ]
    + [coco(second("annotations", bbox=[100, 2, 5, 5]))],
    "a box of negative width or height": [coco(second("annotations", bbox=[9, 2, -5, 5]))],
    "a box that leaves its image, by any amount": [
        coco(second("annotations", bbox=[9, 2, amount, 5])) for amount in (56.5, 9999)
    ],
    "a polygon of fewer than 3 points among others": [
        coco(polygons(BOX, LINE), *opts) for opts in (MASKS, [])
    ],
    "a mask of only polygons of fewer than 3 points": [
        coco(polygons(LINE), *opts) for opts in (MASKS, [])
    ],
    "a mask that cannot be drawn, with `MODEL.MASK_ON: True`": [
        coco(polygons(FAR), *MASKS),
        coco(second("annotations", segmentation={"size": [1, 1], "counts": [1]}), *MASKS),
    ],
    "a mask that cannot be drawn, with `MODEL.MASK_ON: False`": [coco(polygons(FAR))],
    "an object without a mask, with `MODEL.MASK_ON: True`": [
        coco(second("annotations", segmentation=[]), *MASKS, which=which) for which in (0, 1)
    ],
    'run-length masks to train on, with `INPUT.MASK_FORMAT` "polygon"': [coco(run_lengths, *MASKS)],
    "no `iscrowd`; no `area` of 0 or more": [
        coco(without("annotations", "iscrowd")),
        coco(without("annotations", "area")),
        coco(second("annotations", area=-1)),
    ],
    "`ignore` that is set": [coco(second("annotations", ignore=1))],
    "`iscrowd` 1 in all annotations, as in exports of masks that were painted": [
        coco(crowd(None), which=which) for which in (0, 1)
    ],
    "`iscrowd` 1 in all annotations of a category": [coco(crowd(1))],
    "a category without any box, such as an exporter's group": [
        both(lambda data: data["categories"].insert(0, {"id": 0, "name": "shapes"}))
    ],
    "two categories of one name": [both(all_classes_twice)],
    "no annotations in a test set": [
        coco(lambda data: data.update(annotations=[]), which=1),
        coco(lambda data: data.pop("annotations"), which=1),
    ],
    "no annotations in a training set, or none that Detectron2 keeps": [
        coco(lambda data: data.update(annotations=[])),
        coco(each("annotations", bbox=[1, 2, 0, 5])),
    ],
    "other categories in the test set than in the training set, or in another order": [
        coco(second("categories", name="green"), which=1),
        coco(lambda data: data["categories"].append({"id": 9, "name": "green"}), which=1),
    ],
}
IN_IMAGES = {
    "no such file; no image; more pixels than Pillow opens in the file": [
        images(os.remove),
        images(lambda path: path.write_bytes(b"GIF89a")),
        images(more_pixels),
    ],
    "a size that differs from that in the dataset": [
        images(lambda path: Image.new("RGB", (64, 49)).save(path)),
        images(turned(6)),
    ],
    "values outside 0 to 255: 16 and 32 bits (Pillow's modes `I;16`, `I`), floats (`F`)": [
        images(deep),
        images(lambda path: Image.new("I", (64, 48), 70_000).save(path, "TIFF")),
        images(lambda path: Image.new("F", (64, 48), 0.5).save(path, "TIFF")),
    ],
    "a TIFF with orientation 6 or 8": [
        images(turned(orientation, "TIFF", size))
        for orientation in (6, 8)
        for size in ((64, 48), (48, 64))
    ],
    "an image that EXIF data turn by 180 degrees or mirror, or a square one": [
        images(turned(orientation)) for orientation in (2, 3)
    ]
    + [
        lambda made: made.edit(each("images", width=48)).images(_square).level(),
    ],
    "palettes, gray, alpha, CMYK, 1 bit": [
        images(save(mode)) for mode in ("P", "L", "LA", "RGBA", "1")
    ]
    + [images(save("CMYK", format="JPEG"))],
}


def _square(path):
    for other in path.parent.iterdir():
        Image.new("RGB", (48, 48)).save(other)
    turned(6, size=(48, 48))(path)


def voc(edit=lambda root: None, classes=("cup", "ball"), test=False):
    """Level of a training set, or of a test set."""

    def level(folder):
        roots = [write_voc_dir(folder / name) for name in ("a", "b")]
        edit(roots[test])
        names = [f"{abs(hash(str(root)))}_voc" for root in roots]
        entries = [[n, str(r), "val", 2007, list(classes)] for n, r in zip(names, roots)]
        return level_of(folder, *names, "DATASETS.VOC_DIRS", entries)

    return level


def rename(suffix):
    def edit(root):
        path = root / "JPEGImages" / "two.jpg"
        Image.open(path).save(path.with_suffix(suffix))
        path.unlink()

    return edit


def to_utf16(root):
    path = root / "Annotations" / "two.xml"
    path.write_bytes(
        ('<?xml version="1.0" encoding="utf-16"?>' + path.read_text()).encode("utf-16")
    )


def write_split(*names):
    return lambda root: (root / "ImageSets/Main/val.txt").write_text("\n".join(names) + "\n")


def remove(name):
    return lambda root: (root / name).unlink()


BOTH = (False, True)
IN_VOC = {
    "images in `.JPG`, `.jpeg`, `.png`, `.bmp`, `.tif`, `.webp`": [
        voc(rename(suffix)) for suffix in (".JPEG", ".jpeg", ".png", ".bmp", ".tif", ".webp")
    ],
    "sizes such as `640.0`; XML in UTF-16 or another encoding that it names; a split of one image": [
        voc(edit_xml("<width>40</width>", "<width>40.0</width>"), test=True),
        voc(to_utf16, test=True),
        voc(write_split("one"), test=True),
    ],
    "a width or height of 0, or none": [
        voc(edit_xml("<width>40</width>", "<width>0</width>"), test=test) for test in BOTH
    ]
    + [voc(edit_xml("<height>30</height>", ""))],
    "no image, no XML, or an XML that is broken": [
        voc(remove("JPEGImages/two.jpg")),
        voc(remove("Annotations/two.xml")),
        voc(edit_xml("</annotation>", "")),
    ],
    "an object of a class that is not in the list": [voc(classes=("cup",))],
    "a box of width or height 0, or outside; a maximum below its minimum": [
        voc(edit_xml("<xmax>5</xmax>", f"<xmax>{xmax}</xmax>"), test=test)
        for xmax in (4, 2)
        for test in BOTH
    ]
    + [voc(edit_xml("<xmin>5</xmin>", "<xmin>50</xmin>"))],
    "corners that are not integers": [
        voc(edit_xml("<xmin>5</xmin>", "<xmin>4.5</xmin>"), test=True)
    ],
    "no `difficult`, `truncated` or `pose` in a test set": [
        voc(edit_xml(f"<{key}>{value}</{key}>", ""), test=True)
        for key, value in (("difficult", 0), ("truncated", 0), ("pose", "Left"))
    ],
    "an image that is listed twice in the split": [voc(write_split("one", "two", "two"))],
    "a class of a test set without an object that is not difficult": [
        voc(write_split("three", "four"), test=True)
    ],
}


def folders(change):
    def level(folder):
        root = Path(write_image_folder(folder / "colors"))
        change(root)
        cfg = read_config(f"{configs_dir()}/ImageNet/R_18.yaml", [])
        cfg.DATASETS.IMAGE_FOLDERS = [["colors", str(root)]]
        cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("colors",), ()
        found = Examination()
        found.add(examine(cfg))
        return told(found)

    return level


IN_FOLDERS = {
    "no folder; a class without an image": [
        folders(shutil.rmtree),
        folders(lambda root: (root / "empty").mkdir()),
    ]
}


def recipe(change=lambda path: None, *opts):
    def level(folder):
        path = write_recipe(folder / "recipe")
        change(path)
        return told(examine_recipe(Recipe(str(path), list(map(str, opts))))[1])

    return level


def train_on_test(path):
    final = path.parent / "final.yaml"
    text = final.read_text()
    final.write_text(re.sub(r'TEST: \["(.*)_val"\]', r'TEST: ["\1_train"]', text))


def copy_to_test(path):
    data = path.parent / "data"
    shutil.rmtree(data / "val")
    shutil.copytree(data / "images", data / "val" / "images")
    shutil.copy(data / "annotations.json", data / "val")


IN_SEARCH = {
    "a `SEARCH.METRIC` that archval cannot have: no object of that size or class": [
        recipe(lambda path: None, "SEARCH.METRIC", metric)
        for metric in ("bbox/APl", "bbox/AP-green")
    ],
    "an image of the test set that a step trains on or chooses by": [recipe(train_on_test)],
    "a test set, or an archval of your own, of which half of the images or more are, byte for byte, "
    "others that a step trains on or chooses by: one dataset under two names, or a copied folder (of "
    "200 images, evenly spread)": [recipe(copy_to_test)],
}
SECTIONS = {
    "in a json in COCO format": (Coco, IN_COCO),
    "in VOC's layout": (Path, IN_VOC),
    "in folders of classes": (Path, IN_FOLDERS),
    "in images": (Coco, IN_IMAGES),
    "in a search": (Path, IN_SEARCH),
}
ELSEWHERE = {
    "a class without objects in archtrain, archval or the test set": "tests/data/test_parts.py",
}
CASES = [
    pytest.param(make, case, level, id=f"{found[:40]}-{number}")
    for section, found, level in read_rows()
    if found not in ELSEWHERE
    for make, rows in [SECTIONS[section]]
    for number, case in enumerate(rows.get(found, [lambda _: "not made"]))
]


@pytest.mark.parametrize("make, case, level", CASES)
def test_a_row(make, case, level, tmp_path):
    assert case(make(tmp_path)) == level


def test_every_case_is_a_row():
    rows = {found for _, found, _ in read_rows()}
    assert {found for _, cases in SECTIONS.values() for found in cases} | ELSEWHERE.keys() == rows


def test_without_a_fault(tmp_path):
    assert Coco(tmp_path / "boxes").level() == "taken"
    assert Coco(tmp_path / "masks").level(*MASKS) == "taken"
    assert voc()(tmp_path / "voc") == voc(test=True)(tmp_path / "voc_test") == "taken"
