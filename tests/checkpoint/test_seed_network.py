"""Trained networks read from all their files; remapped ones read by the checkpointer."""

import dataclasses
import json
import pickle

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from thin_supernets import FEATURES, assert_same
from torchvision.models import mobilenet_v2, resnet18, resnet50

import crnas_d2
from crnas_d2.checkpoint import CRCheckpointer
from crnas_d2.checkpoint.convert import convert
from crnas_d2.checkpoint.names import without_counters
from crnas_d2.checkpoint.save import save_network
from crnas_d2.checkpoint.seed_network import SeedNetwork, read_seed_network
from crnas_d2.checkpoint.settings import find_contradictions, take_settings
from crnas_d2.checkpoint.start import remap_seed
from crnas_d2.files import file_sha256

from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.modeling.backbone import build_resnet_backbone

RGB = {
    "INPUT.FORMAT": "RGB",
    "MODEL.PIXEL_MEAN": "[123.675, 116.28, 103.53]",
    "MODEL.PIXEL_STD": "[58.395, 57.12, 57.375]",
}
BGR = {
    "INPUT.FORMAT": "BGR",
    "MODEL.PIXEL_MEAN": "[103.53, 116.28, 123.675]",
    "MODEL.PIXEL_STD": "[1.0, 1.0, 1.0]",
    "MODEL.RESNETS.STRIDE_IN_1X1": "True",
}


def thin(name, *opts):
    cfg = crnas_d2.get_config(name)
    cfg.MODEL.DEVICE = "cpu"
    if cfg.MODEL.CR.FAMILY == "mobilenetv2":
        cfg.MODEL.CR.WIDTH_MULTIPLIER = 0.25
    else:
        cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = 8
        cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 16 if cfg.MODEL.CR.BLOCK == "bottleneck" else 8
        cfg.MODEL.RESNETS.WIDTH_PER_GROUP = 4
    cfg.MODEL.RESNETS.NORM = cfg.MODEL.FPN.NORM = "BN"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.FPN.OUT_CHANNELS = 8
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 16
    cfg.merge_from_list(list(opts))
    return cfg


def save_checkpoint(folder, cfg):
    """As train_net.py leaves it, with tensors that can be told apart."""
    torch.manual_seed(0)
    model = build_model(cfg)
    for tensor in model.state_dict().values():
        tensor.uniform_() if tensor.is_floating_point() else tensor.random_(1, 100)
    CRCheckpointer(model, str(folder), cfg).save("model_final", iteration=9)
    return model, str(folder / "model_final.pth")


@pytest.mark.parametrize("make", [resnet18, resnet50, mobilenet_v2])
def test_public_weights_and_converted_ones_are_the_same_seed(tmp_path, make):
    paths = [str(tmp_path / name) for name in ("public.pth", "converted.safetensors")]
    torch.save(make().state_dict(), paths[0])
    expected = save_network(paths[1], read_seed_network(paths[0]))
    for path in paths:
        seed = read_seed_network(path)
        assert_same(seed.weights, expected)
        assert seed.family == ("mobilenetv2" if make is mobilenet_v2 else "resnet")
        stride = {"MODEL.RESNETS.STRIDE_IN_1X1": "False"} if make is resnet50 else {}
        assert seed.settings == {**RGB, **stride}
        assert (seed.name, seed.sha256) == (path.rpartition("/")[2], file_sha256(path))


def caffe2_name(key):
    module, _, tensor = key.rpartition(".")
    is_norm = module.endswith(".norm")
    suffix = {"weight": "s" if is_norm else "w", "bias": "b"}[tensor]
    if module.startswith("stem"):
        return f"{'res_conv1_bn' if is_norm else 'conv1'}_{suffix}"
    stage, block, layer = module.removesuffix(".norm").split(".")
    branches = {"shortcut": "1", "conv1": "2a", "conv2": "2b", "conv3": "2c"}
    return f"{stage}_{block}_branch{branches[layer]}_{'bn_' if is_norm else ''}{suffix}"


def test_a_pickle_of_msra(tmp_path):
    """The settings of MSRA's networks stay with them through both tools."""
    cfg = get_cfg()
    cfg.MODEL.RESNETS.update(STEM_OUT_CHANNELS=16, RES2_OUT_CHANNELS=32, WIDTH_PER_GROUP=8)
    cfg.MODEL.RESNETS.OUT_FEATURES = FEATURES
    theirs = build_resnet_backbone(cfg, ShapeSpec(channels=3)).state_dict()
    arrays = {
        caffe2_name(key): tensor.numpy() for key, tensor in theirs.items() if "running" not in key
    }
    path = tmp_path / "R-50.pkl"
    path.write_bytes(pickle.dumps({"blobs": arrays}))

    seed = read_seed_network(str(path))
    frozen = {"MODEL.RESNETS.NORM": "FrozenBN"}
    assert seed.settings == {**BGR, **frozen}
    target = seed.build([2, 2, 2, 2])
    assert target.res3[0].conv1.stride == (2, 2)
    deeper, _ = remap_seed(seed, seed.build([4, 4, 6, 3]), function_preserving=True)
    assert not deeper.weights["res2.3.conv3.weight"].any()
    assert deeper.weights["res2.3.conv3.norm.weight"].all()  # it is frozen, and would stay zero
    again = str(tmp_path / "remapped.safetensors")
    save_network(again, *remap_seed(seed, target))
    assert read_seed_network(again).settings == seed.settings
    save_network(again, seed)
    assert read_seed_network(again).settings == seed.settings
    assert_same(read_seed_network(again).weights, seed.weights)

    cfg = crnas_d2.get_config("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml")
    assert find_contradictions(seed.settings, cfg) == seed.settings
    take_settings(seed.settings, cfg, "R-50.pkl")
    assert find_contradictions(seed.settings, cfg) == {}


CHECKPOINTS = [
    ("COCO-Detection/faster_rcnn_CR_R_50_FPN_1x.yaml", "bottom_up."),
    ("COCO-Detection/faster_rcnn_CR_MNV2_FPN_1x.yaml", "bottom_up."),
    ("ImageNet/CR_R_18.yaml", ""),
]


@pytest.mark.parametrize("name, prefix", CHECKPOINTS)
def test_checkpoints_of_detectors_and_classifiers(tmp_path, name, prefix):
    model, path = save_checkpoint(tmp_path, thin(name))
    expected = (model.backbone.bottom_up if prefix else model.backbone).state_dict()
    seed = read_seed_network(path)
    assert_same(dict(seed.weights), expected)
    stride = {"MODEL.RESNETS.STRIDE_IN_1X1": "False"} if "CR_R_50" in name else {}
    neck = {"MODEL.FPN.NORM": "BN"} if prefix else {}
    assert seed.settings == {**RGB, **stride, **neck}
    save_file(model.state_dict(), tmp_path / "whole.safetensors")
    with pytest.raises(ValueError, match="whole.safetensors: nothing tells whose weights"):
        read_seed_network(str(tmp_path / "whole.safetensors"))
    whole = read_seed_network(str(tmp_path / "whole.safetensors"), "torchvision")
    assert_same(dict(whole.weights), expected)
    assert whole.settings == seed.settings


def test_checkpoint_of_a_c4_detector_has_its_res5(tmp_path):
    model, path = save_checkpoint(tmp_path, thin("COCO-Detection/faster_rcnn_CR_R_50_C4_1x.yaml"))
    res5 = {f"res5.{key}": t for key, t in model.roi_heads.res5.state_dict().items()}
    assert len(res5) > 100
    assert_same(dict(read_seed_network(path).weights), {**model.backbone.state_dict(), **res5})


NETWORKS = {
    "CR": "COCO-Detection/faster_rcnn_CR_{}_FPN_1x.yaml",
    "classifier": "ImageNet/CR_{}.yaml",
    "stage": "Supernet/stage_supernet_{}_FPN.yaml",
    "dilation": "Supernet/dilation_supernet_SCR_{}_FPN.yaml",
}
CHOICES = {
    "R_18": "[[1, 2], [2, 3], [1, 4], [2]]",
    "MNV2": "[[1], [1], [1, 2], [3], [4, 5], [2], [3], [1], [1], [1]]",
}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("seed_name", ["R_18", "MNV2"])
def test_the_checkpointer_takes_the_file(tmp_path, seed_name, network):
    """It refuses a file with a tensor too few or too many."""
    cfg = thin(f"COCO-Detection/faster_rcnn_{seed_name}_FPN_1x.yaml")
    _, path = save_checkpoint(tmp_path, cfg)
    seed = read_seed_network(path)
    cfg = thin(NETWORKS[network].format(seed_name))
    cfg.MODEL.SUPERNET.STAGE_CHOICES = json.loads(CHOICES[seed_name])
    target = build_model(cfg).to(memory_format=torch.channels_last)
    seed, report = remap_seed(seed, target)
    path = str(tmp_path / "remapped.safetensors")
    save_network(path, seed, report)

    model = build_model(cfg)
    CRCheckpointer(model, str(tmp_path), cfg).load(path)
    written = load_file(path)
    if network == "classifier":
        prefix = "backbone.bottom_up."
        backbone = {k.removeprefix(prefix): t for k, t in written.items() if k.startswith(prefix)}
        assert_same(without_counters(model.backbone.state_dict()), backbone)
    else:
        assert_same(without_counters(model.state_dict()), without_counters(written))

    with safe_open(path, "pt") as file:
        header = file.metadata()
    assert header["format"] == "crnas_d2.model" and header["family"] == cfg.MODEL.CR.FAMILY
    assert header["seed_network"] == "model_final.pth"
    assert header["seed_network_sha256"] == file_sha256(str(tmp_path / "model_final.pth"))
    assert header["pixel_mean"] == "[123.675, 116.28, 103.53]"
    assert json.loads(header["remap"]) == {"parts": report.rows(), "unused": list(report.unused)}


def test_build_takes_the_widths():
    weights, _ = convert(mobilenet_v2(width_mult=0.5).state_dict())
    seed = SeedNetwork("x.pth", "0", weights, "mobilenetv2", {})
    target = seed.build([1, 1, 2, 2, 3, 4, 4, 1, 1, 1])
    assert len(target.c160) == 4 and target.c160[0].out_channels == 80
    with pytest.raises(ValueError, match="4 entries; expected 10 for family 'mobilenetv2'"):
        seed.build([1, 1, 2, 2])


@pytest.mark.parametrize(
    "name",
    ["Digits/faster_rcnn_CR_R_18_FPN.yaml", "COCO-Detection/faster_rcnn_CR_MNV2_FPN_1x.yaml"],
)
def test_rebuilt_it_computes_what_it_did(tmp_path, name):
    """With the dilations that the checkpoint tells."""
    model, path = save_checkpoint(tmp_path, thin(name))
    seed = read_seed_network(path)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = model.eval().backbone.bottom_up(images)["res5"]
        assert torch.equal(seed.rebuild()(images)["res5"], expected)
    with pytest.raises(ValueError, match="model_final.pth does not tell its stage code"):
        dataclasses.replace(seed, architecture=None).rebuild()
    lacking = {k: t for k, t in seed.weights.items() if "running_mean" not in k}
    with pytest.raises(ValueError, match="model_final.pth has no tensor .+running_mean"):
        dataclasses.replace(seed, weights=lacking).rebuild()


@pytest.mark.parametrize("step", ["stage_supernet_R_18", "dilation_supernet_SCR_MNV2"])
def test_a_supernets_checkpoint_is_refused(tmp_path, step):
    cfg = thin(f"Supernet/{step}_FPN.yaml")
    if "stage" in step:
        cfg.MODEL.SUPERNET.STAGE_CHOICES = json.loads(CHOICES["R_18"])
    _, path = save_checkpoint(tmp_path, cfg)
    with pytest.raises(ValueError, match="model_final.pth is a supernet; .* inherit_subnet"):
        read_seed_network(path)


def test_faults_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file .*absent.pth"):
        read_seed_network(str(tmp_path / "absent.pth"))
    path = str(tmp_path / "other.safetensors")
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="other.safetensors: no known network has such names"):
        read_seed_network(path)
    _, path = save_checkpoint(tmp_path, thin("ImageNet/CR_R_18.yaml"))
    with pytest.raises(ValueError, match="source 'timm': .*model_final.pth tells its settings"):
        read_seed_network(path, "timm")
