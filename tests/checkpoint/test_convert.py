"""Converted weights against the networks that they come from: torchvision, timm, Detectron2."""

import pickle

import numpy as np
import pytest
import torch
from peers import from_timm, images
from torch import nn
from torchvision.models import mobilenet_v2, resnet18, resnet50, resnet101, resnext50_32x4d
from torchvision.models.resnet import Bottleneck, ResNet

from crnas_d2.checkpoint.convert import convert
from crnas_d2.checkpoint.weights_file import read_weights_file

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import build_resnet_backbone

RESNET_LAYERS = {"res2": "layer1", "res3": "layer2", "res4": "layer3", "res5": "layer4"}
TORCHVISION_MOBILENET_LAYERS = {f"res{i}": f"features.{n}" for i, n in zip("2345", (3, 6, 13, 18))}
TIMM_MOBILENET_LAYERS = {"res2": "blocks.1", "res3": "blocks.2", "res4": "blocks.4", "res5": "bn2"}
RES = tuple(RESNET_LAYERS)
RGB_MEAN, RGB_STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]


def resnext101_32x8d():
    return ResNet(Bottleneck, [3, 4, 23, 3], groups=32, width_per_group=8, num_classes=2)


def thin_mobilenet_v2():
    return mobilenet_v2(width_mult=0.5)


def resnet(block, stage_code, res2_out_channels, *, groups=1, width=64):
    arguments = {"block": block, "stage_code": stage_code, "stem_out_channels": 64}
    arguments |= {"res2_out_channels": res2_out_channels, "num_groups": groups}
    if block == "bottleneck":
        arguments |= {"width_per_group": width, "stride_in_1x1": False}
    return arguments


def mobilenet(width_multiplier):
    return {"stage_code": [1, 1, 2, 3, 4, 3, 3, 1, 1, 1], "width_multiplier": width_multiplier}


R_18 = resnet("basic", [2, 2, 2, 2], 64)
X_50 = resnet("bottleneck", [3, 4, 6, 3], 256, groups=32, width=4)
PEERS = [
    (resnet18, RESNET_LAYERS, R_18),
    (resnet50, RESNET_LAYERS, resnet("bottleneck", [3, 4, 6, 3], 256)),
    (resnet101, RESNET_LAYERS, resnet("bottleneck", [3, 4, 23, 3], 256)),
    (resnext50_32x4d, RESNET_LAYERS, X_50),
    (
        resnext101_32x8d,
        RESNET_LAYERS,
        resnet("bottleneck", [3, 4, 23, 3], 256, groups=32, width=8),
    ),
    (mobilenet_v2, TORCHVISION_MOBILENET_LAYERS, mobilenet(1.0)),
    (thin_mobilenet_v2, TORCHVISION_MOBILENET_LAYERS, mobilenet(0.5)),
    (from_timm("resnet18"), RESNET_LAYERS, R_18),
    (from_timm("resnext50_32x4d"), RESNET_LAYERS, X_50),
    (from_timm("mobilenetv2_100"), TIMM_MOBILENET_LAYERS, mobilenet(1.0)),
]


def randomized(make):
    """A network in evaluation whose batch norms all matter, and whose features stay near 1."""
    torch.manual_seed(7)
    net = make().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.3, 0.7)
            nn.init.normal_(module.bias, std=0.3)
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return net


def hooked_features(net, layers, images):
    features = {}
    for name, layer in layers.items():
        net.get_submodule(layer).register_forward_hook(
            lambda module, args, output, name=name: features.update({name: output.clone()})
        )
    with torch.no_grad():
        net(images)
    return features


def backbone_features(backbone, images):
    with torch.no_grad():
        return backbone.eval()(images)


@pytest.mark.parametrize("make, layers, arguments", PEERS, ids=[peer[0].__name__ for peer in PEERS])
def test_features_are_the_peers(make, layers, arguments):
    peer = randomized(make)
    weights, description = convert(peer.state_dict())
    assert description.arguments == arguments

    with torch.device("meta"):
        backbone = description.build(norm="BN", out_features=RES)
    backbone.load_state_dict(weights, strict=True, assign=True)
    expected = hooked_features(peer, layers, images())
    features = backbone_features(backbone, images())
    assert list(features) == list(RES)
    for name in RES:
        assert 0.05 < expected[name].std() < 50
        torch.testing.assert_close(features[name], expected[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("norm", ["FrozenBN", "BN", "SyncBN"])
@pytest.mark.parametrize("make", [resnet18, mobilenet_v2])
def test_nothing_is_missing_or_left_over_under_any_batch_norm(make, norm):
    weights, description = convert(make().state_dict())
    backbone = description.build(norm=norm)
    backbone.load_state_dict(weights, strict=True)
    if norm == "FrozenBN":
        assert weights.keys() == backbone.state_dict().keys()


def test_description_of_a_resnet():
    weights, description = convert(resnext50_32x4d().state_dict())
    assert (description.source, description.family) == ("torchvision", "resnet")
    assert description.dropped == ("fc.weight", "fc.bias")
    assert description.config() == {
        "MODEL": {
            "PIXEL_MEAN": RGB_MEAN,
            "PIXEL_STD": RGB_STD,
            "CR": {"FAMILY": "resnet", "BLOCK": "bottleneck", "STAGE_CODE": [3, 4, 6, 3]},
            "RESNETS": {
                "STEM_OUT_CHANNELS": 64,
                "RES2_OUT_CHANNELS": 256,
                "NUM_GROUPS": 32,
                "WIDTH_PER_GROUP": 4,
                "STRIDE_IN_1X1": False,
            },
        },
        "INPUT": {"FORMAT": "RGB"},
    }


def test_description_of_a_mobilenet():
    weights, description = convert(thin_mobilenet_v2().state_dict())
    assert description.dropped == ("classifier.1.weight", "classifier.1.bias")
    code = [1, 1, 2, 3, 4, 3, 3, 1, 1, 1]
    assert description.config()["MODEL"] == {
        "PIXEL_MEAN": RGB_MEAN,
        "PIXEL_STD": RGB_STD,
        "CR": {"FAMILY": "mobilenetv2", "STAGE_CODE": code, "WIDTH_MULTIPLIER": 0.5},
    }


@pytest.mark.parametrize("width", [0.35, 0.75, 1.25, 1.4])
def test_width_multiplier_is_told_by_the_channels(width):
    weights, description = convert(mobilenet_v2(width_mult=width).state_dict())
    assert description.arguments["width_multiplier"] == width


def test_source_is_timm_where_the_user_says_so():
    state_dict = resnet18().state_dict()
    assert convert(state_dict, "timm")[1].source == "timm"
    with pytest.raises(ValueError, match="source is 'msra'; expected torchvision or timm"):
        convert(state_dict, "msra")


# Pickles of Detectron2's model zoo -----------------------------------------------------------------


def detectron2_cfg(**resnets):
    cfg = get_cfg()
    thin = {"STEM_OUT_CHANNELS": 16, "RES2_OUT_CHANNELS": 32, "WIDTH_PER_GROUP": 8}
    for key, value in {**thin, "OUT_FEATURES": list(RES), **resnets}.items():
        cfg.MODEL.RESNETS[key] = value
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    return cfg


def detectron2_backbone(cfg):
    torch.manual_seed(11)
    backbone = build_resnet_backbone(cfg, ShapeSpec(channels=3))
    for name, buffer in backbone.named_buffers():
        if name.endswith("running_var") or name.endswith("norm.weight"):
            nn.init.uniform_(buffer, 0.3, 0.7)
        else:
            nn.init.normal_(buffer, std=0.3)
    return backbone


def caffe2_names(backbone, *, statistics):
    """A backbone's weights as Caffe2 wrote them: in the style of Detectron2's model zoo (with the
    statistics of batch norms) or of Detectron1's (an affine map instead, and unused biases)."""
    norms = {"weight": "bn_s", "bias": "bn_b"}
    if statistics:
        norms = {"weight": "bn_gamma", "bias": "bn_beta"}
        norms |= {"running_mean": "bn_running_mean", "running_var": "bn_running_var"}
    branches = {
        "shortcut": "branch1",
        "conv1": "branch2a",
        "conv2": "branch2b",
        "conv3": "branch2c",
    }
    blobs = {"fc1000_w": torch.ones(2, 256), "fc1000_b": torch.ones(2)}
    for name, conv in backbone.named_modules():
        if isinstance(conv, nn.Conv2d):
            blob, norm = "conv1", "res_conv1"
            if name != "stem.conv1":
                stage, block, layer = name.split(".")
                blob = norm = f"{stage}_{block}_{branches[layer]}"
            blobs[f"{blob}_w"] = conv.weight
            if blob == "conv1" or not statistics:
                blobs[f"{blob}_b"] = torch.ones(conv.out_channels)
            for attribute, ending in norms.items():
                blobs[f"{norm}_{ending}"] = getattr(conv.norm, attribute)
    return {key: tensor.detach().numpy() for key, tensor in blobs.items()}


def write_pickle(path, content, protocol=2):
    path.write_bytes(pickle.dumps(content, protocol))
    return str(path)


@pytest.mark.parametrize("statistics", [True, False])
@pytest.mark.parametrize("groups", [1, 4])
def test_caffe2_pickles_give_the_features_that_detectron2_reads_from_them(
    tmp_path, groups, statistics
):
    cfg = detectron2_cfg(NUM_GROUPS=groups, STRIDE_IN_1X1=groups == 1)
    blobs = caffe2_names(detectron2_backbone(cfg), statistics=statistics)
    path = write_pickle(tmp_path / "weights.pkl", blobs)
    peer = build_resnet_backbone(cfg, ShapeSpec(channels=3))
    DetectionCheckpointer(peer).load(path)

    weights, description = convert(read_weights_file(path).tensors)
    backbone = description.build(out_features=RES, norm="FrozenBN")
    backbone.load_state_dict(weights, strict=True)
    expected = backbone_features(peer, images())
    features = backbone_features(backbone, images())
    for name in RES:
        assert 0.05 < expected[name].std() < 50
        assert torch.equal(features[name], expected[name])

    biases = [key for key in blobs if key.endswith("_b") and not key.endswith("bn_b")]
    assert sorted(description.dropped) == sorted(["fc1000_w", *biases])
    model = description.config()["MODEL"]
    assert model["RESNETS"].get("NORM") == (None if statistics else "FrozenBN")
    assert model["RESNETS"]["STRIDE_IN_1X1"] == (groups == 1)
    assert description.source == ("msra" if groups == 1 else "fair")
    assert model["PIXEL_MEAN"] == [103.53, 116.28, 123.675]
    assert model["PIXEL_STD"] == ([1, 1, 1] if groups == 1 else [57.375, 57.12, 58.395])
    assert description.config()["INPUT"] == {"FORMAT": "BGR"}


def test_torchvision_pickle_of_the_model_zoo(tmp_path):
    peer = randomized(resnet18)
    names = [("downsample.0", "shortcut"), ("downsample.1", "shortcut.norm")]
    names += [(f"layer{i}", f"res{i + 1}") for i in range(1, 5)]
    names += [(f"bn{i}", f"conv{i}.norm") for i in range(1, 4)]
    arrays = {}
    for key, tensor in peer.state_dict().items():
        key = key if "layer" in key else f"stem.{key}"
        for old, new in names:
            key = key.replace(old, new)
        arrays[key] = tensor.numpy()
    content = {"model": arrays, "__author__": "torchvision", "matching_heuristics": True}
    path = write_pickle(tmp_path / "R-18.pkl", content, protocol=4)

    weights, description = convert(read_weights_file(path).tensors)
    assert description.arguments == R_18
    assert description.source == "torchvision"
    assert description.dropped == ("stem.fc.weight", "stem.fc.bias")
    backbone = description.build(out_features=RES)
    backbone.load_state_dict(weights, strict=True)
    expected = hooked_features(peer, RESNET_LAYERS, images())
    features = backbone_features(backbone, images())
    for name in RES:
        torch.testing.assert_close(features[name], expected[name], rtol=1e-5, atol=1e-5)


def test_group_norms_are_refused():
    blobs = caffe2_names(detectron2_backbone(detectron2_cfg()), statistics=False)
    blobs = {key.replace("_bn_", "_gn_"): array for key, array in blobs.items()}
    with pytest.raises(ValueError, match="group norms .106 keys: res_conv1_gn_s"):
        convert(blobs)


# What is refused -----------------------------------------------------------------------------------


def test_missing_left_over_and_misshapen_keys_are_named():
    state_dict = resnet18().state_dict()
    del state_dict["layer3.1.bn2.running_mean"]
    state_dict["layer1.0.se.fc1.weight"] = torch.zeros(4, 64, 1, 1)
    state_dict["layer4.0.conv1.weight"] = torch.zeros(512, 256, 5, 5)
    with pytest.raises(ValueError) as error:
        convert(state_dict)
    lines = str(error.value).splitlines()
    assert "resnet of torchvision: block basic, stage_code [2, 2, 2, 2]" in lines[0]
    assert lines[1:] == [
        "  1 missing: res4.1.conv2.norm.running_mean",
        "  1 left over: layer1.0.se.fc1.weight",
        "  1 of another shape: layer4.0.conv1.weight (512, 256, 5, 5) instead of (512, 256, 3, 3)",
    ]


@pytest.mark.parametrize(
    "name, message",
    [
        ("resnet50d", r"27 left over: conv1\.0\.weight, conv1\.1\.\w+, .*, \.\.\."),
        ("seresnet50", r"64 left over: layer1\.0\.se\.fc1\.weight"),
        ("resnet50_gn", "its norms have no means and variances, as group norms; expected"),
        ("mobilenetv2_110d", r"no width multiplier gives the channels .*'c1280': 1280"),
        ("efficientnet_b0", r"no width multiplier gives the channels"),
        ("vit_tiny_patch16_224", r"no known network has such names \(152 keys: cls_token"),
    ],
)
def test_other_networks_of_timm_are_refused(name, message):
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        state_dict = timm.create_model(name).state_dict()
    state_dict = {key: torch.empty_like(tensor, device="cpu") for key, tensor in state_dict.items()}
    with pytest.raises(ValueError, match=message):
        convert(state_dict)


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"layer1.0.conv2.weight": None},
            "it is a resnet, but tensor res2.0.conv2.weight is missi",
        ),
        ({"bn1.weight": torch.tensor(1.0)}, r"stem.conv1.norm.weight has shape \(\)"),
        ({"layer1.0.conv2.weight": torch.zeros(64, 0, 3, 3)}, r"has shape \(64, 0, 3, 3\)"),
        ({"conv1.weight": torch.zeros(64, 3, 7, 7).int()}, "conv1.weight is torch.int32; expected"),
        ({"conv1.weight": "text"}, "conv1.weight is str; expected"),
        ({"conv1.weight": np.zeros(3, dtype=object)}, "conv1.weight is object; expected"),
        (
            {"stem.conv1.weight": torch.zeros(1)},
            "conv1.weight .* the same tensor stem.conv1.weight",
        ),
        ({f"layer4.{i}.": None for i in range(2)}, "stage res5 has 0 blocks"),
    ],
)
def test_bad_tensors_are_named(change, message):
    state_dict = dict(resnet18().state_dict())
    for key, value in change.items():
        for old in [old for old in state_dict if old.startswith(key)]:
            del state_dict[old]
        if value is not None:
            state_dict[key] = value
    with pytest.raises(ValueError, match=message):
        convert(state_dict)


def test_half_precision_and_strides_become_plain_float32():
    state_dict = resnet18().to(torch.float16, memory_format=torch.channels_last).state_dict()
    weights, _ = convert(state_dict)
    assert all(t.dtype == torch.float32 and t.is_contiguous() for t in weights.values())
    assert torch.equal(weights["stem.conv1.weight"], state_dict["conv1.weight"].float())


def test_big_endian_arrays_are_read():
    state_dict = {key: t.numpy().astype(">f4") for key, t in resnet18().state_dict().items()}
    weights, _ = convert(state_dict)
    assert np.array_equal(weights["stem.conv1.weight"].numpy(), state_dict["conv1.weight"])
