"""What is refused is what Detectron2's mapper ends on, or reads as something else."""

import os
import shlex
import subprocess
import sys

import numpy as np
import pytest
from iopath.common.file_io import LazyPath
from listed_images import errors, good, save_jpeg
from PIL import Image
from voc_layout import CLASSES, edit_xml, write_voc_dir

from crnas_d2.data import setup_datasets
from crnas_d2.data.image_check import check_images, look_at_images
from crnas_d2.engine.setup import check_datasets

from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

pytestmark = pytest.mark.usefixtures("nothing_is_known")


def ends_the_mapper(cfg):
    """Ids of the images that Detectron2's mapper does not take."""
    mapper = DatasetMapper(cfg, is_train=True, augmentations=[])
    ended = []
    for image in DatasetCatalog.get("cells"):
        try:
            mapper(image)
        except Exception:
            ended.append(image["image_id"])
    return ended


def test_good_images_are_taken(dataset, cfg):
    dataset(good(), good(), good())
    check_images(cfg)
    assert ends_the_mapper(cfg) == []


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(24, 16), (16, 24), (24, 17)])
def test_sizes_with_orientations(dataset, cfg, orientation, size):
    """The file is 24 x 16 before any turn."""
    root = dataset("a.jpg", sizes={1: size})
    save_jpeg(root / "a.jpg", (24, 16), orientation)
    found = errors(cfg)
    assert len(found) == len(ends_the_mapper(cfg))
    is_turned = orientation >= 5
    assert (not found) == (size == ((16, 24) if is_turned else (24, 16)))
    if found:
        assert f"says {size[0]} x {size[1]}" in found[0]
        assert (f"EXIF data (orientation {orientation})" in found[0]) == (
            is_turned and size == (24, 16)
        )
        assert ("the other way round" in found[0]) == (not is_turned and size == (16, 24))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(24, 16), (16, 24)])
def test_tiffs_with_orientations(dataset, cfg, orientation, size):
    root = dataset("a.tif", sizes={1: size})
    save_jpeg(root / "a.tif", (24, 16), orientation)
    on_its_head = orientation in (6, 8)
    assert bool(errors(cfg)) == (bool(ends_the_mapper(cfg)) or on_its_head)


def test_the_exif_message(dataset, cfg, tmp_path):
    root = dataset("a.jpg", "b.jpg")
    for name in ("a.jpg", "b.jpg"):
        save_jpeg(root / name, (24, 16), 6)
    first, second = errors(cfg)
    assert first == (
        f"image 1: {root}/a.jpg has 16 x 24 pixels, and the dataset says 24 x 16: Detectron2 turns it "
        "by its EXIF data (orientation 6), and the dataset has the size before that. If its boxes "
        "too are of the image before: exiftool -overwrite_original -Orientation= "
        f"{root}/a.jpg (that of the file's EXIF data goes, no pixel changes); if they are of the "
        "turned image, exchange width and height in the dataset"
    )
    assert second.endswith("the dataset has the size before that")


def run_command_of(error):
    command = error[error.index('python -c "') :]
    program, *args = shlex.split(command)
    subprocess.run([sys.executable, *args], check=True)


@pytest.mark.parametrize("mode", ["I;16", "I"])
def test_images_that_turn_white_and_the_command_that_mends_them(dataset, cfg, mode):
    values = np.full((16, 24), 20000, np.uint16)
    values[:, :9] = 65535
    root = dataset("a.tif", good(), "c.tif")
    for name in ("a.tif", "c.tif"):
        image = Image.fromarray(values if mode == "I;16" else values.astype(np.int32))
        image.save(root / name)
    first, second = errors(cfg)
    assert first.startswith(f"image 1: {root}/a.tif has values from 20000 to 65535 (mode {mode})")
    assert "python" in first and "python" not in second
    run_command_of(first)
    (third,) = errors(cfg)
    assert third.startswith(f"image 3: {root}/c.tif")
    run_command_of(first.replace("a.tif", "c.tif"))
    assert errors(cfg) == []
    image = DatasetMapper(cfg, is_train=False, augmentations=[])(DatasetCatalog.get("cells")[0])
    assert np.unique(image["image"].numpy()).tolist() == [20000 // 257, 255]


def test_the_command_for_a_tiff_that_stands_on_its_head(dataset, cfg):
    root = dataset("a.tif", sizes={1: (16, 24)})
    save_jpeg(root / "a.tif", (24, 16), 6)
    (error,) = errors(cfg)
    assert "on its head" in error
    run_command_of(error)
    assert errors(cfg) == ends_the_mapper(cfg) == []


def test_missing_files_and_what_is_no_image(dataset, cfg, caplog):
    root = dataset("a.jpg", good(), "c.jpg", "d.jpg", "e\0.jpg", *["f.jpg"] * 3)
    (root / "c.jpg").write_text("<html>")
    (root / "d.jpg").mkdir()
    with pytest.raises(ValueError) as error:
        check_images(cfg)
    head, *lines = str(error.value).splitlines()
    assert head.endswith("cells.json: 7 faults, the first 5:")
    assert lines[0].strip() == f"image 1: there is no file {root}/a.jpg"
    assert lines[1].strip() == f"image 3: {root}/c.jpg is no image that Pillow can read"
    assert lines[2].strip().startswith(f"image 4: {root}/d.jpg cannot be read: ")
    assert len(lines) == 5
    assert ends_the_mapper(cfg) == [1, 3, 4, 5, 6, 7, 8]


def test_names_with_the_backslashes_of_windows(dataset, cfg):
    root = dataset("cells\\a.jpg", "cells\\b.jpg")
    first, second = errors(cfg)
    assert first == (
        f"image 1: there is no file {root}/cells\\a.jpg. Its name has backslashes, as on Windows; here / "
        "stands between folders"
    )
    assert second == f"image 2: there is no file {root}/cells\\b.jpg"


@pytest.mark.parametrize("way", ["header", "decode"])
def test_an_image_that_is_cut_off(dataset, cfg, way):
    root = dataset("a.jpg", good(), way=way)
    noise = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    Image.fromarray(noise).save(root / "a.jpg")
    content = (root / "a.jpg").read_bytes()
    (root / "a.jpg").write_bytes(content[:-200])
    assert ends_the_mapper(cfg) == [1]
    assert [error[:8] for error in errors(cfg)] == (["image 1:"] if way == "decode" else [])
    cfg.DATASETS.CHECK_IMAGES = "decode"  # what is known of the header is not enough
    assert len(errors(cfg)) == 1


def test_an_orientation_that_the_size_does_not_tell_is_a_warning(dataset, cfg, caplog):
    root = dataset("a.jpg", "b.jpg", "c.jpg", sizes={2: (16, 16), 3: (16, 24)})
    for name, size, orientation in (("a", (24, 16), 3), ("b", (16, 16), 6), ("c", (24, 16), 6)):
        save_jpeg(root / f"{name}.jpg", size, orientation)
    check_images(cfg)
    (message,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert f"(2 times: {root}/a.jpg, {root}/b.jpg)" in message


def test_nothing_is_looked_at_if_the_key_says_so(dataset, cfg):
    dataset("a.jpg", way="none")
    assert errors(cfg) == []


@pytest.mark.parametrize("way", ["", "headers", "Decode"])
def test_other_values_of_the_key(dataset, cfg, way):
    dataset(good(), way=way)
    with pytest.raises(ValueError, match=f"DATASETS.CHECK_IMAGES is '{way}'; expected one of"):
        check_images(cfg)


def test_datasets_of_other_kinds(cfg, tmp_path):
    root = tmp_path / "classes"
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        good().save(root / name / "1.png")
    (root / "dog" / "2.png").write_text("no image")
    cfg.DATASETS.CACHE_DIR = str(tmp_path / "cache")
    cfg.DATASETS.IMAGE_FOLDERS = [["animals", str(root)]]
    cfg.MODEL.META_ARCHITECTURE = "ImageClassifier"
    cfg.DATASETS.TRAIN = ("animals",)
    setup_datasets(cfg)
    assert errors(cfg) == [f"{root}/dog/2.png is no image that Pillow can read"]
    images = [
        {"file_name": str(root / "cat" / "1.png"), "image_id": "x", "width": 24, "height": 17},
        {"file_name": "s3://bucket/1.png", "image_id": "y", "width": 24, "height": 16},
        {"video": "frames that a mapper of the user reads"},
    ]
    DatasetCatalog.register("of_code", lambda: images)
    cfg.DATASETS.TRAIN = ("of_code",)
    (findings,) = look_at_images(cfg)
    assert findings.path == "of_code"
    assert [error[:8] for error in findings.errors] == ["image x:"]
    (warning,) = findings.describe_warnings()
    assert "no local file" in warning and warning.endswith("(s3://bucket/1.png)")


def test_parts_are_looked_at_in_their_source(write_coco, cfg, tmp_path, opened):
    json_file, root = write_coco("cells_train")
    cfg.DATASETS.COCO_JSON = [["cells_train", json_file, root]]
    cfg.DATASETS.CACHE_DIR = str(tmp_path / "cache")
    cfg.DATASETS.ARCHVAL.SIZE, cfg.DATASETS.ARCHVAL.DIR = 1, str(tmp_path)
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("cells_archtrain",), ("cells_archval",)
    setup_datasets(cfg)
    (findings,) = look_at_images(cfg)
    assert findings.path == json_file
    assert len(opened) == 4


def test_a_dataset_that_is_not_there(cfg, monkeypatch, tmp_path):
    register_coco_instances("nowhere", {}, str(tmp_path / "no.json"), str(tmp_path))
    cfg.DATASETS.TRAIN = ("nowhere",)
    with pytest.raises(FileNotFoundError):
        check_images(cfg)
    cfg.DATASETS.TEST = ("not_registered",)
    assert list(look_at_images(cfg, makes=False)) == []


def test_made_datasets_are_not_made_by_a_dry_run(cfg, monkeypatch, tmp_path):
    path = LazyPath(lambda: pytest.fail("made"))
    register_coco_instances("made", {}, "", str(tmp_path))
    MetadataCatalog.get("made").__dict__["json_file"] = path
    cfg.DATASETS.TRAIN = ("made",)
    assert list(look_at_images(cfg, makes=False)) == []


def test_a_training_looks_before_its_first_step(write_coco, cfg, tmp_path):
    json_file, root = write_coco("cells")
    Image.new("RGB", (30, 40)).save(os.path.join(root, "2.png"))
    cfg.DATASETS.COCO_JSON = [["cells", json_file, root]]
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("cells",)
    cfg.DATASETS.CACHE_DIR = str(tmp_path / "cache")
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    with pytest.raises(ValueError, match="2.png has 30 x 40 pixels.*other way round"):
        check_datasets(cfg, training=True)
    other, other_root = write_coco("others")
    cfg.DATASETS.COCO_JSON += [["others", other, other_root]]
    cfg.DATASETS.TEST = ("others",)
    check_datasets(cfg, training=False)  # an evaluation reads no other


def test_what_cannot_be_evaluated_is_told_before_images_are_looked_at(write_coco, cfg, tmp_path):
    """The loader may need the very package that is not there."""
    json_file, root = write_coco("cells")
    cfg.DATASETS.COCO_JSON = [["cells", json_file, root]]
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("cells",), ("of_code",)
    cfg.DATASETS.CACHE_DIR = str(tmp_path / "cache")
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    DatasetCatalog.register("of_code", lambda: pytest.fail("loaded"))
    MetadataCatalog.get("of_code").set(evaluator_type="none", thing_classes=["cup", "ball"])
    with pytest.raises(ValueError, match="evaluator_type"):
        check_datasets(cfg, training=True)


def test_voc_is_named_by_its_own_folder(cfg, tmp_path):
    voc = write_voc_dir(tmp_path / "voc")
    edit_xml("<ymax>30</ymax>", "<ymax>29.5</ymax>")(voc)  # a test reads it in a corrected copy
    Image.new("RGB", (30, 40)).save(voc / "JPEGImages" / "two.jpg")
    cfg.DATASETS.CACHE_DIR = str(tmp_path / "cache")
    cfg.DATASETS.VOC_DIRS = [["cells", str(voc), "val", 2007, CLASSES]]
    cfg.DATASETS.TEST = ("cells",)
    setup_datasets(cfg)
    assert str(tmp_path / "cache") in MetadataCatalog.get("cells").dirname
    (findings,) = look_at_images(cfg)
    assert findings.path == str(voc)
    assert [error[:10] for error in findings.errors] == ["image two:"]
