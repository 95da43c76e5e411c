"""What is refused is what Detectron2's mapper ends on, or reads as something else."""

import io
import json
import logging
import multiprocessing
import os
import shlex
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from iopath.common.file_io import LazyPath
from PIL import Image
from voc_layout import CLASSES, edit_xml, write_voc_dir

from crnas_d2.data import image_check, many_files, setup_datasets
from crnas_d2.data.image_check import check_images, look_at_images
from crnas_d2.engine.setup import check_datasets

from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

EXIF = 274


@pytest.fixture(autouse=True)
def nothing_is_known(catalogs):
    image_check._look.cache_clear()


@pytest.fixture
def dataset(cfg, tmp_path):
    """Registers a dataset, as user's own code does, of images 1, 2, ... that are given."""

    def register(*files, sizes=None, way="header"):
        root = tmp_path / "images"
        root.mkdir(exist_ok=True)
        images = []
        for number, file in enumerate(files, start=1):
            name = file if isinstance(file, str) else f"{number}.png"
            if not isinstance(file, str):
                file.save(root / name)
            size = (sizes or {}).get(number, (24, 16))
            images.append({"id": number, "file_name": name, "width": size[0], "height": size[1]})
        boxes = [
            {"id": i["id"], "image_id": i["id"], "category_id": 1, "bbox": [1, 1, 5, 5], "area": 25}
            | {"iscrowd": 0}
            for i in images
        ]
        content = {"images": images, "annotations": boxes}
        content["categories"] = [{"id": 1, "name": "cell"}]
        (tmp_path / "cells.json").write_text(json.dumps(content))
        if "cells" not in DatasetCatalog:
            register_coco_instances("cells", {}, str(tmp_path / "cells.json"), str(root))
        cfg.DATASETS.TRAIN = ("cells",)
        cfg.DATASETS.CACHE_DIR = str(tmp_path / "cache")
        cfg.DATASETS.CHECK_IMAGES = way
        return root

    return register


def good(size=(24, 16)):
    return Image.new("RGB", size, "red")


def errors(cfg):
    return [error for findings in look_at_images(cfg) for error in findings.errors]


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


def save_jpeg(path, size, orientation=1):
    exif = Image.Exif()
    exif[EXIF] = orientation
    good(size).save(path, exif=exif)


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


@pytest.fixture
def opened(monkeypatch):
    """The files whose headers are read."""
    paths = []

    def read_facts(path, decode):
        paths.append(os.path.basename(path))
        return original(path, decode)

    original = image_check.read_facts
    monkeypatch.setattr(image_check, "read_facts", read_facts)
    return paths


def test_an_image_is_opened_once(dataset, cfg, opened):
    root = dataset("a.jpg", "b.jpg", "a.jpg")
    for name in ("a.jpg", "b.jpg"):
        save_jpeg(root / name, (24, 16))
    for _ in range(2):
        check_images(cfg)
        image_check._look.cache_clear()  # as in a new process
    assert sorted(opened) == ["a.jpg", "b.jpg"]
    save_jpeg(root / "b.jpg", (24, 17))
    assert [error[:8] for error in errors(cfg)] == ["image 2:"]
    assert sorted(opened) == ["a.jpg", "b.jpg", "b.jpg"]


def test_faults_are_not_remembered(dataset, cfg, opened, monkeypatch):
    """A user's own plugin of Pillow may read the file the next time."""
    root = dataset("a.jpg", good())
    (root / "a.jpg").write_text("<html>")
    assert len(errors(cfg)) == len(errors(cfg)) == 1
    assert sorted(opened) == ["2.png", "a.jpg", "a.jpg"]


def test_links_to_one_file_are_looked_at_once(dataset, cfg, opened):
    root = dataset("a.jpg", "b.jpg")
    save_jpeg(root / "a.jpg", (24, 16))
    (root / "b.jpg").symlink_to(root / "a.jpg")
    check_images(cfg)
    assert opened == ["a.jpg"]


def test_a_folder_that_cannot_be_written(dataset, cfg, tmp_path, opened):
    dataset(good())
    (tmp_path / "file").touch()
    cfg.DATASETS.CACHE_DIR = str(tmp_path / "file" / "cache")
    for _ in range(2):
        check_images(cfg)
        image_check._look.cache_clear()
    assert opened == ["1.png", "1.png"]


def _check(cfg, seconds, looking):
    original = image_check.read_facts

    def read_facts(path, decode):
        looking.put(os.path.basename(path))
        time.sleep(seconds)
        return original(path, decode)

    image_check.read_facts = read_facts
    many_files.SECONDS_BETWEEN_COMMITS = 0.0
    image_check.THREADS = image_check.HEADERS_AT_ONCE = 1
    json_file, root = cfg.DATASETS.COCO_JSON[0][1:]
    register_coco_instances("cells", {}, json_file, root)
    check_images(cfg)


@pytest.fixture
def processes(cfg, tmp_path):
    spawn = multiprocessing.get_context("spawn")
    cfg.DATASETS.COCO_JSON = [
        ["cells", str(tmp_path / "cells.json"), str(tmp_path / "images")],
    ]
    looking = spawn.Queue()
    return lambda seconds: spawn.Process(target=_check, args=(cfg, seconds, looking)), looking


def test_one_process_looks_and_the_others_wait(dataset, cfg, processes, opened):
    dataset(*[good()] * 4)
    make, looking = processes
    process = make(0.3)
    process.start()
    assert looking.get(timeout=120) == "1.png"
    check_images(cfg)
    assert opened == []
    process.join(120)
    assert process.exitcode == 0


def test_a_look_that_was_killed_goes_on(dataset, cfg, processes, opened):
    dataset(*[good()] * 6)
    make, looking = processes
    process = make(0.3)
    process.start()
    for _ in range(4):  # three of them were seen
        looking.get(timeout=120)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    check_images(cfg)
    assert sorted(opened) in [[f"{i}.png" for i in range(first, 7)] for first in (3, 4)]


def test_no_thread_is_left(dataset, cfg):
    before = threading.active_count()
    dataset(*[good()] * 3)
    check_images(cfg)
    assert threading.active_count() == before


@pytest.mark.parametrize("is_terminal", [False, True])
def test_the_bar_is_for_terminals(dataset, cfg, monkeypatch, caplog, is_terminal):
    stream = io.StringIO()
    stream.isatty = lambda: is_terminal
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(many_files, "SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.setattr(many_files, "SECONDS_BEFORE_BAR", 0.0)
    dataset(good())
    with caplog.at_level(logging.INFO):
        check_images(cfg)
    assert ("Looking at images" in stream.getvalue()) == is_terminal
    lines = [record.getMessage() for record in caplog.records]
    assert ("Looking at images: 1 of 1" in lines) == (not is_terminal)


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
