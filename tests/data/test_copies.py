"""Near-copies between the parts of a search: which are found, what is written and said of them."""

import csv
import logging
import os
import shutil

import pytest
from made_copies import COPIES, make_image

from crnas_d2.data import copies
from crnas_d2.data.catalog import setup_datasets
from crnas_d2.data.copies import COPIES_FILE, copies_between_parts, foretell_copies, tell_copies

pytestmark = pytest.mark.usefixtures("catalogs")
IMAGES = {
    "archtrain": {"a.png": (0, "same"), "b.png": (1, "same"), "c.png": (2, "same")},
    "archval": {"a.jpg": (0, "mirrored"), "d.png": (3, "same"), "e.png": (4, "same")},
    "val": {
        "b.png": (1, "same"),
        "d.png": (3, "bright"),
        "e.jpg": (4, "jpeg"),
        "f.png": (5, "same"),
    },
}


@pytest.fixture
def cfg(cfg, write_coco, tmp_path):
    """A search with its own parts, whose images are copies of each other."""
    cfg.DATASETS.CACHE_DIR = str(tmp_path / "cache")
    for part, images in IMAGES.items():
        root = tmp_path / part
        root.mkdir()
        for name, (seed, kind) in images.items():
            COPIES[kind](make_image(seed)).save(root / name)
        names = iter(images)

        def name_images(coco):
            for image, name in zip(coco["images"], names):
                image.update(file_name=name, width=160, height=120)

        json_file, _ = write_coco(part, len(images), name_images)
        cfg.DATASETS.COCO_JSON.append([f"made_{part}", str(json_file), str(root)])
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("made_archtrain",), ("made_archval",)
    setup_datasets(cfg)
    return cfg


@pytest.fixture
def final_cfg(cfg):
    final = cfg.clone()
    final.DATASETS.TRAIN, final.DATASETS.TEST = ("made_archtrain",), ("made_val",)
    setup_datasets(final)
    return final


def as_counts(comparisons):
    return {(c.part, c.other): (c.with_copy, c.images) for c in comparisons}


def test_each_part_is_compared_with_those_before_it(cfg, final_cfg):
    found = copies_between_parts(cfg, final_cfg)
    assert as_counts(found) == {
        ("archval", "archtrain"): (1, 3),
        ("test", "archtrain"): (1, 4),
        ("test", "archval"): (2, 4),
    }
    assert as_counts(copies_between_parts(cfg, None)) == {("archval", "archtrain"): (1, 3)}
    (mirrored,), (same,), (bright, jpeg) = (comparison.copies for comparison in found)
    assert mirrored.mirrored and not mirrored.same_bytes
    assert same.same_bytes and same.distance == 0 and not same.mirrored
    names = [(os.path.basename(c.image), os.path.basename(c.original)) for c in (bright, jpeg)]
    assert names == [("d.png", "d.png"), ("e.jpg", "e.png")]
    assert not bright.same_bytes and not jpeg.same_bytes


def test_pairs_are_in_a_file(cfg, final_cfg, tmp_path, caplog):
    comparisons = copies_between_parts(cfg, final_cfg)
    with caplog.at_level(logging.INFO, "crnas_d2.data.copies"):
        tell_copies(comparisons, str(tmp_path / "output"))
    (record,) = caplog.records
    path = tmp_path / "output" / COPIES_FILE
    assert record.levelname == "WARNING"
    assert record.message == (
        "1 of 3 images of archval have a near-copy in archtrain; 1 of 4 images of test have a "
        "near-copy in archtrain; 2 of 4 images of test have a near-copy in archval: results there "
        f"are better than on images that are new. The pairs are in {path}"
    )
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["part"], row["other_part"]) for row in rows] == [
        *[("archval", "archtrain"), ("test", "archtrain")],
        *[("test", "archval")] * 2,
    ]
    assert rows[1]["image"] == str(tmp_path / "val" / "b.png")
    assert rows[1]["original"] == str(tmp_path / "archtrain" / "b.png")
    assert rows[1]["distance"] == "0" and float(rows[1]["likeness"]) == pytest.approx(1)
    assert [row["same_bytes"] for row in rows] == ["False", "True", "False", "False"]


def test_without_copies_the_log_file_says_so(cfg, tmp_path, caplog):
    shutil.copy(tmp_path / "val" / "f.png", tmp_path / "archval" / "a.jpg")
    with caplog.at_level(logging.DEBUG, "crnas_d2.data.copies"):
        tell_copies(copies_between_parts(cfg, None), str(tmp_path / "output"))
    (record,) = caplog.records
    assert record.levelname == "DEBUG"
    assert record.message == "No near-copies of images were found between archtrain, archval"
    assert len((tmp_path / "output" / COPIES_FILE).read_text().splitlines()) == 1


def test_a_second_look_reads_nothing(cfg, final_cfg, monkeypatch):
    found = copies_between_parts(cfg, final_cfg)
    copies._compare.cache_clear()  # as in a new process
    monkeypatch.setattr("crnas_d2.data.image_fingerprints.fingerprint", None)
    assert copies_between_parts(cfg, final_cfg) == found


def test_a_changed_image_is_read_again(cfg, tmp_path):
    assert as_counts(copies_between_parts(cfg, None)) == {("archval", "archtrain"): (1, 3)}
    shutil.copy(tmp_path / "archtrain" / "c.png", tmp_path / "archval" / "d.png")
    assert as_counts(copies_between_parts(cfg, None)) == {("archval", "archtrain"): (2, 3)}


def test_images_that_cannot_be_read_are_passed_over(cfg, tmp_path):
    (tmp_path / "archval" / "d.png").write_bytes(b"no image")
    (tmp_path / "archval" / "e.png").unlink()
    assert as_counts(copies_between_parts(cfg, None)) == {("archval", "archtrain"): (1, 1)}


def test_images_that_are_cut_off_are_told(cfg, tmp_path, caplog):
    for name, seed in (("a.jpg", 0), ("e.png", 4)):
        path = tmp_path / "archval" / name
        make_image(seed).save(path)
        path.write_bytes(path.read_bytes()[:-2000])
    (tmp_path / "archtrain" / "b.png").write_bytes(b"no image")  # which the look at headers tells
    copies_between_parts(cfg, None)
    copies_between_parts(cfg, None)
    (told,) = (r.getMessage() for r in caplog.records if r.levelno == logging.WARNING)
    assert told.startswith(
        "image with damage behind its header, at which a training or a test ends (2 times: "
        f"{tmp_path}/archval/a.jpg cannot be read: "
    )


def test_one_file_in_both_parts_is_no_copy(cfg, tmp_path):
    for name in ("a.jpg", "d.png"):
        (tmp_path / "archval" / name).unlink()
    os.symlink(tmp_path / "archtrain" / "a.png", tmp_path / "archval" / "d.png")
    assert as_counts(copies_between_parts(cfg, None)) == {("archval", "archtrain"): (0, 2)}


def test_key_turns_it_off(cfg, final_cfg):
    cfg.DATASETS.NEAR_COPIES = False
    assert copies_between_parts(cfg, final_cfg) == ()
    assert foretell_copies(cfg, final_cfg) == ""


def test_datasets_that_are_not_there(cfg, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg.DATASETS.TRAIN = ("coco_2017_archtrain",)
    assert copies_between_parts(cfg, None) == () and foretell_copies(cfg, None) == ""
    cfg.DATASETS.TRAIN = ("nowhere_archtrain",)
    assert copies_between_parts(cfg, None) == () and foretell_copies(cfg, None) == ""


def test_a_dry_run_looks_if_that_is_fast(cfg, final_cfg, monkeypatch):
    monkeypatch.setattr(copies, "MOST_NEW_IMAGES", 9)
    expected = "Near-copies will be looked for in 10 images"
    assert foretell_copies(cfg, final_cfg) == expected
    copies_between_parts(cfg, None)
    assert "2 of 4 images of test have" in foretell_copies(cfg, final_cfg)
