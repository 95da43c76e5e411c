"""The checkpointer against the tensors that went into the file."""

import pickle

import pytest
import torch
from safetensors.torch import save_file

import crnas_d2
from crnas_d2.checkpoint import CRCheckpointer
from crnas_d2.checkpoint.same_model import check_same_model
from crnas_d2.modeling import CRResNet

from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone

SETTINGS = {
    "input_format": "RGB",
    "pixel_mean": "[123.675, 116.28, 103.53]",
    "pixel_std": "[58.395, 57.12, 57.375]",
}


class Detector(torch.nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.backbone = build_backbone(cfg, ShapeSpec(channels=3))


@pytest.fixture
def cfg():
    cfg = crnas_d2.get_config("COCO-Detection/faster_rcnn_CR_R_18_FPN_1x.yaml")
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 8
    return cfg


def save_backbone(path, stage_code=(1, 1, 2, 4), width=8, drop=(), add=()):
    torch.manual_seed(7)
    backbone = CRResNet(stage_code, block="basic", stem_out_channels=width, res2_out_channels=width)
    state_dict = {
        key: torch.rand_like(tensor)
        for key, tensor in backbone.state_dict().items()
        if not key.endswith("num_batches_tracked") and key not in drop
    }
    state_dict.update({key: torch.zeros(1) for key in add})
    save_file(state_dict, path, metadata={"format": "crnas_d2.backbone", **SETTINGS})
    return state_dict


@pytest.mark.parametrize("builder, prefix", [("_fpn", "backbone.bottom_up."), ("", "backbone.")])
@pytest.mark.parametrize("norm", ["BN", "FrozenBN", "SyncBN"])
def test_backbone_file_fills_the_backbone(cfg, tmp_path, norm, builder, prefix):
    cfg.MODEL.RESNETS.NORM = norm
    cfg.MODEL.BACKBONE.NAME = f"build_cr{builder}_backbone"
    model = Detector(cfg)
    path = str(tmp_path / "backbone.safetensors")
    saved = save_backbone(path)
    CRCheckpointer(model, str(tmp_path), cfg).load(path)
    loaded = model.state_dict()
    for key, tensor in saved.items():
        assert torch.equal(loaded[prefix + key], tensor), key


@pytest.mark.parametrize(
    "broken, message",
    [
        (dict(stage_code=(1, 1, 2, 3)), "missing .*res5.3.conv1.weight"),
        (dict(stage_code=(1, 1, 2, 5)), "10 tensor\\(s\\) left over .*res5.4.conv1"),
        (dict(width=16), r"another shape .*norm.bias \(16,\) for \(8,\)"),
        (dict(drop=["res2.0.conv2.norm.bias"]), "1 tensor\\(s\\) missing .*res2.0.conv2.norm.bias"),
        (dict(add=["res2.0.fc.weight"]), "1 tensor\\(s\\) left over .*fc.weight"),
    ],
)
def test_backbone_file_of_another_network_is_an_error(cfg, tmp_path, broken, message):
    path = str(tmp_path / "backbone.safetensors")
    save_backbone(path, **broken)
    with pytest.raises(ValueError, match=message):
        CRCheckpointer(Detector(cfg), str(tmp_path), cfg).load(path)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_whole_model_goes_round(cfg, tmp_path, suffix):
    torch.manual_seed(0)
    saved, model = Detector(cfg), Detector(cfg)
    if suffix == ".pth":
        CRCheckpointer(saved, str(tmp_path), cfg).save("model", iteration=3)
    else:
        save_file(saved.state_dict(), tmp_path / "model.safetensors")
        cfg.MODEL.INIT.SOURCE = "torchvision"
    rest = CRCheckpointer(model, str(tmp_path), cfg).load(str(tmp_path / f"model{suffix}"))
    assert all(map(torch.equal, saved.state_dict().values(), model.state_dict().values()))
    if suffix == ".pth":
        assert rest["iteration"] == 3
        check_same_model(cfg, rest["model_config"], "model.pth")


def test_a_checkpoint_under_another_name_is_one_all_the_same(cfg, tmp_path):
    saved, model = Detector(cfg), Detector(cfg)
    CRCheckpointer(saved, str(tmp_path), cfg).save("model", iteration=3)
    path = (tmp_path / "model.pth").rename(tmp_path / "model.safetensors")
    assert CRCheckpointer(model, "", cfg).load(str(path))["iteration"] == 3
    assert all(map(torch.equal, saved.state_dict().values(), model.state_dict().values()))


def test_how_a_run_started_is_nothing_to_what_it_has_saved(cfg, tmp_path):
    """Its config.yaml has the origin of the first weights; it evaluates the last ones."""
    saved, model = Detector(cfg), Detector(cfg)
    CRCheckpointer(saved, str(tmp_path), cfg).save("model")
    cfg.MODEL.INIT.SOURCE, cfg.MODEL.INIT.PREFIX = "msra", "encoder."
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.3
    CRCheckpointer(model, "", cfg).load(str(tmp_path / "model.pth"))
    assert all(map(torch.equal, saved.state_dict().values(), model.state_dict().values()))


def test_a_config_of_others_makes_no_checkpoint_of_this_project(cfg, tmp_path):
    model = Detector(cfg)
    content = {"model": {"layer.weight": torch.ones(1)}, "model_config": {"depth": 50}}
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="other.pth: no known network has such names"):
        CRCheckpointer(model, "", cfg).load(str(tmp_path / "other.pth"))
    content["model"] = model.state_dict()
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="other.pth: nothing tells whose weights these are"):
        CRCheckpointer(model, "", cfg).load(str(tmp_path / "other.pth"))


def test_another_model_is_not_resumed(cfg, tmp_path):
    """As a script may try that does without set-up; the optimizer's state would not be loaded."""
    cfg.MODEL.CLASS_NAMES = ["cup", "ball"]
    CRCheckpointer(Detector(cfg), str(tmp_path), cfg).save("model", trainer={})
    goes_on = CRCheckpointer(Detector(cfg), str(tmp_path), cfg).resume_or_load("", resume=True)
    assert goes_on["trainer"] == {}
    cfg.MODEL.CLASS_NAMES = ["ball", "cup"]
    with pytest.raises(ValueError, match="MODEL.CLASS_NAMES: the same 2 in another order"):
        CRCheckpointer(Detector(cfg), str(tmp_path), cfg).resume_or_load("", resume=True)


def test_changed_model_is_named_with_both_values(cfg, tmp_path):
    CRCheckpointer(Detector(cfg), str(tmp_path), cfg).save("model")
    saved = torch.load(tmp_path / "model.pth", weights_only=True)["model_config"]
    cfg.MODEL.WEIGHTS, cfg.MODEL.DEVICE = "elsewhere.pth", "cpu"
    check_same_model(cfg, saved, "model.pth")
    cfg.MODEL.CR.STAGE_CODE = [1, 2, 1, 4]
    with pytest.raises(ValueError) as error:
        check_same_model(cfg, saved, "model.pth")
    assert "model.pth" in str(error.value)
    assert "MODEL.CR.STAGE_CODE: [1, 1, 2, 4] in the checkpoint, [1, 2, 1, 4] in" in str(
        error.value
    )
    check_same_model(cfg, saved, "model.pth", below="MODEL.RESNETS.")


class Evil:
    def __reduce__(self):
        return (print, ("code of the file ran",))


@pytest.mark.parametrize("suffix", [".pth", ".pkl"])
def test_no_code_of_a_file_is_run(cfg, tmp_path, capsys, suffix):
    path = tmp_path / f"evil{suffix}"
    if suffix == ".pth":
        torch.save({"model": Evil()}, path)
    else:
        path.write_bytes(pickle.dumps({"model": Evil()}))
    with pytest.raises((pickle.UnpicklingError, ValueError)):
        CRCheckpointer(Detector(cfg), str(tmp_path), cfg).load(str(path))
    assert "code of the file ran" not in capsys.readouterr().out
