"""The predictor: Detectron2's detections, from all that a search or a training leaves."""

import os

import pytest
import torch
from sklearn.datasets import load_sample_image
from thin_detector import write_detector

from crnas_d2.config import configs_dir, read_config
from crnas_d2.engine.predicting import Predictor, name_classes, read_trained

from detectron2.data import MetadataCatalog
from detectron2.engine import DefaultPredictor

FASTER = "COCO-Detection/faster_rcnn_CR_R_50_FPN_1x.yaml"
NAMES = ["cat", "\u732b", "dog $1"]


def assert_equal(found, expected):
    assert found.get_fields().keys() == expected.get_fields().keys() and len(expected) > 0
    for name, values in expected.get_fields().items():
        values, others = (getattr(x, "tensor", x) for x in (values, found.get(name)))
        assert torch.equal(values, others), name


@pytest.mark.parametrize("order", ["BGR", "RGB"])
@pytest.mark.parametrize(
    "base",
    [
        FASTER,
        "COCO-Detection/retinanet_CR_R_50_FPN_1x.yaml",
        "COCO-InstanceSegmentation/mask_rcnn_CR_R_50_FPN_1x.yaml",
    ],
)
def test_detections_are_those_of_detectron2(tmp_path, base, order):
    opts = ["INPUT.FORMAT", order, "MODEL.INIT.SETTINGS", "ignore"]
    cfg = read_config(write_detector(tmp_path, base, NAMES), opts)
    image = load_sample_image("china.jpg")[:, :, ::-1]
    expected = DefaultPredictor(cfg)(image)["instances"]
    predictor = Predictor(cfg)
    for _ in range(2):
        assert_equal(predictor(image)["instances"], expected)
    assert predictor.class_names == NAMES


def test_images_are_read_as_the_weights_need_it(tmp_path):
    """Where the config takes the weights' settings, images too have their order of the channels."""
    path = write_detector(tmp_path, FASTER, NAMES)
    swapped = read_config(path, ["INPUT.FORMAT", "BGR", "MODEL.INIT.SETTINGS", "take"])
    image = load_sample_image("china.jpg")[:, :, ::-1]
    expected = Predictor(read_config(path))(image)["instances"]
    predictor = Predictor(swapped)
    assert predictor.cfg.INPUT.FORMAT == "RGB"
    assert_equal(predictor(image)["instances"], expected)


@pytest.fixture
def training(tmp_path):
    """The folder of a training, which was made elsewhere."""
    made = tmp_path / "made"
    made.mkdir()
    cfg = read_config(write_detector(made, FASTER, NAMES))
    (made / "config.yaml").write_text(cfg.dump(), encoding="utf-8")
    (made / "detector.yaml").unlink()
    return made.rename(tmp_path / "moved")


def test_folder_of_a_training_is_read_with_its_last_checkpoint(training, monkeypatch):
    monkeypatch.chdir(training.parent)
    cfg = read_trained("moved", ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.1])
    assert cfg.MODEL.WEIGHTS == "moved/model_final.pth"
    assert cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST == 0.1
    assert Predictor(cfg).class_names == NAMES
    other = read_trained("moved", ["MODEL.WEIGHTS", "other.pth"])
    assert other.MODEL.WEIGHTS == "other.pth"


def test_folder_of_a_search_is_read_by_its_final_yaml(training, monkeypatch):
    cfg = read_config(str(training / "config.yaml"))
    cfg.MODEL.WEIGHTS = "final/model_final.pth"
    (training / "final.yaml").write_text(cfg.dump(), encoding="utf-8")
    (training / "final").mkdir()
    (training / "model_final.pth").rename(training / "final" / "model_final.pth")
    monkeypatch.chdir(training.parent)
    found = read_trained("moved")
    assert os.path.samefile(found.MODEL.WEIGHTS, training / "final" / "model_final.pth")
    assert Predictor(found).class_names == NAMES
    monkeypatch.setenv("FOLDER", "moved")
    assert read_trained("$FOLDER") == found


def test_folder_of_neither(training):
    (training / "model_final.pth").unlink()
    (training / "last_checkpoint").unlink()
    for folder in (training, training.parent):
        with pytest.raises(FileNotFoundError, match=f"{folder}: expected final.yaml, as a search"):
            read_trained(str(folder))
    with pytest.raises(FileNotFoundError, match="absent"):
        read_trained(str(training / "absent"))


def test_folder_of_a_search_with_several_budgets(tmp_path):
    final = tmp_path / "budget_5" / "final.yaml"
    final.parent.mkdir()
    final.touch()
    with pytest.raises(FileNotFoundError, match=f"; there is one in {final.parent}$"):
        read_trained(str(tmp_path))


def test_number_and_names_of_classes_come_from_the_checkpoint(tmp_path):
    path = write_detector(tmp_path, FASTER, NAMES)
    cfg = read_config(path, ["MODEL.ROI_HEADS.NUM_CLASSES", 80, "MODEL.CLASS_NAMES", []])
    predictor = Predictor(cfg)
    assert predictor.class_names == NAMES
    assert predictor.cfg.MODEL.ROI_HEADS.NUM_CLASSES == 3
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 80  # it is the caller's


def test_names_of_classes_where_the_model_has_none():
    cfg = read_config(os.path.join(configs_dir(), FASTER))
    assert name_classes(cfg)[:2] == ["person", "bicycle"]  # of COCO, which it is tested on
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 2
    assert name_classes(cfg) == ["class 0", "class 1"]
    cfg.DATASETS.TEST = ("of_another_machine",)
    assert name_classes(cfg) == ["class 0", "class 1"]
    assert "of_another_machine" not in MetadataCatalog
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.RETINANET.NUM_CLASSES = "RetinaNet", 1
    assert name_classes(cfg) == ["class 0"]


@pytest.mark.parametrize(
    "base, opts, error, message",
    [
        ("Supernet/stage_supernet_R_50_FPN.yaml", [], ValueError, "a supernet, which is many"),
        (FASTER, ["MODEL.WEIGHTS", ""], ValueError, "MODEL.WEIGHTS is empty"),
        (FASTER, ["MODEL.WEIGHTS", "absent.pth"], FileNotFoundError, "absent.pth"),
        (
            FASTER,
            ["MODEL.META_ARCHITECTURE", "PanopticFPN"],
            ValueError,
            "gives instances, sem_seg, panoptic_seg",
        ),
        (FASTER, ["MODEL.META_ARCHITECTURE", "ImageClassifier"], ValueError, "gives classes"),
        (FASTER, ["MODEL.ROI_HEADS.NAME", "RROIHeads"], ValueError, "rotated boxes"),
        (FASTER, ["MODEL.CR.STAGE_CODE", [3, 4, 6, 3]], ValueError, "of another model than"),
    ],
)
def test_what_is_refused(tmp_path, base, opts, error, message):
    cfg = read_config(write_detector(tmp_path, base), opts)
    with pytest.raises(error, match=message):
        Predictor(cfg)


def test_weights_that_do_not_fill_the_model(tmp_path):
    cfg = read_config(write_detector(tmp_path, FASTER))
    state = torch.load(cfg.MODEL.WEIGHTS)["model"]
    backbone = {name: tensor for name, tensor in state.items() if name.startswith("backbone.")}
    torch.save({"model": backbone}, tmp_path / "backbone.pth")
    cfg.MODEL.WEIGHTS = str(tmp_path / "backbone.pth")
    cfg.MODEL.INIT.SOURCE = "torchvision"
    with pytest.raises(ValueError, match="have no values for .* such as proposal_generator"):
        Predictor(cfg)


def test_config_of_a_training_with_mixed_precision_predicts_on_the_cpu(tmp_path):
    cfg = read_config(write_detector(tmp_path, FASTER), ["SOLVER.AMP.ENABLED", True])
    assert Predictor(cfg).class_names == ["a", "b", "c"]
