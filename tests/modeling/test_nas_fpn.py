"""NAS-FPN over the backbones: its topology, and its numbers against a slow reference."""

import warnings

import numpy as np
import pytest
import torch
from test_fpn import STAGES
from test_fpn import make_cfg as make_fpn_cfg
from torch import nn

import crnas_d2
from crnas_d2 import ARCHITECTURES, CRMobileNetV2, CRResNet
from crnas_d2.engine.sync_bn import without_sync_bn
from crnas_d2.modeling import NASFPN, DilationSupernet, StageSupernet
from crnas_d2.modeling.nas_fpn import CELL, NODE_LEVELS, OPS, OUTPUTS

from detectron2.config import LazyCall, get_cfg, instantiate
from detectron2.export import TracingAdapter
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, build_backbone

# Ghiasi et al. (2019), figure 7 (f): node, level, op, inputs, same-level nodes that are added
TABLE = """
 5  4  GP   1  3  -
 6  4  sum  1  5  -
 7  3  sum  0  6  -
 8  4  sum  6  7  -
 9  5  GP   7  8  2
10  7  GP   6  9  4
11  6  GP   9 10  -
"""
ROWS = [line.split() for line in TABLE.split("\n") if line]
INPUT_LEVELS = [3, 4, 5, 6, 7]
OUTPUT_NODES = {"p3": 7, "p4": 8, "p5": 9, "p6": 11, "p7": 10}
BUILDERS = {
    "build_cr_nasfpn_backbone": ("CR-ResNet18", CRResNet),
    "build_cr_mobilenetv2_nasfpn_backbone": ("CR-MobileNetV2", CRMobileNetV2),
    "build_stage_supernet_nasfpn_backbone": ("ResNet18", StageSupernet),
    "build_dilation_supernet_nasfpn_backbone": ("SCR-MobileNetV2", DilationSupernet),
}


def make_cfg(builder="build_cr_nasfpn_backbone", name=None):
    """A thin network under a thin NAS-FPN of two cells."""
    cfg = make_fpn_cfg(name or BUILDERS[builder][0], builder)
    cfg.MODEL.SUPERNET.STAGE_CHOICES = [[1], [2], [1, 2], [1]]
    cfg.MODEL.NAS_FPN.NUM_CELLS = 2
    cfg.MODEL.NAS_FPN.OUT_CHANNELS = 8
    return cfg


def build(builder):
    """The backbone; of a supernet, with a path."""
    torch.manual_seed(0)
    model = build_backbone(make_cfg(builder))
    if "supernet" in builder:
        model.bottom_up.set_path([choices[-1] for choices in model.bottom_up.space.choices])
    return model


def make_model(**options):
    torch.manual_seed(0)
    bottom_up = CRResNet(
        [1, 1, 1, 1], block="basic", stem_out_channels=4, res2_out_channels=4, out_features=STAGES
    )
    return NASFPN(bottom_up, **{"out_channels": 8, "num_cells": 2, **options})


def randomize(model):
    """Give the norms weights and statistics that are no identity."""
    for tensor in model.state_dict().values():
        if tensor.dim() == 1:
            tensor.uniform_(0.5, 1.5)
    return model


def test_merges_are_those_of_the_table():
    assert len(CELL) == len(ROWS)
    for row, merge in zip(ROWS, CELL):
        node, level, op, *inputs, added = row
        assert NODE_LEVELS[int(node)] == merge.level == int(level)
        assert merge.op == op
        assert merge.inputs == tuple(map(int, inputs))
        assert merge.added == (() if added == "-" else (int(added),))
    assert NODE_LEVELS[:5] == tuple(INPUT_LEVELS)
    assert OUTPUTS == tuple(OUTPUT_NODES.values())


def test_an_output_adds_the_unused_nodes_of_its_level():
    used = set()
    for node, merge in enumerate(CELL, start=5):
        assert max(merge.inputs) < node
        used.update(merge.inputs)
        unused = {n for n in range(node) if NODE_LEVELS[n] == merge.level and n not in used}
        assert set(merge.added) == (unused if node in OUTPUTS else set())
        used.update(merge.added)
    assert used | set(OUTPUTS) == set(range(12))  # nothing is made in vain


def test_attention_is_by_the_coarser_input():
    for merge in CELL:
        if merge.op == "GP":
            fine, coarse = merge.inputs
            assert NODE_LEVELS[fine] < NODE_LEVELS[coarse]
    fine, coarse = torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[[[-3.0, 0.0]]]])
    assert OPS["GP"](fine, coarse).tolist() == [[[[-3 + 1 / 2, 2 / 2]]]]


def pool(x, size):
    n, c, height, width = x.shape
    out = np.empty((n, c, height // size, width // size))
    for i in range(height // size):
        for j in range(width // size):
            window = x[:, :, i * size : (i + 1) * size, j * size : (j + 1) * size]
            out[:, :, i, j] = window.max((2, 3))
    return out


def resize(x, level, new_level):
    if new_level >= level:
        return pool(x, 2 ** (new_level - level))
    return np.kron(x, np.ones((2 ** (level - new_level),) * 2))


def convolve(x, tensors, key):
    """Convolution and BN in evaluation mode."""
    weight = tensors[f"{key}.weight"]
    reach = weight.shape[-1] // 2
    height, width = x.shape[2:]
    x = np.pad(x, ((0, 0), (0, 0), (reach, reach), (reach, reach)))
    out = 0
    for i in range(weight.shape[2]):
        for j in range(weight.shape[3]):
            window = x[:, :, i : i + height, j : j + width]
            out = out + np.einsum("oc,nchw->nohw", weight[:, :, i, j], window)
    scale, shift, mean, variance = (
        tensors[f"{key}.norm.{name}"].reshape(1, -1, 1, 1)
        for name in ("weight", "bias", "running_mean", "running_var")
    )
    return (out - mean) / np.sqrt(variance + 1e-5) * scale + shift


def reference(features, tensors, cells):
    """All nodes of each cell, straight from the table, with loops in double precision."""
    p3, p4, p5 = (
        convolve(features[name].double().numpy(), tensors, f"fpn_lateral{level}")
        for level, name in ((3, "res3"), (4, "res4"), (5, "res5"))
    )
    inputs = [p3, p4, p5, pool(p5, 2), pool(pool(p5, 2), 2)]
    made = []
    for cell in range(cells):
        nodes, levels = list(inputs), list(INPUT_LEVELS)
        for node, level, op, one, other, added in ROWS:
            level, one, other = int(level), int(one), int(other)
            x, y = (resize(nodes[i], levels[i], level) for i in (one, other))
            if op == "sum":
                merged = x + y
            else:
                fine, coarse = (x, y) if levels[one] < levels[other] else (y, x)
                merged = coarse + fine / (1 + np.exp(-coarse.max((2, 3), keepdims=True)))
            if added != "-":
                merged = merged + nodes[int(added)]
            key = f"fpn_cells.{cell}.node{node}"
            nodes.append(convolve(np.maximum(merged, 0), tensors, key))
            levels.append(level)
        made.append(nodes)
        inputs = [nodes[n] for n in OUTPUT_NODES.values()]
    return made


@torch.no_grad()
def test_every_node_equals_the_reference():
    model = randomize(make_model(out_channels=6)).double().eval()
    tensors = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    made = {}
    for name, module in model.named_modules():
        if "node" in name and isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda *args, name=name: made.update({name: args[2]}))
    images = torch.rand(2, 3, 256, 128).double()
    outputs = model(images)
    expected = reference(model.bottom_up(images), tensors, cells=2)
    assert len(made) == 2 * 7
    for cell, nodes in enumerate(expected):
        for node in range(5, 12):
            ours = made[f"fpn_cells.{cell}.node{node}"].numpy()
            assert ours.std() > 0.01
            np.testing.assert_allclose(ours, nodes[node], rtol=1e-9, atol=1e-9)
    assert list(outputs) == list(OUTPUT_NODES)
    for name, node in OUTPUT_NODES.items():
        np.testing.assert_allclose(outputs[name].numpy(), expected[-1][node], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("builder", BUILDERS)
def test_pyramid_of_every_builder(builder):
    model = build(builder)
    assert isinstance(model, NASFPN) and type(model.bottom_up) is BUILDERS[builder][1]
    assert BACKBONE_REGISTRY.get(builder)(make_cfg(builder), ShapeSpec(channels=3))
    features = model(torch.rand(2, 3, 128, 256))
    assert list(features) == list(model.output_shape()) == ["p3", "p4", "p5", "p6", "p7"]
    for level, (name, feature) in enumerate(features.items(), start=3):
        stride = 2**level
        assert model.output_shape()[name] == ShapeSpec(channels=8, stride=stride)
        assert feature.shape == (2, 8, 128 // stride, 256 // stride)
        assert feature.isfinite().all() and feature.std() > 0
    assert model.size_divisibility == 128


@pytest.mark.parametrize("builder", BUILDERS)
def test_gradient_reaches_every_parameter(builder):
    model = build(builder)
    features = model(torch.rand(2, 3, 256, 256))
    sum((feature * torch.rand_like(feature)).sum() for feature in features.values()).backward()
    without = {
        n for n, p in model.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-6
    }
    assert all("ops" in name for name in without)  # off the path of a supernet
    assert bool(without) == ("supernet" in builder)


@pytest.mark.parametrize("height, width", [(120, 128), (128, 192), (800, 1088)])
def test_size_that_does_not_divide(height, width):
    message = f"images of {height}x{width}: .* multiples of 128; pad them to its size_divisibility"
    with pytest.raises(ValueError, match=message):
        make_model()(torch.rand(1, 3, height, width))


@pytest.mark.parametrize("cells, channels", [(1, 8), (3, 12)])
def test_cells_and_channels(cells, channels):
    cfg = make_cfg()
    cfg.MODEL.NAS_FPN.NUM_CELLS = cells
    cfg.MODEL.NAS_FPN.OUT_CHANNELS = channels
    model = build_backbone(cfg)
    inputs = sum(model.bottom_up.output_shape()[name].channels for name in STAGES[1:])
    norms = (7 * cells + 3) * 2 * channels
    expected = 7 * cells * 9 * channels**2 + inputs * channels + norms
    neck = [p for n, p in model.named_parameters() if not n.startswith("bottom_up")]
    assert sum(map(torch.numel, neck)) == expected
    assert {shape.channels for shape in model.output_shape().values()} == {channels}
    assert {f.shape[1] for f in model(torch.rand(2, 3, 128, 128)).values()} == {channels}
    nodes = [m.weight for n, m in model.named_modules() if n.endswith("node7")]
    assert len(nodes) == len({weight.data_ptr() for weight in nodes}) == cells  # not shared


def test_defaults_are_7_at_384():
    cfg = make_cfg()
    cfg.MODEL.NAS_FPN = get_cfg_with_our_keys().MODEL.NAS_FPN
    with torch.device("meta"):
        built = build_backbone(cfg)
        ours = NASFPN(CRResNet([1, 1, 1, 1], out_features=STAGES))
    for model in (built, ours):
        assert len(model.fpn_cells) == 7
        assert model.output_shape()["p3"].channels == 384
        assert type(model.fpn_cells[6]["node11"].norm) is nn.BatchNorm2d


def get_cfg_with_our_keys():
    cfg = get_cfg()
    crnas_d2.add_crnas_config(cfg)
    return cfg


@pytest.mark.parametrize(
    "norm, kind", [("BN", nn.BatchNorm2d), ("GN", nn.GroupNorm), ("", type(None))]
)
def test_norm(norm, kind):
    cfg = make_cfg()
    cfg.MODEL.NAS_FPN.NORM = norm
    model = build_backbone(cfg)
    layers = [m for n, m in model.named_modules() if "node" in n or n.startswith("fpn_lateral")]
    layers = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    assert len(layers) == 2 * 7 + 3
    assert {type(layer.norm) for layer in layers} == {kind}
    assert {layer.bias is None for layer in layers} == {norm != ""}


def test_sync_bn_becomes_bn_where_one_process_trains():
    cfg = make_cfg()
    cfg.MODEL.NAS_FPN.NORM = "SyncBN"
    assert without_sync_bn(cfg, "test").MODEL.NAS_FPN.NORM == "BN"


@torch.no_grad()
def test_input_of_the_same_channels_has_no_convolution():
    model = make_model(num_cells=1).eval()  # res3 has 8 channels
    inputs = []
    model.fpn_cells[0].register_forward_pre_hook(lambda _, args: inputs.extend(args[0]))
    images = torch.rand(1, 3, 128, 128)
    model(images)
    features = model.bottom_up(images)
    assert torch.equal(inputs[0], features["res3"])
    assert torch.equal(inputs[1], model.fpn_lateral4(features["res4"]))
    assert not [*model.fpn_lateral3.parameters()]


@torch.no_grad()
def test_exported_at_one_size_and_run_at_another():
    model = randomize(make_model()).eval()
    images = torch.rand(3, 3, 384, 256)
    expected = model(images)
    example = torch.rand(2, 3, 256, 384)
    adapter = TracingAdapter(model, example)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)  # of torch, tracing is deprecated
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
        traced = torch.jit.trace(adapter, adapter.flattened_inputs, check_trace=False)
    height, width = (128 * torch.export.Dim(name, min=2, max=20) for name in ("height", "width"))
    sizes = {0: torch.export.Dim.DYNAMIC, 2: height, 3: width}
    program = torch.export.export(model, (example,), dynamic_shapes=(sizes,))
    for features in (adapter.outputs_schema(traced(images)), program.module()(images)):
        assert list(features) == list(expected)
        for name, feature in features.items():
            torch.testing.assert_close(feature, expected[name], rtol=1e-4, atol=1e-4)


def test_lazy_config():
    model = instantiate(
        LazyCall(NASFPN)(
            bottom_up=LazyCall(CRMobileNetV2)(
                stage_code=ARCHITECTURES["CR-MobileNetV2"].stage_code,
                width_multiplier=0.25,
                out_features=STAGES[1:],
            ),
            in_features=STAGES[1:],
            out_channels=8,
            num_cells=1,
            norm="GN",
        )
    )
    assert [f.shape[-1] for f in model(torch.rand(1, 3, 256, 256)).values()] == [32, 16, 8, 4, 2]


@pytest.mark.parametrize(
    "options, words",
    [
        ({"in_features": ["res3", "res4"]}, ["['res3', 'res4']", "[8, 16]"]),
        ({"in_features": ["res2", "res3", "res4"]}, ["[4, 8, 16]", "8, 16 and 32"]),
        ({"in_features": ["res3", "res4", "c5"]}, ["[8, 16, None]", "'res2', 'res3'"]),
        ({"num_cells": 0}, ["out_channels, num_cells are 8, 0;"]),
        ({"out_channels": 0}, ["out_channels, num_cells are 0, "]),
    ],
)
def test_bad_arguments(options, words):
    with pytest.raises(ValueError) as error:
        make_model(**options)
    for word in words:
        assert word in str(error.value)


def test_bad_configs():
    cfg = make_cfg()
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res3", "res4"]
    with pytest.raises(ValueError, match="'res5'"):
        build_backbone(cfg)
    with pytest.raises(ValueError, match="MODEL.CR.FAMILY is 'mobilenetv2'; expected 'resnet'"):
        build_backbone(make_cfg("build_cr_resnet_nasfpn_backbone", name="MobileNetV2"))
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME = "build_cr_nasfpn_backbone"
    with pytest.raises(ValueError, match=r"crnas_d2\.add_crnas_config\(cfg\)"):
        build_backbone(cfg)
