import json
import os
import shutil

import pytest
from coco_edits import append, box, drop, mask, score_truth, set_in

from crnas_d2.data.catalog import setup_datasets
from crnas_d2.data.coco_json import register_coco_json, validate_coco_json

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json

pytestmark = pytest.mark.usefixtures("catalogs")


# edit, message, and how many faults it makes where entries that refer to it are faults too
FAULTS = {
    "two images with one id": (set_in("images", 13, id=3), "image 3: another image"),
    "two annotations with one id": (
        set_in("annotations", 201, id=200),
        "annotation 200: another annotation",
    ),
    "two categories with one id": (
        set_in("categories", 7, id=2),
        "category 2: another category",
        4,
    ),
    "image without id": (drop("images", 13, "id"), "image at index 2"),
    "image id is a truth value": (set_in("images", 13, id=True), "image at index 2"),
    "image ids are numbers and texts": (
        set_in("images", 13, id="a"),
        "the ids of images are numbers and texts",
    ),
    "annotation without id": (drop("annotations", 200, "id"), "annotation at index"),
    "annotation id is a list": (set_in("annotations", 200, id=[1]), "annotation at index"),
    "annotation is no object": (append("annotations", [1, 2]), r"annotation at index 7: \[1, 2\]"),
    "no image of any annotation": (
        lambda coco: [a.update(image_id=999) for a in coco["annotations"]],
        "none of the 7 annotations has the id of an image",
    ),
    "no image id": (drop("annotations", 200, "image_id"), "annotation 200 .*: image_id is None"),
    "image id of an annotation is a list": (
        set_in("annotations", 200, image_id=[13]),
        r"annotation 200 .*: image_id is \[13\]",
    ),
    "no such category": (
        set_in("annotations", 200, category_id=3),
        "annotation 200 .* category_id 3",
    ),
    "category id is an object": (
        set_in("annotations", 200, category_id={}),
        "annotation 200 .* category_id {}",
    ),
    "no box": (drop("annotations", 200, "bbox"), "annotation 200 .*: bbox is None"),
    "box of 3 numbers": (box(1, 2, 3), r"annotation 200 .*: bbox is \[1, 2, 3\]"),
    "box with NaN": (box(1, 2, float("nan"), 4), "annotation 200 .* 4 finite numbers"),
    "box with infinity": (box(1, 2, float("inf"), 4), "annotation 200 .* 4 finite numbers"),
    "box with a number beyond floats": (box(1, 2, 10**400, 4), "annotation 200 .* 4 finite"),
    "box with text": (box(1, 2, "3", 4), "annotation 200 .* 4 finite numbers"),
    "no width": (drop("images", 13, "width"), "image 13: width, height are"),
    "height 0": (set_in("images", 13, height=0), "image 13: width, height are"),
    "width is a fraction": (set_in("images", 13, width=40.5), "image 13: width, height are"),
    "width is another text": (set_in("images", 13, width="40 px"), "image 13: width, height are"),
    "image of more pixels than Pillow opens": (
        set_in("images", 13, width=10**9),
        "image 13: width, height are 1000000000, 30; expected at most 178956970 pixels",
    ),
    "width beyond floats": (
        set_in("images", 13, width=10**400),
        "image 13: width, height are 1000",
    ),
    "image id beyond 64 bits": (set_in("images", 13, id=2**63), "image at index 2"),
    "box of the largest floats": (box(1, 2, 1e308, 4), "annotation 200 .* 4 finite numbers"),
    "no file name": (drop("images", 13, "file_name"), "image 13: file_name is None"),
    "absolute file name": (
        set_in("images", 13, file_name="/etc/hostname"),
        "image 13: file_name '/etc/hostname' leads out .* DATASETS.IMAGES_OUTSIDE_ROOT",
    ),
    "file name with ..": (
        set_in("images", 13, file_name="../other.json"),
        "image 13: file_name '../other.json' leads out",
    ),
    "file name with .. inside": (
        set_in("images", 13, file_name="link/../../x.png"),
        "image 13: .* leads out",
    ),
    "file name with .. and backslashes": (
        set_in("images", 13, file_name="..\\x.png"),
        "image 13: .* leads out",
    ),
    "file name with a null": (set_in("images", 13, file_name="1.png\0"), "image 13: file_name is"),
    "category without name": (drop("categories", 7, "name"), "category 7: name is None"),
    "crowd is text": (
        set_in("annotations", 200, iscrowd="no"),
        "annotation 200 .*: iscrowd is 'no'",
    ),
    "all is crowd": (
        lambda coco: [a.update(iscrowd=1) for a in coco["annotations"]],
        "all 7 annotations have iscrowd 1",
    ),
    "ignored object": (set_in("annotations", 200, ignore=1), "annotation 200 .*: 'ignore'"),
    "keypoints are texts": (
        set_in("annotations", 200, keypoints=["1", "2", "2"]),
        "annotation 200 .*: keypoints is",
    ),
    "no images": (lambda coco: coco.pop("images"), "'images' is None"),
    "annotations are an object": (lambda coco: coco.update(annotations={}), "'annotations' is {}"),
    "no category": (lambda coco: coco.update(categories=[]), r"'categories' is \[\]"),
}
MASK_FAULTS = {
    "text": ("all", "annotation 200 .*: segmentation is 'all'"),
    "one flat polygon": ([1, 2, 3, 4, 5, 6], "annotation 200 .*: segmentation has"),
    "polygon with NaN": ([[1, 2, 3, 4, 5, float("nan")]], "annotation 200 .*: segmentation"),
    "polygon with text": ([[1, 2, 3, 4, 5, "6"]], "annotation 200 .*: segmentation"),
    "run lengths of another size": (
        {"size": [40, 30], "counts": [1200]},
        "annotation 200 .*: segmentation",
    ),
    "run lengths too short": (
        {"size": [30, 40], "counts": [600, 599]},
        "annotation 200 .*: segmentation",
    ),
    "run lengths missing": ({"size": [30, 40]}, "annotation 200 .*: segmentation"),
    "none": (None, "annotation 200 .*: it has no 'segmentation'"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_reported_with_file_and_id(write_coco, fault):
    edit, message, *following = FAULTS[fault]
    total = f"{following[0]} faults" if following else "1 fault"
    json_file, root = write_coco("broken", edit=edit)
    with pytest.raises(ValueError, match=rf"broken\.json: {total}:\n  {message}"):
        validate_coco_json(json_file, root)


@pytest.mark.parametrize("fault", MASK_FAULTS)
def test_a_mask_that_cannot_be_drawn_is_an_error_where_masks_are_used(write_coco, fault):
    segmentation, message = MASK_FAULTS[fault]
    json_file, root = write_coco("broken", edit=mask(segmentation))
    with pytest.raises(ValueError, match=rf"broken\.json: 1 fault:\n  {message}"):
        validate_coco_json(json_file, root, ["segmentation"])
    assert len(validate_coco_json(json_file, root)) == 2


def test_many_faults_make_one_error_with_the_first_and_the_total(write_coco):
    def edit(coco):
        for annotation in coco["annotations"]:
            annotation["bbox"][2] = "0"
        coco["images"][0]["width"] = -1

    json_file, root = write_coco(edit=edit, num_images=9)
    with pytest.raises(ValueError) as error:
        validate_coco_json(json_file, root)
    lines = str(error.value).splitlines()
    # One image without a size, and the 1 + 2 + 3 boxes of three images each.
    assert lines[0] == f"{json_file}: 19 faults, the first 5:"
    assert len(lines) == 6 and lines[1].startswith("  image 83: width, height are (-1, 30)")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'{"images": [1, 2',
        b"\xff\xfe\x00",
        b'\xef\xbb\xbf{"images": []}',
        b"[" * 200_000,
        b"null",
    ],
    ids=["empty", "list", "truncated", "not UTF-8", "byte order mark", "deep", "null"],
)
def test_a_malformed_file_is_named(tmp_path, content):
    path = tmp_path / "malformed.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="malformed.json"):
        validate_coco_json(str(path), str(tmp_path))


def test_missing_file_and_folder(write_coco, tmp_path):
    json_file, root = write_coco()
    with pytest.raises(FileNotFoundError, match="nothing.json"):
        validate_coco_json(str(tmp_path / "nothing.json"), root)
    with pytest.raises(FileNotFoundError, match="'nowhere' of .*cells.json is not a folder"):
        validate_coco_json(json_file, "nowhere")


@pytest.mark.parametrize(
    "edit",
    [
        mask([]),
        mask({"size": [30, 40], "counts": [600, 600]}),
        mask({"size": [30, 40], "counts": "`U1"}),
        drop("annotations", 200, "segmentation"),
        drop("annotations", 200, "area"),
        drop("annotations", 200, "iscrowd"),
        set_in("annotations", 200, iscrowd=1),
        set_in("images", 13, extra={}),
    ],
)
def test_optional_fields(write_coco, edit):
    assert len(validate_coco_json(*write_coco(edit=edit))) == 2


def test_images_may_be_links(write_coco, tmp_path):
    json_file, root = write_coco()
    os.rename(os.path.join(root, "0.png"), tmp_path / "elsewhere.png")
    os.symlink(tmp_path / "elsewhere.png", os.path.join(root, "0.png"))
    validate_coco_json(json_file, root)


def test_registered_data_is_what_detectron2_loads(write_coco):
    json_file, root = write_coco()
    register_coco_json("cells_train", json_file, root)
    meta = MetadataCatalog.get("cells_train")
    assert meta.thing_classes == ["cup", "ball"]
    assert meta.evaluator_type == "coco"
    assert DatasetCatalog.get("cells_train") == load_coco_json(json_file, root, "peer")
    peer = MetadataCatalog.get("peer")
    assert meta.thing_classes == peer.thing_classes
    assert meta.thing_dataset_id_to_contiguous_id == peer.thing_dataset_id_to_contiguous_id


def test_one_name_stands_for_one_dataset(write_coco):
    first, second = write_coco("first"), write_coco("second")
    register_coco_json("cells", *first)
    register_coco_json("cells", os.path.relpath(first[0]), first[1])
    with pytest.raises(ValueError, match="(?s)'cells' is taken.*first.json.*second.json"):
        register_coco_json("cells", *second)
    with pytest.raises(ValueError, match="(?s)'cells' is taken.*first_images.*second_images"):
        register_coco_json("cells", first[0], second[1])
    with pytest.raises(ValueError, match="'voc_2007_test' is taken"):
        register_coco_json("voc_2007_test", *first)
    write_coco("first", edit=set_in("categories", 2, name="mug"))
    register_coco_json("cells", *first)
    assert MetadataCatalog.get("cells").thing_classes == ["mug", "ball"]
    assert len(DatasetCatalog.get("cells")) == 4


def own_data(cfg, **files):
    cfg.DATASETS.COCO_JSON = [[name, *paths] for name, paths in files.items()]
    cfg.DATASETS.TRAIN = ("cells_train",)
    cfg.DATASETS.TEST = tuple(name for name in files if name != "cells_train")


def test_setup_from_yaml(cfg, write_coco, tmp_path):
    train, val = write_coco("train", 5), write_coco("val", 2)
    (tmp_path / "own.yaml").write_text(
        "DATASETS:\n"
        "  COCO_JSON:\n"
        f"  - [cells_train, {train[0]}, {train[1]}]\n"
        f"  - [cells_val, {val[0]}, {val[1]}]\n"
        "  TRAIN: [cells_train]\n"
        "  TEST: [cells_val]\n"
    )
    cfg.merge_from_file(str(tmp_path / "own.yaml"), allow_unsafe=False)
    setup_datasets(cfg)
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == cfg.MODEL.RETINANET.NUM_CLASSES == 2
    assert cfg.MODEL.CLASS_NAMES == ["cup", "ball"]  # in the order of their ids, 2 and 7
    assert [len(DatasetCatalog.get(name)) for name in ("cells_train", "cells_val")] == [5, 2]
    cfg.freeze()
    setup_datasets(cfg)


def test_setup_from_the_command_line(cfg, write_coco):
    json_file, root = write_coco()
    cfg.merge_from_list(
        ["DATASETS.COCO_JSON", f"[('mine', '{json_file}', '{root}')]", "DATASETS.TEST", "('mine',)"]
    )
    setup_datasets(cfg)
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 2


@pytest.mark.parametrize(
    "entries, message",
    [
        (["a", "b.json", "images"], r"COCO_JSON\[0\] is 'a'; expected three texts \[name"),
        ([["a", "b.json"]], r"COCO_JSON\[0\] is \['a', 'b.json'\]; expected three texts"),
        ([["a", "b.json", ""]], r"COCO_JSON\[0\]"),
        ([["a", "b.json", "images", ""]], r"COCO_JSON\[0\]"),
        ([["a", "b.json", 3]], r"COCO_JSON\[0\]"),
        ([5], r"COCO_JSON\[0\] is 5"),
    ],
)
def test_malformed_entries(cfg, entries, message):
    cfg.DATASETS.COCO_JSON = entries
    with pytest.raises(ValueError, match=message):
        setup_datasets(cfg)


def test_num_classes_of_detectron2s_own_data(cfg):
    for name, num_classes in (("voc_2007_test", 20), ("coco_2017_train", 80)):
        cfg.DATASETS.TEST = (name,)
        setup_datasets(cfg)
        assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == num_classes
        assert cfg.MODEL.CLASS_NAMES == MetadataCatalog.get(name).thing_classes


def test_a_config_without_data_keeps_its_classes(cfg):
    cfg.MODEL.CLASS_NAMES, cfg.MODEL.ROI_HEADS.NUM_CLASSES = ["cup", "hat", "ball"], 3
    setup_datasets(cfg)
    assert cfg.MODEL.CLASS_NAMES == ["cup", "hat", "ball"]
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 3


def swap(coco):
    for category in coco["categories"]:
        category["id"] = 9 - category["id"]
    for annotation in coco["annotations"]:
        annotation["category_id"] = 9 - annotation["category_id"]


@pytest.mark.parametrize(
    "edit, message",
    [
        (swap, "has 2; at index 0 stand 'cup' and 'ball'"),
        (append("categories", {"id": 8, "name": "hat"}), "has 3; at index 2 stand None and 'hat'"),
        (set_in("categories", 7, name="Ball"), "at index 1 stand 'ball' and 'Ball'"),
    ],
    ids=["order", "number", "name"],
)
def test_train_and_test_need_the_same_categories(cfg, write_coco, edit, message):
    own_data(cfg, cells_train=write_coco("train"), cells_val=write_coco("val", edit=edit))
    with pytest.raises(
        ValueError, match=rf"cells_train \(.*train\.json\) .*cells_val \(.*val\.json\) .*{message}"
    ):
        setup_datasets(cfg)


def test_categories_of_other_ids_but_equal_order_are_the_same(cfg, write_coco):
    def renumber(coco):
        for entry in (*coco["categories"], *coco["annotations"]):
            key = "id" if "name" in entry else "category_id"
            entry[key] = {2: 1, 7: 2}[entry[key]]

    own_data(cfg, cells_train=write_coco("train"), cells_val=write_coco("val", edit=renumber))
    setup_datasets(cfg)
    boxes = [DatasetCatalog.get(name)[2]["annotations"] for name in ("cells_train", "cells_val")]
    assert boxes[0] == boxes[1]


def test_unknown_name(cfg):
    cfg.DATASETS.TRAIN = ("cells_trian",)
    with pytest.raises(ValueError, match="'cells_trian', and no dataset .* DATASETS.COCO_JSON"):
        setup_datasets(cfg)


def test_masks_are_needed_where_they_are_trained(cfg, write_coco):
    edit = drop("annotations", 200, "segmentation")
    own_data(cfg, cells_train=write_coco("train", edit=edit), cells_val=write_coco("val"))
    setup_datasets(cfg)
    cfg.MODEL.MASK_ON = True
    with pytest.raises(ValueError, match="train.json.*\n.*200 .*no 'segmentation'"):
        setup_datasets(cfg)


def test_real_photographs(cfg, tmp_path):
    root = os.environ.get("CRNAS_D2_DATA")
    if not root:
        pytest.skip("CRNAS_D2_DATA does not name a folder with the dataset bccd")
    bccd = os.path.join(root, "bccd")
    for split in ("train", "val"):
        shutil.copy(os.path.join(bccd, f"{split}.json"), tmp_path)
    files = {
        f"bccd_{split}": (str(tmp_path / f"{split}.json"), os.path.join(bccd, "images"))
        for split in ("train", "val")
    }
    cfg.DATASETS.COCO_JSON = [[name, *paths] for name, paths in files.items()]
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("bccd_train",), ("bccd_val",)
    setup_datasets(cfg)
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 3
    assert MetadataCatalog.get("bccd_val").thing_classes == ["RBC", "WBC", "Platelets"]
    assert sum(len(d["annotations"]) for d in DatasetCatalog.get("bccd_train")) == 3910
    assert score_truth("bccd_val", tmp_path)["AP50"] == pytest.approx(100)
    coco = json.loads((tmp_path / "val.json").read_text())
    coco["annotations"][5]["bbox"][0] = None
    (tmp_path / "val.json").write_text(json.dumps(coco))
    annotation_id = coco["annotations"][5]["id"]
    with pytest.raises(
        ValueError, match=rf"val\.json: 1 fault:\n  annotation {annotation_id} .* bbox"
    ):
        setup_datasets(cfg)
