"""The embedded dataset, against scikit-learn's data and pycocotools."""

import json
import multiprocessing
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
from hanging import HANGS_S
from PIL import Image
from pycocotools.coco import COCO

from crnas_d2.data import digits
from crnas_d2.data.coco_json import SCORED_KEYS, validate_coco_json
from crnas_d2.data.digit_scenes import DigitSources, compose
from crnas_d2.data.digits import DigitsRecipe, crops_root, generate

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json

pytest.importorskip("sklearn")
SMALL = DigitsRecipe(num_scenes=(120, 60), num_crops=(4, 2))
TINY = DigitsRecipe(num_scenes=(3, 2), num_crops=(2, 1))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return Path(generate(str(tmp_path_factory.mktemp("datasets") / "digits"), SMALL))


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def annotations(root, split):
    return json.loads((root / "annotations" / f"instances_{split}.json").read_text())


def regions(root, split):
    """The squares of the photographs that the scenes of a split show: name, x0, x1."""
    photos = [image["photo"] for image in annotations(root, split)["images"]]
    return [(photo["name"], photo["x"], photo["x"] + photo["side"]) for photo in photos]


def test_same_bytes_every_time(tmp_path):
    for name in ("a", "b"):
        generate(str(tmp_path / name), TINY)
    first = contents(tmp_path / "a")
    assert first == contents(tmp_path / "b")
    assert len(first) == 1 + 2 + (3 + 2) + 10 * (2 + 1)


def test_more_scenes_leave_the_first_as_they_are(tmp_path, root):
    few, many = generate(str(tmp_path / "few"), TINY), root
    for i in range(3):
        name = Path("train", f"{i:08d}.png")
        assert (Path(few) / name).read_bytes() == (many / name).read_bytes()


def test_seed_changes_scenes(tmp_path, root):
    other = DigitsRecipe(num_scenes=(1, 1), num_crops=(1, 1), seed=1)
    path = Path(generate(str(tmp_path / "other"), other), "train", "00000000.png")
    assert path.read_bytes() != (root / "train" / "00000000.png").read_bytes()


@pytest.mark.parametrize("split, count", [("train", 120), ("val", 60)])
def test_valid_coco(root, split, count):
    json_file = root / "annotations" / f"instances_{split}.json"
    categories = validate_coco_json(
        str(json_file), str(root / split), {*SCORED_KEYS, "segmentation"}
    )
    assert list(categories.values()) == list("0123456789")
    coco = COCO(str(json_file))
    assert len(coco.imgs) == count == len(list((root / split).iterdir()))
    for image in coco.imgs.values():
        with Image.open(root / split / image["file_name"]) as opened:
            assert (opened.mode, opened.size) == ("RGB", (image["width"], image["height"]))
        assert 1 <= len(coco.getAnnIds(imgIds=image["id"])) <= SMALL.max_digits
    for annotation in coco.anns.values():
        rle = coco.annToRLE(annotation)
        assert annotation["bbox"] == mask_util.toBbox(rle).tolist()
        assert annotation["area"] == mask_util.area(rle) > 0


def test_masks_are_apart_and_cover_the_light_pixels(root):
    coco = COCO(str(root / "annotations" / "instances_train.json"))
    for image in coco.imgs.values():
        masks = [coco.annToMask(a) for a in coco.loadAnns(coco.getAnnIds(imgIds=image["id"]))]
        digits_seen = np.sum(masks, axis=0)
        assert digits_seen.max() == 1
        pixels = np.asarray(Image.open(root / "train" / image["file_name"]))
        # Photographs are halved, so every channel is below 128; a digit has 160 or more, and at
        # least half of that where its mask is.
        assert digits_seen[(pixels >= 160).all(axis=2)].mean() > 0.99
        assert pixels[digits_seen == 1].min() >= 80


def test_boxes_overlap_little(root):
    for split in ("train", "val"):
        coco = COCO(str(root / "annotations" / f"instances_{split}.json"))
        for image_id in coco.imgs:
            boxes = [a["bbox"] for a in coco.loadAnns(coco.getAnnIds(imgIds=image_id))]
            for i, (x, y, w, h) in enumerate(boxes):
                for u, v, s, t in boxes[:i]:
                    shared = max(0, min(x + w, u + s) - max(x, u)) * max(
                        0, min(y + h, v + t) - max(y, v)
                    )
                    # Boxes are of what is seen, so they may be a little smaller than when placed.
                    assert shared / min(w * h, s * t) < SMALL.max_overlap + 0.1


def test_scales_are_log_uniform(root):
    smallest, largest = SMALL.digit_sizes
    data = annotations(root, "train")["annotations"]
    sides = np.array([max(a["bbox"][2:]) for a in data])
    assert smallest - 2 <= sides.min() < 1.2 * smallest
    assert largest / 1.2 < sides.max() <= largest
    # Quarters of the logarithmic range hold about a quarter of the digits; large ones find no place
    # now and then.
    edges = np.geomspace(smallest, largest, 5)
    shares = np.histogram(sides.clip(smallest), edges)[0] / len(sides)
    assert np.abs(shares - 0.25).max() < 0.08
    areas = np.array([a["area"] for a in data])
    sizes = Counter(np.digitize(areas, [32**2, 96**2]).tolist())
    assert min(sizes[k] for k in range(3)) > 0.05 * len(areas)


def test_all_classes_occur_about_equally(root):
    counts = Counter(a["category_id"] for a in annotations(root, "train")["annotations"])
    assert sorted(counts) == list(range(1, 11))
    mean = sum(counts.values()) / 10
    assert all(0.5 * mean < count < 1.6 * mean for count in counts.values())


def test_splits_share_no_source(root):
    from sklearn.datasets import load_digits

    target = load_digits().target
    scans = {}
    for split in ("train", "val"):
        data = annotations(root, split)["annotations"]
        scans[split] = {a["scan"] for a in data}
        assert all(target[a["scan"]] == a["category_id"] - 1 for a in data)
    assert scans["train"].isdisjoint(scans["val"])
    assert {name for name, _, _ in regions(root, "train")} == {"china.jpg", "flower.jpg"}
    for name in ("china.jpg", "flower.jpg"):
        right_end = max(x1 for n, _, x1 in regions(root, "train") if n == name)
        left_end = min(x0 for n, x0, _ in regions(root, "val") if n == name)
        assert right_end <= left_end


def test_sources_of_a_split_are_all_that_compose_can_use():
    train, val = DigitSources("train", 0), DigitSources("val", 0)
    for own, other in zip(train.indices, val.indices):
        assert set(own).isdisjoint(other)
        assert len(other) == round(0.2 * (len(own) + len(other)))
    assert sum(map(len, train.indices)) + sum(map(len, val.indices)) == 1797
    assert all(p.width + val.photos[n].width == 640 for n, p in train.photos.items())


def test_background_is_the_region_it_names(root):
    from sklearn.datasets import load_sample_image

    for split in ("train", "val"):
        coco = annotations(root, split)
        for image in coco["images"][:10]:
            photo = image["photo"]
            x, y, side = photo["x"], photo["y"], photo["side"]
            square = load_sample_image(photo["name"])[y : y + side, x : x + side]
            shown = np.asarray(Image.open(root / split / image["file_name"]))
            size = shown.shape[:2]
            expected = np.asarray(Image.fromarray(square).resize(size, 2)) // 2
            hidden = np.ones(size, bool)
            hidden[4:-4, 4:-4] = False  # at its edges a square is mixed with what is beside it
            for a in coco["annotations"]:
                if a["image_id"] == image["id"]:
                    x0, y0, w, h = (int(v) for v in a["bbox"])
                    hidden[max(y0 - 3, 0) : y0 + h + 3, max(x0 - 3, 0) : x0 + w + 3] = True
            assert not hidden.all()
            errors = [
                np.abs(shown[~hidden].astype(int) - e[~hidden]).max()
                for e in (expected, expected[:, ::-1])
            ]
            assert min(errors) <= 1


def test_digit_without_room_is_left_out():
    sources = DigitSources("train", 0)
    wanted = [(0, 60), (8, 60), (0, 60), (8, 60)]
    scene = compose(sources, wanted, 64, 0.0, np.random.RandomState(0))
    assert 1 <= len(scene.digits) < 4
    assert scene.pixels.shape == (64, 64, 3) and scene.pixels.dtype == np.uint8


def test_crops_have_the_layout_of_imagenet(root):
    for split, count in (("train", 4), ("val", 2)):
        folder = root / "crops" / split
        assert sorted(p.name for p in folder.iterdir()) == list("0123456789")
        for class_folder in folder.iterdir():
            files = sorted(p.name for p in class_folder.iterdir())
            assert files == [f"{i:08d}.png" for i in range(count)]
            assert Image.open(class_folder / files[0]).size == (64, 64)
    datasets = pytest.importorskip("torchvision.datasets")
    assert Counter(datasets.ImageFolder(folder).targets) == dict.fromkeys(range(10), 2)


def test_nothing_is_generated_twice(root, monkeypatch):
    monkeypatch.setattr(digits, "_write", None)
    assert generate(str(root), SMALL) == str(root)


def test_interrupted_generation_is_repaired(tmp_path, monkeypatch):
    target = tmp_path / "digits"

    def die(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(digits, "_write_crops", die)
        with pytest.raises(KeyboardInterrupt):
            generate(str(target), TINY)
    assert (tmp_path / "digits.partial" / "train").is_dir()
    assert not target.exists()
    (tmp_path / "digits.partial" / "train" / "left_over.png").write_bytes(b"")
    generate(str(target), TINY)
    generate(str(tmp_path / "undisturbed"), TINY)
    assert contents(target) == contents(tmp_path / "undisturbed")
    assert not (tmp_path / "digits.partial").exists()


def test_processes_at_once_generate_once(tmp_path):
    target = str(tmp_path / "digits")
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=generate, args=(target, TINY)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(HANGS_S)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    generate(str(tmp_path / "alone"), TINY)
    assert contents(Path(target)) == contents(tmp_path / "alone")


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda d: (d / "manifest.json").unlink(), "is not a generated dataset"),
        (lambda d: (d / "manifest.json").write_text("{"), "is not JSON"),
        (lambda d: (d / "annotations" / "instances_val.json").unlink(), "No such file"),
        (
            lambda d: (d / "annotations" / "instances_val.json").write_text("{}"),
            "instances_val.json has been changed",
        ),
    ],
)
def test_damaged_folder_is_refused(tmp_path, damage, message):
    target = tmp_path / "digits"
    generate(str(target), TINY)
    damage(target)
    with pytest.raises(ValueError, match=message) as error:
        generate(str(target), TINY)
    assert str(target) in str(error.value) and "Remove the folder" in str(error.value)


def test_folder_of_another_recipe_or_version_is_refused(tmp_path, monkeypatch):
    target = str(tmp_path / "digits")
    generate(target, TINY)
    with pytest.raises(ValueError, match="'seed': 0.*expected.*'seed': 5"):
        generate(target, DigitsRecipe(num_scenes=(3, 2), num_crops=(2, 1), seed=5))
    monkeypatch.setattr(digits, "VERSION", digits.VERSION + 1)
    with pytest.raises(ValueError, match=f"expected.*'version': {digits.VERSION}"):
        generate(target, TINY)


@pytest.mark.parametrize(
    "change",
    [
        {"num_scenes": (0, 1)},
        {"num_crops": (1, 0)},
        {"crop_size": 8},
        {"digit_sizes": (4, 100)},
        {"digit_sizes": (50, 40)},
        {"digit_sizes": (16, 300)},
        {"max_digits": 0},
        {"max_overlap": 1.0},
    ],
)
def test_recipe_out_of_range(change):
    name = next(iter(change))
    with pytest.raises(ValueError, match=f"expected .*{name}"):
        DigitsRecipe(**change)


def test_crops_of_an_unknown_split():
    with pytest.raises(ValueError, match="not 'test'"):
        crops_root("test")


def test_without_scikit_learn(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"pip install 'crnas_d2\[digits\]'"):
        generate(str(tmp_path / "digits"), TINY)
    assert not (tmp_path / "digits").exists()


def test_registered_when_imported_and_generated_when_used(tmp_path):
    """In a process of its own, since registration happens once."""
    code = """
import os, crnas_d2
from unittest import mock
from detectron2.data import DatasetCatalog, MetadataCatalog
from crnas_d2.data import digits
meta = MetadataCatalog.get("digits_val")
assert meta.evaluator_type == "coco" and meta.thing_classes == list("0123456789")
assert not os.path.exists("digits")
small = digits.DigitsRecipe(num_scenes=(3, 2), num_crops=(2, 1))
with mock.patch.dict(digits.RECIPES, digits=small):
    assert [len(DatasetCatalog.get(f"digits_{split}")) for split in ("train", "val")] == [3, 2]
    first = DatasetCatalog.get("digits_train")[0]
    assert os.path.samefile(first["file_name"], "digits/train/00000000.png")
    assert os.path.samefile(meta.json_file, "digits/annotations/instances_val.json")
    assert digits.crops_root("val") == os.path.join(os.environ["DETECTRON2_DATASETS"], "digits", "crops", "val")
"""
    root = str(Path(__file__).parents[2])
    environment = {
        **os.environ,
        "DETECTRON2_DATASETS": str(tmp_path),
        "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]),
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_detectron2_reads_boxes_and_masks(root):
    name = "digits_read_by_detectron2"
    images = load_coco_json(
        str(root / "annotations" / "instances_val.json"), str(root / "val"), name
    )
    MetadataCatalog.remove(name)
    data = annotations(root, "val")["annotations"]
    found = [a for image in images for a in image["annotations"]]
    assert [a["category_id"] for a in found] == [a["category_id"] - 1 for a in data]
    assert [a["bbox"] for a in found] == [a["bbox"] for a in data]
    masks = [mask_util.decode(a["segmentation"]).sum() for a in found]
    assert masks == [a["area"] for a in data]


def test_names_are_registered():
    names = {f"{name}_{split}" for name in digits.RECIPES for split in digits.SPLITS}
    assert {"digits_train", "close_digits_val"} <= names <= set(DatasetCatalog.list())


def test_close_digits_fill_much_of_their_scenes(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    assert digits.is_missing("close_digits_train") and digits.is_missing("digits_archval")
    assert not digits.is_missing("own_train")
    few = replace(digits.RECIPES["close_digits"], num_scenes=(60, 10), num_crops=(1, 1))
    monkeypatch.setitem(digits.RECIPES, "close_digits", few)
    assert crops_root("val", "close_digits") == str(tmp_path / "close_digits" / "crops" / "val")
    assert not digits.is_missing("close_digits_train") and digits.is_missing("digits_archval")
    data = annotations(tmp_path / "close_digits", "train")
    assert {(image["height"], image["width"]) for image in data["images"]} == {(64, 64)}
    per_scene = Counter(a["image_id"] for a in data["annotations"])
    assert len(per_scene) == 60 and set(per_scene.values()) == {1, 2, 3}
    sides = [max(a["bbox"][2:]) for a in data["annotations"]]
    assert 40 <= max(sides) <= 44  # smaller ones may be partly covered
