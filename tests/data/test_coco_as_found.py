"""COCO json as tools write it: what Detectron2 takes is taken as Detectron2 takes it, and counted;
what has one meaning is corrected. Detectron2's loader, mapper and evaluator are the judges."""

import gzip
import json
import math
import multiprocessing
import os
import re
import time

import pytest
from coco_edits import append, box, by_id, mask, score_truth, set_in, trained_boxes
from hanging import HANGS_S

from crnas_d2.data import coco_json, setup_datasets
from crnas_d2.data.coco_json import SCORED_KEYS, JsonRules, check_coco_json, register_coco_json

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

pytestmark = pytest.mark.usefixtures("catalogs")


def two_entries_of_one_image(coco):
    set_in("images", 13, file_name="./0.png")(coco)


def renamed(section, key, changes):
    """An edit by which ids become others, where they are and where they are referred to."""

    def edit(coco):
        for entry in coco[section]:
            entry["id"] = changes(entry["id"])
        for annotation in coco["annotations"]:
            if key:
                annotation[key] = changes(annotation[key])

    return edit


def edits(*several):
    def edit(coco):
        for one in several:
            one(coco)

    return edit


GOOD = [2, 4, 8, 4, 8, 9]
# edit; the warning; how often; how many of the 7 objects Detectron2 trains on
TAKEN = {
    "box of no width": (box(1, 2, 0, 4), "width or height 0", 1, 6),
    "box of no height": (box(1, 2, 4, 0), "width or height 0", 1, 6),
    "box of negative width": (box(11, 2, -5, 4), "negative width or height", 1, 7),
    "box left of its image": (box(-3, 2, 5, 4), "leaves its image", 1, 7),
    "box far out of its image": (box(1, 2, 5, 1000), "leaves its image", 1, 7),
    "box outside its image": (box(-30, 2, 5, 4), "box outside its image", 1, 6),
    "corners in place of sizes": (box(30, 20, 38, 28), "leaves its image", 1, 7),
    "box less than a pixel outside": (box(-1, -1, 42, 32), None, 0, 7),
    "polygon of 2 points beside a good one": (mask([GOOD, [1, 2, 3, 4]]), "beside others", 1, 7),
    "polygon of half a point beside a good one": (mask([[1] * 7, GOOD]), "beside others", 1, 7),
    "polygon of 2 points alone": (mask([[1, 2, 3, 4]]), "3 points alone", 1, 6),
    "annotation of no image": (set_in("annotations", 200, image_id=999), "not in the file", 1, 6),
    "two categories of one name": (set_in("categories", 2, name="ball"), "name of another", 1, 7),
    "category of no box": (
        append("categories", {"id": 0, "name": "toys"}),
        "without any box",
        1,
        7,
    ),
    "category of no name": (set_in("categories", 2, name=""), "empty name", 1, 7),
    "category of crowds alone": (
        lambda coco: [a.update(iscrowd=1) for a in coco["annotations"] if a["category_id"] == 2],
        "all have iscrowd 1",
        1,
        3,
    ),
    "one image twice": (two_entries_of_one_image, "under two ids", 1, 7),
    "text ids": (renamed("images", "image_id", "img_{}".format), None, 0, 7),
    "text ids of digits": (renamed("images", "image_id", str), None, 0, 7),
    "text ids of categories": (renamed("categories", "category_id", str), None, 0, 7),
    "negative ids": (renamed("images", "image_id", lambda old_id: -old_id), None, 0, 7),
    "large ids": (renamed("images", "image_id", lambda old_id: old_id + 10**18), None, 0, 7),
    "truth values as iscrowd": (set_in("annotations", 200, iscrowd=False), None, 0, 7),
}


@pytest.mark.parametrize("name", TAKEN)
@pytest.mark.parametrize("required", [(), SCORED_KEYS], ids=["trained", "scored"])
def test_it_is_taken_as_detectron2_takes_it(write_coco, tmp_path, name, required):
    edit, kind, count, trained = TAKEN[name]
    json_file, root = write_coco(edit=edit)
    checked = register_coco_json("own", json_file, root, required)
    warned = [w for k, w in checked.findings.warnings.items() if kind and kind in k]
    assert len(checked.findings.warnings) == len(warned) == (count > 0)
    assert sum(w.count for w in warned) == count
    assert checked.trained == trained

    register_coco_instances("peer", {}, json_file, root)
    expected = trained_boxes("peer")
    assert trained_boxes("own") == expected
    assert sum(map(len, expected.values())) == trained
    assert MetadataCatalog.get("own").thing_classes == MetadataCatalog.get("peer").thing_classes
    if required:
        results = [score_truth(data, tmp_path / data) for data in ("own", "peer")]
        assert results[0] == pytest.approx(results[1], nan_ok=True, abs=0)


def without(key):
    return lambda coco: [annotation.pop(key) for annotation in coco["annotations"]]


def sizes(kind):
    return lambda coco: [i.update(width=kind(40), height=kind(30)) for i in coco["images"]]


# edit of what Detectron2 or pycocotools would end on or score wrongly, and the warning
CORRECTED = {
    "sizes with a point": (sizes(float), "width or height", 4),
    "sizes as text": (sizes(str), "width or height", 4),
    "image ids with a point": (renamed("images", "image_id", float), "image_id", 11),
    "category ids with a point": (renamed("categories", "category_id", float), "category_id", 9),
    "ids as text on one side": (
        lambda coco: [a.update(image_id=str(a["image_id"])) for a in coco["annotations"]],
        "image_id",
        7,
    ),
    "annotation id 0": (set_in("annotations", 100, id=0), "annotation with id 0", 1),
    "annotation ids as text": (renamed("annotations", "", "a{}".format), "annotation with id 0", 7),
    "annotation ids with a point": (renamed("annotations", "", float), "annotation with id 0", 7),
    "annotation ids as fractions": (set_in("annotations", 200, id=0.5), "annotation with id 0", 1),
    "annotation ids below 0": (renamed("annotations", "", lambda old_id: -old_id), "with id 0", 7),
    "annotation id beyond floats": (set_in("annotations", 200, id=10**400), "with id 0", 1),
    "no area": (without("area"), "without an area", 7),
    "no area and no mask": (edits(without("area"), without("segmentation")), "without an area", 7),
    "area null": (set_in("annotations", 200, area=None), "without an area", 1),
    "area negative": (set_in("annotations", 200, area=-1), "without an area", 1),
    "area as text": (set_in("annotations", 200, area="large"), "without an area", 1),
    "area NaN": (set_in("annotations", 200, area=math.nan), "without an area", 1),
    "area infinite": (set_in("annotations", 200, area=math.inf), "without an area", 1),
    "no iscrowd": (without("iscrowd"), "without iscrowd", 7),
    "iscrowd null": (set_in("annotations", 200, iscrowd=None), "without iscrowd", 1),
    "iscrowd as text": (set_in("annotations", 200, iscrowd="0"), "iscrowd that is text", 1),
    "mask that cannot be drawn": (mask([[1, 2, 3, 4, 5, math.nan]]), "cannot be drawn", 1),
}


@pytest.mark.parametrize("name", CORRECTED)
def test_what_has_one_meaning_is_corrected(write_coco, tmp_path, name):
    edit, kind, count = CORRECTED[name]
    json_file, root = write_coco(edit=edit)
    with open(json_file, "rb") as file:
        content = file.read()
    checked = register_coco_json("own", json_file, root, SCORED_KEYS)
    (found,) = checked.findings.warnings
    assert kind in found and checked.findings.warnings[found].count == count
    assert checked.json_file != json_file
    with open(json_file, "rb") as file:
        assert file.read() == content

    register_coco_instances("plain", {}, *write_coco("plain"))
    images = [DatasetCatalog.get(data) for data in ("own", "plain")]
    assert [(i["image_id"], i["width"], i["height"]) for i in images[0]] == [
        (i["image_id"], i["width"], i["height"]) for i in images[1]
    ]
    assert trained_boxes("own") == trained_boxes("plain")
    results = [score_truth(data, tmp_path / data) for data in ("own", "plain")]
    assert results[0]["AP"] == pytest.approx(100)
    if "area" not in name:
        assert results[0] == pytest.approx(results[1], nan_ok=True, abs=0)


def test_areas_are_measured_as_detectron2_measures_them(write_coco):
    whole = {"size": [30, 40], "counts": [600, 600]}
    edit = edits(without("area"), mask(whole), set_in("annotations", 100, segmentation=[]))
    checked = check_coco_json(*write_coco(edit=edit), SCORED_KEYS)
    with open(checked.json_file) as file:
        areas = {a["id"]: a["area"] for a in json.load(file)["annotations"]}
    assert (areas[200], areas[100], areas[201]) == (600, 30, 15)  # of runs, a box, a triangle


def test_parts_are_drawn_from_one_copy_whatever_is_tested(cfg, write_coco):
    json_file, root = write_coco("train", edit=without("area"))
    cfg.DATASETS.COCO_JSON = [["cells_train", json_file, root]]
    cfg.DATASETS.TRAIN, cfg.DATASETS.ARCHVAL.SIZE = ("cells_archtrain",), 1
    files = []
    for scored in ((), ("cells_archval",)):
        cfg.DATASETS.TEST = scored
        setup_datasets(cfg)
        meta = MetadataCatalog.get("cells_train")
        assert meta.source == json_file != meta.json_file
        files.append((meta.json_file, os.fspath(MetadataCatalog.get("cells_archtrain").json_file)))
    assert len(set(files)) == 1
    with open(files[0][1]) as file:
        assert all(annotation["area"] > 0 for annotation in json.load(file)["annotations"])


def test_what_is_crowd_for_detectron2_is_crowd(write_coco):
    checked = register_coco_json("own", *write_coco(edit=set_in("annotations", 200, iscrowd=2)))
    assert checked.trained == 6 == sum(map(len, trained_boxes("own").values()))
    with open(checked.json_file) as file:
        assert by_id(json.load(file)["annotations"], 200)["iscrowd"] == 1


def test_short_polygons_are_left_out_of_masks_that_are_scored(write_coco):
    """pycocotools would end on one that comes first, and take one that is alone for a box."""
    scored = [*SCORED_KEYS, "segmentation"]
    checked = check_coco_json(*write_coco(edit=mask([[1, 2, 3, 4], GOOD])), scored)
    with open(checked.json_file) as file:
        annotations = json.load(file)["annotations"]
    assert by_id(annotations, 200)["segmentation"] == [GOOD]
    checked = check_coco_json(*write_coco("alone", edit=mask([[1, 2, 3, 4]])), scored)
    assert "3 points alone, which has no mask AP" in checked.findings.errors[0]


def test_masks_without_short_polygons_are_trained_and_scored(write_coco, tmp_path):
    required = [*SCORED_KEYS, "segmentation"]
    files = write_coco(edit=mask([[1, 2, 3, 4], GOOD, [1] * 7]))
    register_coco_json("own", *files, required)
    register_coco_instances("peer", {}, *files)
    assert trained_boxes("own", masks=True) == trained_boxes("peer", masks=True)
    assert score_truth("own", tmp_path, "segm")["AP"] == pytest.approx(100)
    with pytest.raises(TypeError):
        score_truth("peer", tmp_path, "segm")


def test_masks_of_crowds_are_needed_where_they_are_scored(write_coco):
    files = write_coco(edit=set_in("annotations", 200, segmentation=None, iscrowd=1))
    assert not check_coco_json(*files, ["segmentation"]).findings.errors
    assert len(check_coco_json(*files, ["segmentation", *SCORED_KEYS]).findings.errors) == 1


@pytest.mark.parametrize(
    "edit", [lambda c: c.pop("annotations"), lambda c: c.update(annotations=[])]
)
def test_a_test_set_without_annotations_has_detections_and_no_ap(write_coco, tmp_path, edit):
    checked = register_coco_json("own", *write_coco(edit=edit), SCORED_KEYS)
    assert checked.annotations == checked.trained == 0
    assert "no annotations" in checked.findings.describe_warnings()[0]
    assert score_truth("own", tmp_path) == {}
    assert os.path.isfile(tmp_path / "coco_instances_results.json")


def test_names_that_are_numbers_are_texts(write_coco):
    checked = register_coco_json("own", *write_coco(edit=set_in("categories", 2, name=3)))
    assert checked.categories == {2: "3", 7: "ball"}
    DatasetCatalog.get("own")
    assert MetadataCatalog.get("own").thing_classes == ["3", "ball"]


@pytest.mark.parametrize("entry", [0, "toys"])
def test_a_category_may_be_left_out(cfg, write_coco, tmp_path, entry):
    group = append("categories", {"id": 0, "name": "toys"})
    for name in ("own_train", "own_val"):
        cfg.DATASETS.COCO_JSON.append([name, *write_coco(name, edit=group)])
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("own_train",), ("own_val",)
    cfg.DATASETS.LEFT_OUT_CATEGORIES = [entry]
    setup_datasets(cfg)
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 2
    assert cfg.MODEL.CLASS_NAMES == ["cup", "ball"]
    assert [a["category_id"] for a in DatasetCatalog.get("own_val")[1]["annotations"]] == [1, 0]
    assert score_truth("own_val", tmp_path)["AP-cup"] == pytest.approx(100)


def test_a_left_out_category_shares_its_name_with_none(write_coco):
    files = write_coco(edit=append("categories", {"id": 0, "name": "ball"}))
    shared = "category with the name of another one, which stays a class of its own"
    assert shared in check_coco_json(*files).findings.warnings
    checked = check_coco_json(*files, rules=JsonRules(left_out_categories=(0,)))
    assert shared not in checked.findings.warnings
    assert checked.categories == {2: "cup", 7: "ball"}


def test_no_annotations_are_told_once(write_coco):
    files = write_coco(edit=lambda coco: coco.pop("annotations"))
    tested, trained = (check_coco_json(*files, required).findings for required in ([], ["objects"]))
    (warning,) = tested.describe_warnings()
    assert warning.endswith("it has no annotations: detections on its images have no AP (4 images)")
    assert len(trained.errors) == 1 and not trained.warnings


@pytest.mark.parametrize(
    "entry, message",
    [
        (2, "LEFT_OUT_CATEGORIES has 2, a category with annotations"),
        ("ball", "LEFT_OUT_CATEGORIES has 'ball', the name of 2 categories; expected an id"),
        ("hat", "LEFT_OUT_CATEGORIES has 'hat'; expected the id or the name of a category"),
        (1.5, "LEFT_OUT_CATEGORIES has 1.5; expected ids or names"),
    ],
)
def test_categories_that_cannot_be_left_out(cfg, write_coco, entry, message):
    edit = append("categories", {"id": 0, "name": "ball"})
    cfg.DATASETS.COCO_JSON = [["own", *write_coco(edit=edit)]]
    cfg.DATASETS.LEFT_OUT_CATEGORIES = [entry]
    with pytest.raises(ValueError, match=message):
        setup_datasets(cfg)


def test_one_category_has_to_stay(write_coco):
    rules = JsonRules(left_out_categories=(2, "ball"))
    checked = check_coco_json(*write_coco(edit=lambda c: c.pop("annotations")), rules=rules)
    assert checked.findings.errors == ["DATASETS.LEFT_OUT_CATEGORIES leaves no category"]


def test_one_process_reads_for_all(write_coco):
    files = write_coco(edit=edits(sizes(float), box(1, 2, 0, 4)))
    context = multiprocessing.get_context("fork")
    reads, results = context.Queue(), context.Queue()

    def check():
        read_file = coco_json.read_file
        coco_json.read_file = lambda path: reads.put(path) or time.sleep(0.2) or read_file(path)
        checked = check_coco_json(*files)
        results.put((checked.json_file, checked.findings.describe_warnings()))

    processes = [context.Process(target=check) for _ in range(3)]
    for process in processes:
        process.start()
    found = [results.get(timeout=HANGS_S) for _ in processes]
    for process in processes:
        process.join()
    assert found[0] == found[1] == found[2] and len(found[0][1]) == 2
    assert reads.get(timeout=HANGS_S) == files[0] and reads.empty()


def test_names_out_of_the_root_may_be_allowed(write_coco, tmp_path):
    json_file, root = write_coco()
    with open(json_file) as file:
        coco = json.load(file)
    for image in coco["images"]:
        image["file_name"] = os.path.join(root, image["file_name"])
    coco["images"][0]["file_name"] = f"../{os.path.basename(root)}/3.png"
    with open(json_file, "w") as file:
        json.dump(coco, file)
    assert len(check_coco_json(json_file, root).findings.errors) == 4
    checked = register_coco_json("own", json_file, root, rules=JsonRules(images_outside_root=True))
    assert [w.count for w in checked.findings.warnings.values()] == [4]
    assert sum(map(len, trained_boxes("own").values())) == 7


@pytest.mark.parametrize(
    "content, message",
    [
        (b'{"images": [1,\n 2,\n]}', "line 3, column 1: there is a comma before ']'"),
        (b'{"images": [1],\n"a": 1,}', "line 2, column 8: there is a comma before '}'"),
        (b'{"images": [1, 2', "line 1, column 17: "),
        (
            b'\xef\xbb\xbf{"images": []}',
            "line 1, column 1: .*byte order mark of UTF-8; save it without",
        ),
        ('{"images": []}'.encode("utf-16"), "line 1, column 1: .*byte order mark of UTF-16"),
        (
            gzip.compress(b'{"images": []}', mtime=0),
            "line 1, column 1: it is compressed with gzip; unpack it",
        ),
        (b"", "line 1, column 1: it is empty"),
        (
            '{"a": 1,\n "b": "B\xfcr"}'.encode("latin-1"),
            "line 2, column 9: the byte 0xfc is no UTF-8",
        ),
    ],
)
def test_what_is_no_json_is_told_by_line_and_column(tmp_path, content, message):
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    (error,) = check_coco_json(str(path), str(tmp_path)).findings.errors
    assert re.search(message, error)


def test_the_file_is_read_once_and_again_when_it_has_changed(write_coco, monkeypatch):
    reads = []
    read_file = coco_json.read_file
    monkeypatch.setattr(coco_json, "read_file", lambda path: reads.append(path) or read_file(path))
    file, root = write_coco(edit=sizes(float))
    first = check_coco_json(file, root)
    assert check_coco_json(file, root) == first and len(reads) == 1
    assert check_coco_json(file, root, SCORED_KEYS) == first and len(reads) == 1
    masked = check_coco_json(file, root, [*SCORED_KEYS, "segmentation"])
    assert masked.json_file != first.json_file and len(reads) == 2
    os.remove(first.json_file)
    assert os.path.isfile(check_coco_json(file, root).json_file) and len(reads) == 3
    write_coco(edit=edits(sizes(float), box(1, 2, "x", 4)))
    for _ in range(2):
        assert len(check_coco_json(file, root).findings.errors) == 1
    assert len(reads) == 4


def test_a_copy_that_cannot_be_written_is_an_error(write_coco, tmp_path):
    (tmp_path / "file").write_text("")
    rules = JsonRules(cache_dir=str(tmp_path / "file" / "cache"))
    assert not check_coco_json(*write_coco(), rules=rules).findings.errors
    with pytest.raises(OSError, match="needs a corrected copy.*DATASETS.CACHE_DIR"):
        check_coco_json(*write_coco("floats", edit=sizes(float)), rules=rules)


def test_what_was_found_is_logged_once(write_coco, caplog):
    files = write_coco(edit=box(1, 2, 0, 4))
    for _ in range(2):
        register_coco_json("own", *files)
    (record,) = [r for r in caplog.records if "width or height 0" in r.message]
    assert "cells.json" in record.message and "annotation 200 of image 13" in record.message
