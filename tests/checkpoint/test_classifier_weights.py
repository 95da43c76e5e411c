"""The weights of a trained classifier in a detector, and converted ones in a classifier."""

import logging

import pytest
import torch
from safetensors.torch import save_file
from test_checkpointer import SETTINGS

import crnas_d2
from crnas_d2.checkpoint import CRCheckpointer

from detectron2.modeling import build_model

DETECTOR = "COCO-Detection/faster_rcnn_CR_R_18_FPN_1x.yaml"


def thin(name, **changes):
    cfg = crnas_d2.get_config(name)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 8
    cfg.MODEL.RESNETS.NORM = cfg.MODEL.FPN.NORM = "BN"
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 16
    cfg.merge_from_list([entry for change in changes.items() for entry in change])
    return cfg


def save_classifier(folder, name, **changes):
    """A classifier's checkpoint as train_net.py leaves it, with tensors that can be told apart."""
    cfg = thin(name, **changes)
    torch.manual_seed(0)
    model = build_model(cfg)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_()
        else:
            tensor.random_(1, 100)
    CRCheckpointer(model, str(folder), cfg).save("model_final", iteration=9)
    return model, str(folder / "model_final.pth")


def load(cfg, path):
    model = build_model(cfg)
    CRCheckpointer(model, cfg.OUTPUT_DIR, cfg).resume_or_load(path, resume=False)
    return model


@pytest.fixture
def log(caplog):
    loggers = [logging.getLogger(name) for name in ("crnas_d2", "crnas_d2.checkpoint")]
    loggers[0].addHandler(caplog.handler)
    loggers[1].setLevel(logging.INFO)
    yield caplog
    loggers[0].removeHandler(caplog.handler)


def assert_same_tensors(loaded, saved):
    assert {**saved, **loaded}.keys() == saved.keys()
    assert {key for key in saved if "num_batches_tracked" not in key} <= loaded.keys()
    assert all(torch.equal(tensor, saved[key]) for key, tensor in loaded.items())


@pytest.mark.parametrize("freeze_at, norm", [(0, "BN"), (2, "BN"), (0, "FrozenBN"), (5, "SyncBN")])
def test_detector_takes_the_backbone(tmp_path, log, freeze_at, norm):
    classifier, path = save_classifier(tmp_path, "ImageNet/CR_R_18.yaml")
    cfg = thin(DETECTOR, **{"MODEL.BACKBONE.FREEZE_AT": freeze_at, "MODEL.RESNETS.NORM": norm})
    torch.manual_seed(1)
    fresh = build_model(cfg)
    torch.manual_seed(1)
    detector = load(cfg, path)
    assert_same_tensors(detector.backbone.bottom_up.state_dict(), classifier.backbone.state_dict())
    before = fresh.state_dict()
    for key, tensor in detector.state_dict().items():
        if ".bottom_up." not in key:
            assert torch.equal(tensor, before[key]), key
    assert "from model_final.pth: the backbone (stem, res2, res3, res4, res5)" in log.text
    assert "new, as model_final.pth has none: neck, proposal_generator, roi_heads" in log.text
    assert "not used of model_final.pth: linear" in log.text


@pytest.mark.parametrize("step", ["stage_supernet_R_18", "dilation_supernet_SCR_R_18"])
def test_supernet_detector_takes_the_backbone(tmp_path, step):
    classifier, path = save_classifier(tmp_path, f"Digits/classifier_{step}.yaml")
    detector = load(thin(f"Digits/{step}_FPN.yaml"), path)
    assert_same_tensors(detector.backbone.bottom_up.state_dict(), classifier.backbone.state_dict())


def test_features_are_those_of_the_classifier(tmp_path):
    classifier, path = save_classifier(tmp_path, "ImageNet/CR_R_18.yaml")
    detector = load(thin(DETECTOR), path).eval()
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        expected = classifier.eval().backbone(images)["res5"]
        assert torch.equal(detector.backbone.bottom_up(images)["res5"], expected)


def test_classifier_goes_on_as_a_classifier(tmp_path):
    saved, path = save_classifier(tmp_path, "ImageNet/CR_R_18.yaml")
    loaded = load(thin("ImageNet/CR_R_18.yaml"), path)
    assert_same_tensors(loaded.state_dict(), saved.state_dict())


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"MODEL.CR.STAGE_CODE": [2, 2, 2, 2]}, "missing .*bottom_up.res2.1.conv1.weight"),
        ({"MODEL.RESNETS.RES2_OUT_CHANNELS": 16}, r"another shape .*\(8, 8, 3, 3\) for \(16, 8"),
    ],
)
def test_backbone_of_another_network_is_an_error(tmp_path, changes, message):
    _, path = save_classifier(tmp_path, "ImageNet/SCR_R_18.yaml")
    cfg = thin(DETECTOR.replace("CR_", "SCR_"), **changes)
    with pytest.raises(ValueError, match=f"model_final.pth are of another backbone .*{message}"):
        load(cfg, path)


def test_weights_of_other_dilations_are_refused(tmp_path):
    _, path = save_classifier(tmp_path, "ImageNet/SCR_R_18.yaml")
    with pytest.raises(ValueError, match=r"dilations \[1, 1\] for \[2, 1\] in res4, .* MODEL.INIT"):
        load(thin(DETECTOR), path)


def test_a_classifier_has_the_backbone_of_a_detector(tmp_path, log):
    cfg = thin(DETECTOR)
    detector = build_model(cfg)
    CRCheckpointer(detector, str(tmp_path), cfg).save("model_final")
    classifier = load(thin("ImageNet/CR_R_18.yaml"), str(tmp_path / "model_final.pth"))
    assert_same_tensors(detector.backbone.bottom_up.state_dict(), classifier.backbone.state_dict())
    assert "new, as model_final.pth has none: linear, outputs of classes" in log.text


def test_converted_weights_fill_the_backbone_of_a_classifier(tmp_path):
    saved = build_model(thin("ImageNet/CR_R_18.yaml")).backbone.state_dict()
    saved = {key: tensor for key, tensor in saved.items() if "num_batches_tracked" not in key}
    path = str(tmp_path / "backbone.safetensors")
    save_file(saved, path, metadata={"format": "crnas_d2.backbone", **SETTINGS})
    loaded = load(thin("ImageNet/CR_R_18.yaml"), path).backbone.state_dict()
    assert all(torch.equal(loaded[key], tensor) for key, tensor in saved.items())


def c4(**changes):
    cfg = thin("COCO-Detection/faster_rcnn_CR_R_50_C4_1x.yaml", **changes)
    cfg.MODEL.CR = thin("ImageNet/CR_R_18.yaml").MODEL.CR
    return cfg


@pytest.mark.parametrize("norm", ["BN", "FrozenBN"])
def test_res5_goes_into_the_heads_of_a_c4_detector(tmp_path, norm):
    classifier, path = save_classifier(tmp_path, "ImageNet/CR_R_18.yaml")
    saved = {k: t for k, t in classifier.backbone.state_dict().items() if "num_batches" not in k}
    converted = str(tmp_path / "backbone.safetensors")
    save_file(saved, converted, metadata={"format": "crnas_d2.backbone", **SETTINGS})
    for file in (path, converted):
        torch.manual_seed(1)
        found = load(c4(**{"MODEL.RESNETS.NORM": norm}), file).state_dict()
        for key, tensor in saved.items():
            place = "roi_heads" if key.startswith("res5.") else "backbone"
            assert torch.equal(found[f"{place}.{key}"], tensor), key


def test_no_res5_of_a_c4_detector_stays_random(tmp_path):
    backbone = build_model(thin("ImageNet/CR_R_18.yaml")).backbone.state_dict()
    path = str(tmp_path / "backbone.safetensors")
    save_file(
        {key: t for key, t in backbone.items() if not key.startswith("res5.3")},
        path,
        metadata={"format": "crnas_d2.backbone", **SETTINGS},
    )
    with pytest.raises(ValueError, match="missing .roi_heads.res5.3.conv1.weight"):
        load(c4(), path)
