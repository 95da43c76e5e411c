import json
import logging
import multiprocessing
import os
import shutil
from pathlib import Path

import pytest
import torch
from hanging import HANGS_S
from plain_draw import plain_draw

from crnas_d2.config import default_config
from crnas_d2.data import cache, listing, splits
from crnas_d2.data import shared_images as shared_images_module
from crnas_d2.data.catalog import setup_datasets
from crnas_d2.data.class_counts import count_classes
from crnas_d2.data.shared_images import image_files, shared_images
from crnas_d2.data.splits import (
    passing_draws,
    register_splits,
    split_names,
    split_source,
    write_splits,
)
from crnas_d2.files import file_sha256

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances

pytestmark = pytest.mark.usefixtures("catalogs")


@pytest.fixture(autouse=True)
def datasets_root(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))


@pytest.fixture
def cells(write_coco):
    """Registers "cells_train" of 12 images; returns its json file and image root."""
    files = write_coco("cells", 12)
    register_coco_instances("cells_train", {}, *files)
    return files


def read(path):
    return json.loads(Path(path).read_text())


def ids(entries):
    return [entry["id"] for entry in entries]


def test_parts_hold_all_images_and_annotations_once(cells):
    source = read(cells[0])
    archtrain, archval = map(read, write_splits("cells_train", size=4, seed=0))
    assert (len(archtrain["images"]), len(archval["images"])) == (8, 4)
    assert set(ids(archval["images"])) == plain_draw(ids(source["images"]), 4)
    for section in ("images", "annotations"):
        both = archtrain[section] + archval[section]
        assert sorted(both, key=lambda e: e["id"]) == sorted(source[section], key=lambda e: e["id"])
        kept = set(ids(archval[section]))
        assert ids(archval[section]) == [
            image_id for image_id in ids(source[section]) if image_id in kept
        ]
    for part in (archtrain, archval):
        assert {a["image_id"] for a in part["annotations"]} == set(ids(part["images"]))
        assert {k: v for k, v in part.items() if k not in ("images", "annotations")} == {
            k: source[k] for k in ("info", "licenses", "categories")
        }


def test_equal_settings_give_equal_bytes_and_others_other_files(cells, tmp_path):
    def digests(**settings):
        paths = write_splits("cells_train", **{"size": 4, "seed": 0, **settings})
        return {os.path.basename(path): file_sha256(path) for path in paths}

    first = digests()
    assert digests(folder=str(tmp_path / "elsewhere")) == first
    for other in (digests(seed=1), digests(size=5)):
        assert not other.keys() & first.keys() and not set(other.values()) & set(first.values())
    coco = read(cells[0])
    coco["annotations"][0]["category_id"] = 2
    Path(cells[0]).write_text(json.dumps(coco))
    assert not digests().keys() & first.keys()


def test_a_draw_of_a_check_is_neither_told_nor_left(cells, caplog):
    caplog.set_level(logging.INFO)
    with passing_draws() as folder:
        assert all(map(os.path.isfile, write_splits("cells_train", 4, 0, folder)))
    assert not caplog.messages and not os.path.exists(folder)
    _, archval = write_splits("cells_train", 4, 0)
    assert f"Wrote 4 images of cells_train to {archval}" in caplog.messages


def test_a_written_split_is_kept(cells, monkeypatch):
    paths = write_splits("cells_train", 4, 0)
    monkeypatch.setattr(splits, "write_atomically", lambda *_: pytest.fail("written again"))
    assert write_splits("cells_train", 4, 0) == paths


@pytest.mark.parametrize("texts", [False, True], ids=["numbers", "texts"])
def test_a_later_process_reads_no_large_file_to_know_the_draw(cells, monkeypatch, texts):
    if texts:
        coco = read(cells[0])
        for entry in (*coco["images"], *coco["annotations"]):
            key = "image_id" if "image_id" in entry else "id"
            entry[key] = f"image {entry[key]}"
        Path(cells[0]).write_text(json.dumps(coco))
    cfg = default_config()

    def look():
        shared = shared_images("cells_archval", "cells_archtrain", cfg.DATASETS)
        files = image_files("cells_archval", cfg.DATASETS)
        counts = count_classes("cells_archval", cfg.DATASETS)
        return write_splits("cells_train", 4, 0), shared, files, counts

    cfg.DATASETS.ARCHVAL.SIZE = 4
    known = look()
    for remembered in (cache._known, splits._read_draw, shared_images_module._images_of_json):
        remembered.cache_clear()
    for module in (splits, listing):
        monkeypatch.setattr(module, "read_json", lambda path: pytest.fail(f"{path} is read again"))
    assert look() == known


def test_a_failed_write_leaves_nothing_and_the_next_one_repairs_it(cells, tmp_path, monkeypatch):
    def fail_for_archval(source, target):
        if "archval" in target:
            raise OSError("disk full")
        rename(source, target)

    rename = os.replace
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail_for_archval)
        with pytest.raises(OSError, match="disk full"):
            write_splits("cells_train", 4, 0)
    left = os.listdir(tmp_path / "datasets" / "crnas_d2_splits")
    assert sorted(name.split(".")[-1] for name in left) == ["json", "lock"]
    archtrain, archval = map(read, write_splits("cells_train", 4, 0))
    assert len(archtrain["images"]) + len(archval["images"]) == 12


def test_of_many_processes_one_writes(cells, tmp_path, monkeypatch):
    log = tmp_path / "log"
    write, context = splits.write_atomically, multiprocessing.get_context("fork")
    start = context.Barrier(6)

    def logged_write(path, content):
        with open(log, "a") as f:
            f.write(f"{path}\n")
        write(path, content)

    def work():
        start.wait()
        paths = write_splits("cells_train", 4, 0)
        assert sum(len(read(path)["images"]) for path in paths) == 12

    monkeypatch.setattr(splits, "write_atomically", logged_write)
    processes = [context.Process(target=work) for _ in range(6)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(HANGS_S)
    assert [process.exitcode for process in processes] == [0] * 6
    written = log.read_text().split()
    assert len(written) == 2 and set(written) == set(write_splits("cells_train", 4, 0))
    assert not list((tmp_path / "datasets" / "crnas_d2_splits").glob("*.tmp"))


@pytest.mark.parametrize(
    "source, names",
    [
        ("coco_2017_train", ("coco_2017_archtrain", "coco_2017_archval")),
        ("trainval", ("trainval_archtrain", "trainval_archval")),
    ],
)
def test_names(write_coco, source, names):
    assert split_names(source) == names
    if source not in DatasetCatalog:
        register_coco_instances(source, {}, *write_coco())
    assert [split_source(name) for name in names] == [source, source]
    assert split_source("coco_2017_val") is None
    assert split_source("nothing_archval") is None


def test_registration_reads_nothing_until_first_use(tmp_path, write_coco):
    json_file, root = str(tmp_path / "late.json"), str(tmp_path / "late_images")
    register_coco_instances("late_train", {"thing_classes": ["cup", "ball"]}, json_file, root)
    archtrain, archval = register_splits("late_train", size=1)
    assert MetadataCatalog.get(archval).thing_classes == ["cup", "ball"]
    assert not (tmp_path / "datasets").exists()
    with pytest.raises(FileNotFoundError, match="cannot split 'late_train'.*late.json"):
        DatasetCatalog.get(archval)
    write_coco("late")
    assert [len(DatasetCatalog.get(name)) for name in (archtrain, archval)] == [3, 1]


def test_import_registers_the_splits_of_coco_and_digits():
    for source in ("coco_2017_train", "digits_train"):
        for name in split_names(source):
            meta, of_source = MetadataCatalog.get(name), MetadataCatalog.get(source)
            assert name in DatasetCatalog and meta.evaluator_type == "coco"
            assert meta.image_root == of_source.image_root
            assert meta.thing_classes == of_source.thing_classes
    assert MetadataCatalog.get("coco_2017_archval").split_settings[1:3] == (5000, 0)


def test_parts_load_as_their_images_of_the_source(cells):
    parts = register_splits("cells_train", size=4, seed=0)
    loaded = [image for name in parts for image in DatasetCatalog.get(name)]
    assert sorted(loaded, key=lambda d: d["image_id"]) == DatasetCatalog.get("cells_train")
    for name in parts:
        for key in ("thing_classes", "thing_dataset_id_to_contiguous_id", "image_root"):
            assert MetadataCatalog.get(name).get(key) == MetadataCatalog.get("cells_train").get(key)


def test_coco_evaluator_scores_archval(cells, tmp_path):
    _, archval = register_splits("cells_train", size=4, seed=0)
    evaluator = COCOEvaluator(archval, output_dir=str(tmp_path))
    evaluator.reset()
    for image in DatasetCatalog.get(archval):
        boxes = torch.tensor([a["bbox"] for a in image["annotations"]], dtype=torch.float)
        boxes[:, 2:] += boxes[:, :2]
        instances = Instances((image["height"], image["width"]))
        instances.pred_boxes = Boxes(boxes)
        instances.scores = torch.ones(len(boxes))
        instances.pred_classes = torch.tensor([a["category_id"] for a in image["annotations"]])
        evaluator.process([image], [{"instances": instances}])
    assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100)


def test_registration_again_replaces_other_settings_only(cells):
    _, archval = register_splits("cells_train", size=4)
    known = MetadataCatalog.get(archval)
    register_splits("cells_train", size=4)
    assert MetadataCatalog.get(archval) is known and len(DatasetCatalog.get(archval)) == 4
    register_splits("cells_train", size=5)
    assert len(DatasetCatalog.get(archval)) == 5


def test_wrong_sources(cells, write_coco):
    with pytest.raises(ValueError, match="cannot split 'none': no dataset"):
        register_splits("none")
    with pytest.raises(ValueError, match="cannot split 'voc_2007_trainval': .* COCO format"):
        register_splits("voc_2007_trainval")
    with pytest.raises(ValueError, match="at least 1 image, not 0"):
        register_splits("cells_train", size=0)
    register_coco_instances("cells", {}, *write_coco("other"))
    register_splits("cells")
    with pytest.raises(ValueError, match="'cells_archtrain' is taken already"):
        register_splits("cells_train")


@pytest.mark.parametrize("size", [12, 5000])
def test_an_archval_that_leaves_no_archtrain(cells, size):
    with pytest.raises(ValueError, match=f"cells.json: it has 12 images; .*SIZE, which is {size}"):
        write_splits("cells_train", size, 0)


@pytest.mark.parametrize(
    "edit, message",
    [
        (lambda coco: coco["images"][0].update(id=3), "several images with the same id"),
        (lambda coco: coco["annotations"][0].update(image_id=5), "an image 5 that is not in it"),
        (lambda coco: coco.pop("annotations"), "not in COCO format: KeyError..annotations"),
    ],
)
def test_invalid_source_files(write_coco, edit, message):
    register_coco_instances("bad_train", {}, *write_coco("bad", edit=edit))
    with pytest.raises(ValueError, match=f"bad.json.*{message}"):
        write_splits("bad_train", 1, 0)


def test_setup_draws_what_the_config_names(cfg, write_coco, tmp_path):
    cfg.DATASETS.COCO_JSON = [["cells_train", *write_coco("cells", 12)]]
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("cells_archtrain",), ("cells_archval",)
    cfg.DATASETS.ARCHVAL.SIZE, cfg.DATASETS.ARCHVAL.SEED = 4, 7
    cfg.DATASETS.ARCHVAL.DIR = str(tmp_path / "here")
    setup_datasets(cfg)
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 2
    assert len(list((tmp_path / "here").glob("cells_arch*_size4_seed7_*.json"))) == 2
    assert len(DatasetCatalog.get("cells_archval")) == 4
    cfg.freeze()
    setup_datasets(cfg)
    cfg.defrost()
    cfg.DATASETS.ARCHVAL.SIZE = 12
    with pytest.raises(ValueError, match="12 images; .*DATASETS.ARCHVAL.SIZE, which is 12"):
        setup_datasets(cfg)


def test_an_own_archval_is_not_replaced(cfg, write_coco):
    cfg.DATASETS.COCO_JSON = [
        ["cells_train", *write_coco("train", 8)],
        ["cells_archval", *write_coco("own", 3)],
    ]
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("cells_train",), ("cells_archval",)
    setup_datasets(cfg)
    assert len(DatasetCatalog.get("cells_archval")) == 3


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("used", ["archtrain", "archval"])
def test_an_image_of_the_test_set_in_archval_is_an_error(cfg, write_coco, linked, used, tmp_path):
    train = write_coco("train", 8)
    test_root = train[1]
    if linked:
        test_root = str(tmp_path / "links")
        os.mkdir(test_root)
        for name in os.listdir(train[1]):
            os.symlink(os.path.join(train[1], name), os.path.join(test_root, name))
    drawn = min(plain_draw([10 * i + 3 for i in range(8)], 3))

    def with_one_of_archval(coco):
        coco["images"][0]["file_name"] = f"{(drawn - 3) // 10}.png"

    def without(coco):
        coco["images"][0]["file_name"] = "new.png"

    shutil.copy(os.path.join(train[1], "0.png"), os.path.join(test_root, "new.png"))
    cfg.DATASETS.COCO_JSON = [["cells_train", *train]]
    cfg.DATASETS.TRAIN = ("cells_archtrain",)
    cfg.DATASETS.TEST = ("cells_test",) + (("cells_archval",) if used == "archval" else ())
    cfg.DATASETS.ARCHVAL.SIZE = 3
    for name, edit in (("apart", without), ("leaking", with_one_of_archval)):
        json_file, _ = write_coco(name, 1, edit=edit)
        register_coco_instances("cells_test", {}, json_file, test_root)
        if name == "apart":
            setup_datasets(cfg)
        else:
            with pytest.raises(
                ValueError, match=r"1 images of .*leaking\.json.*cells_archval_size3"
            ):
                setup_datasets(cfg)
        DatasetCatalog.remove("cells_test")
        MetadataCatalog.remove("cells_test")


@pytest.mark.parametrize(
    "train, warned", [("cells_archtrain", False), ("cells_train", True), ("cells_archval", True)]
)
def test_training_on_archval_is_warned_of(cfg, cells, caplog, train, warned):
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (train,), ("cells_archval",)
    cfg.DATASETS.ARCHVAL.SIZE = 2
    setup_datasets(cfg)
    assert any("in the training set too" in r.message for r in caplog.records) is warned


def test_names_of_the_files_tell_how_they_were_drawn(write_coco):
    def with_a_rare_class(coco):
        for image in coco["images"]:
            image["video id"] = image["id"] % 4
        archval = plain_draw(ids(coco["images"]), 4)
        others = [a for a in coco["annotations"] if a["image_id"] not in archval]
        rare = list({a["image_id"] % 4: a for a in others}.values())  # one of each video
        for annotation in coco["annotations"]:
            annotation["category_id"] = 7 if annotation in rare else 2

    json_file, root = write_coco("cells", 12, edit=with_a_rare_class)
    register_coco_instances("cells_train", {}, json_file, root)
    sha = file_sha256(json_file)[:16]
    for key, ending in (
        ("", f"size4_seed0_stratified_{sha}"),
        ("video id", f"size4_seed0_by_video%20id_{sha}"),
        ("license", ""),
    ):
        if not ending:
            with pytest.raises(ValueError, match="cells.json: its 12 images are one group"):
                write_splits("cells_train", 4, 0, group_key=key)
            continue
        paths = write_splits("cells_train", 4, 0, group_key=key)
        names = [os.path.basename(path) for path in paths]
        assert names == [f"cells_archtrain_{ending}.json", f"cells_archval_{ending}.json"]
        for path in paths:
            assert {a["category_id"] for a in read(path)["annotations"]} == {2, 7}


def test_without_a_rare_class_the_files_are_those_that_they_always_were(cells):
    paths = write_splits("cells_train", size=4, seed=0)
    sha = file_sha256(cells[0])[:16]
    assert [os.path.basename(path) for path in paths] == [
        f"cells_{part}_size4_seed0_{sha}.json" for part in ("archtrain", "archval")
    ]
    source = read(cells[0])
    archval = plain_draw(ids(source["images"]), 4)
    for path, chosen in zip(paths, (False, True)):
        part = {
            **source,
            "images": [i for i in source["images"] if (i["id"] in archval) is chosen],
            "annotations": [
                a for a in source["annotations"] if (a["image_id"] in archval) is chosen
            ],
        }
        assert Path(path).read_text() == json.dumps(part, separators=(",", ":"))
