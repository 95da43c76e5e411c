"""Files of networks that are none here: one line says what they are and what is expected."""

import pickle

import numpy as np
import pytest
import torch
import torchvision
import zoo_files

from crnas_d2.checkpoint.foreign import check_is_known
from crnas_d2.checkpoint.seed_network import read_seed_network
from crnas_d2.checkpoint.weights_file import WeightsFile

NETWORKS = {
    "swin_t": "a Swin transformer",
    "vit_b_16": "a vision transformer",
    "regnet_y_400mf": "a RegNet",
    "efficientnet_b0": "an EfficientNet",
    "efficientnet_v2_s": "an EfficientNet",
    "mobilenet_v3_small": "a MobileNetV3",
    "convnext_tiny": "a ConvNeXt",
    "densenet121": "a DenseNet",
    "vgg11": "a VGG",
    "alexnet": "an AlexNet",
}


def refusal(names):
    tensors = {name: torch.zeros(1) for name in names}
    with pytest.raises(ValueError) as error:
        check_is_known(WeightsFile("there/model.pth", tensors))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("prefix", ["", "backbone.bottom_up."])
@pytest.mark.parametrize("name", NETWORKS)
def test_torchvisions_other_networks(name, prefix):
    with torch.device("cpu" if "regnet" in name else "meta"):  # it has to read its weights
        names = [f"{prefix}{key}" for key in getattr(torchvision.models, name)().state_dict()]
    message = refusal(names)
    assert message.startswith("there/model.pth is of ")
    assert NETWORKS[name].split(" ", 1)[1] in message
    assert "expected a ResNet, a ResNeXt or a MobileNetV2 of torchvision" in message


@pytest.mark.parametrize(
    "name", ["resnet18", "resnext50_32x4d", "wide_resnet50_2", "mobilenet_v2", "googlenet"]
)
def test_what_is_known_or_not_known_to_be_another_passes(name):
    with torch.device("meta"):
        tensors = dict(getattr(torchvision.models, name)().state_dict())
    check_is_known(WeightsFile("model.pth", tensors))


@pytest.mark.parametrize(
    "name, network",
    [
        ("backbone.bottom_up.s1.b1.a.weight", "a RegNet"),
        ("conv1.0.weight", "a ResNet-C or -D"),
        ("layer1.0.downsample.2.weight", "a ResNet-C or -D"),
        ("backbone.net.blocks.0.attn.qkv.weight", "a vision transformer"),
        ("backbone.bottom_up.layers.0.blocks.0.attn.relative_position_bias_table", "a Swin"),
        ("backbone.bottom_up.stage2.OSA2_1.layers.0.weight", "a VoVNet"),
        ("detr.transformer.encoder.layers.0.linear1.weight", "a transformer detector"),
        ("model.0.conv.weight", "a YOLO detector"),
        ("fpn_inner_res5_2_sum_w", "a detector of Detectron (Caffe2), not of Detectron2"),
    ],
)
def test_other_detectors(name, network):
    assert f"model.pth is of {network}" in refusal(["a.weight", name])


def test_a_detector_of_detectron_is_not_taken_for_its_backbone(tmp_path):
    path = tmp_path / "model_final.pkl"
    names = ["conv1_w", "res2_0_branch2a_w", "res2_0_branch2a_bn_s", "rpn_cls_logits_w", "fc6_w"]
    content = {"blobs": {name: np.ones(3, np.float32) for name in names}}
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(
        ValueError, match=r"a detector of Detectron \(Caffe2\), .* \(rpn_cls_logits_w"
    ):
        read_seed_network(str(path))


@pytest.mark.parametrize("prefix", ["backbone.body.", "encoder_q.", "backbone."])
def test_a_prefix_of_a_known_network_is_told_and_taken(tmp_path, prefix):
    theirs = torchvision.models.resnet18().state_dict()
    path = str(tmp_path / "model.pth")
    others = {"head.weight": torch.zeros(1), "queue": torch.zeros(3)}
    torch.save({**{f"{prefix}{name}": t for name, t in theirs.items()}, **others}, path)
    message = f"begin with '{prefix}'; MODEL.INIT.PREFIX or --prefix {prefix} takes"
    with pytest.raises(ValueError, match=message):
        read_seed_network(path)
    seed = read_seed_network(path, prefix=prefix)
    assert torch.equal(seed.weights["res3.0.conv1.weight"], theirs["layer2.0.conv1.weight"])


def test_deformable_convolutions(tmp_path):
    path = str(tmp_path / "model_final.pkl")
    model = zoo_files.build_zoo_detector()
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    weights["backbone.bottom_up.res3.0.conv2_offset.weight"] = np.zeros((18, 8, 3, 3), np.float32)
    content = {"model": weights, "__author__": zoo_files.AUTHOR}
    (tmp_path / "model_final.pkl").write_bytes(pickle.dumps(content))
    message = r"model_final.pkl: its convolutions are deformable \(res3.0.conv2_offset.weight"
    with pytest.raises(ValueError, match=message):
        read_seed_network(path)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"res3.0.conv2.weight": None}, "1 missing: res3.0.conv2.weight"),
        ({"res3.0.se.fc1.weight": torch.zeros(3)}, "1 left over: res3.0.se.fc1.weight"),
        ({"res4.1.conv1.weight": torch.zeros(3)}, r"res4.1.conv1.weight \(3,\) instead of"),
        ({"stem.conv1.norm.weight": None}, "tensor stem.conv1.norm.weight is missing"),
    ],
)
def test_detectors_with_another_backbone(tmp_path, change, message):
    path = tmp_path / "model_final.pkl"
    weights = dict(zoo_files.build_zoo_detector().state_dict())
    for name, tensor in change.items():
        weights[f"backbone.bottom_up.{name}"] = tensor
    weights = {name: tensor.numpy() for name, tensor in weights.items() if tensor is not None}
    path.write_bytes(pickle.dumps({"model": weights, "__author__": zoo_files.AUTHOR}))
    with pytest.raises(ValueError, match=f"model_final.pkl: (.|\n)*{message}"):
        read_seed_network(str(path))
