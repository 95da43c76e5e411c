"""Datasets in ImageNet's layout, against torchvision's ImageFolder."""

import os

import pytest
from image_folder import write_image_folder
from torchvision.datasets import ImageFolder

from crnas_d2.data import digits
from crnas_d2.data.catalog import setup_datasets
from crnas_d2.data.imagenet import list_images, register_image_folder

from detectron2.data import DatasetCatalog, MetadataCatalog

pytestmark = pytest.mark.usefixtures("catalogs")


@pytest.fixture
def root(tmp_path):
    return write_image_folder(tmp_path / "train")


@pytest.fixture
def classifier_cfg(cfg, tmp_path, root):
    write_image_folder(tmp_path / "val", images=2)
    cfg.MODEL.META_ARCHITECTURE = "ImageClassifier"
    folders = [[f"colors_{split}", str(tmp_path / split)] for split in ("train", "val")]
    cfg.DATASETS.IMAGE_FOLDERS = folders
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("colors_train",), ("colors_val",)
    return cfg


def clutter(root):
    """What may lie beside images without being one."""
    for path in ("red/._0.jpg", "red/notes.txt", ".cache/0.jpg", "LOC_synset_mapping.jpg"):
        os.makedirs(os.path.dirname(os.path.join(root, path)), exist_ok=True)
        open(os.path.join(root, path), "w").close()


def test_images_and_labels_are_those_of_torchvision(root):
    os.rename(f"{root}/red/0.jpg", f"{root}/red/0.JPEG")
    expected = ImageFolder(root)
    register_image_folder("colors", root)
    loaded = DatasetCatalog.get("colors")
    assert [(d["file_name"], d["label"]) for d in loaded] == expected.samples
    assert MetadataCatalog.get("colors").thing_classes == expected.classes
    clutter(root)
    assert DatasetCatalog.get("colors") == loaded


def test_faults_are_named(tmp_path, root):
    with pytest.raises(FileNotFoundError, match="no folder .*nowhere; .*DETECTRON2_DATASETS"):
        list_images(str(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty: 1 fault:\n  no folder in it"):
        list_images(str(tmp_path / "empty"))
    for name in ("amber", "zinc"):
        (tmp_path / "train" / name).mkdir()
    (tmp_path / "train" / "amber" / "0.txt").touch()
    with pytest.raises(ValueError, match="(?s)train: 2 faults:.*'amber' has no .*'zinc' has no"):
        list_images(root)


def test_nothing_is_read_before_first_use(tmp_path):
    register_image_folder("later", str(tmp_path / "later"))
    write_image_folder(tmp_path / "later")
    assert len(DatasetCatalog.get("later")) == 12


def test_name_stands_for_one_folder(tmp_path, root):
    register_image_folder("colors", root)
    register_image_folder("colors", os.path.join(root, "..", "train"))
    with pytest.raises(ValueError, match="'colors' is taken.*of .*elsewhere"):
        register_image_folder("colors", str(tmp_path / "elsewhere"))
    with pytest.raises(ValueError, match="'voc_2007_val' is taken"):
        register_image_folder("voc_2007_val", root)


def test_config_registers_and_counts(classifier_cfg):
    setup_datasets(classifier_cfg)
    setup_datasets(classifier_cfg)
    assert classifier_cfg.MODEL.CLASSIFIER.NUM_CLASSES == 3
    assert classifier_cfg.MODEL.CLASS_NAMES == ["blue", "green", "red"]
    assert len(DatasetCatalog.get("colors_train")) == 12
    assert len(DatasetCatalog.get("colors_val")) == 6


def test_train_and_val_must_have_the_same_classes(classifier_cfg, tmp_path):
    os.rename(tmp_path / "val" / "green", tmp_path / "val" / "gray")
    with pytest.raises(ValueError) as error:
        setup_datasets(classifier_cfg)
    for part in (str(tmp_path / "train"), str(tmp_path / "val"), "index 1", "'green' and 'gray'"):
        assert part in str(error.value)


@pytest.mark.parametrize("entry", [["colors"], ["colors", ""], "colors", ["colors", "a", "b"]])
def test_config_entry_of_another_form(classifier_cfg, entry):
    classifier_cfg.DATASETS.IMAGE_FOLDERS = [entry]
    with pytest.raises(ValueError, match=r"DATASETS.IMAGE_FOLDERS\[0\] is .*expected two texts"):
        setup_datasets(classifier_cfg)


def test_task_of_the_model_and_of_the_data(classifier_cfg, cfg):
    classifier_cfg.DATASETS.TEST = ("voc_2007_test",)
    with pytest.raises(ValueError, match="'voc_2007_test' is for detection.*'ImageClassifier'"):
        setup_datasets(classifier_cfg)
    classifier_cfg.DATASETS.TEST = ("colors_val",)
    classifier_cfg.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
    with pytest.raises(ValueError, match="'colors_train' is for classification.*'Generalized"):
        setup_datasets(classifier_cfg)


def test_imagenet_is_expected_where_detectron2_has_its_data(cfg):
    root = os.path.join(
        os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets")), "imagenet"
    )
    for split in ("train", "val"):
        assert MetadataCatalog.get(f"imagenet_{split}").dirname == os.path.join(root, split)


def test_crops_of_digits(monkeypatch, tmp_path):
    pytest.importorskip("sklearn")
    tiny = digits.DigitsRecipe(num_scenes=(3, 2), num_crops=(2, 1))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    monkeypatch.setitem(digits.RECIPES, "digits", tiny)
    for name in (f"digits_{part}{split}" for part in ("", "crops_") for split in digits.SPLITS):
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    digits.register_digits()
    for split, crops in (("train", 2), ("val", 1)):
        loaded = DatasetCatalog.get(f"digits_crops_{split}")
        assert [d["label"] for d in loaded] == [digit for digit in range(10) for _ in range(crops)]
        assert MetadataCatalog.get(f"digits_crops_{split}").thing_classes == list("0123456789")
        assert loaded[0]["file_name"].startswith(str(tmp_path))
