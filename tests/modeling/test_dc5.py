"""res5 at the stride of res4, dilated (DC5), against Detectron2's; and in supernets."""

import pytest
import torch
from test_cr_resnet import assert_same, make_cfg, make_pair
from thin_supernets import (
    KINDS,
    STEPS,
    covering_paths,
    loss_of,
    make_final,
    make_supernet,
    randomize,
)

from crnas_d2.checkpoint import inherit_subnet

from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone

THIN = {"STEM_OUT_CHANNELS": 16, "RES2_OUT_CHANNELS": 32, "WIDTH_PER_GROUP": 8}


@pytest.mark.parametrize("stride_in_1x1", [False, True])
@pytest.mark.parametrize("groups", [1, 4])
def test_baseline_is_detectron2s_network(groups, stride_in_1x1):
    torch.manual_seed(0)
    keys = {"RES5_DILATION": 2, "NUM_GROUPS": groups, "STRIDE_IN_1X1": stride_in_1x1, **THIN}
    ours, theirs = make_pair(make_cfg("ResNet50", keys))
    assert ours.output_shape() == theirs.output_shape()
    assert ours.output_shape()["res5"] == ShapeSpec(channels=256, stride=16)
    images = torch.rand(2, 3, 64, 96)
    for module in (ours, theirs):
        loss_of(module.train()(images)).backward()
    assert_same(
        {name: p.grad for name, p in ours.named_parameters()},
        {name: p.grad for name, p in theirs.named_parameters()},
    )
    assert_same(ours.state_dict(), theirs.state_dict())  # running statistics, after the step
    assert_same(ours.eval()(images), theirs.eval()(images))


def test_operation_code_multiplies():
    model = build_backbone(dc5_cfg("CR-ResNet50"))
    blocks = [block for stage in model.stages for block in stage]
    code = list(model.architecture.operation_code)
    factors = [1] * 9 + [2] * 7
    assert [b.conv2.dilation[0] for b in blocks] == [f * (o + 1) for f, o in zip(factors, code)]
    assert [b.conv2.padding for b in blocks] == [b.conv2.dilation for b in blocks]


def dc5_cfg(name):
    cfg = make_cfg(name, {"RES5_DILATION": 2, **THIN})
    cfg.MODEL.BACKBONE.NAME = "build_cr_backbone"
    return cfg


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("step", STEPS)
def test_a_path_of_a_supernet_is_its_final_network(step, kind):
    torch.manual_seed(0)
    supernet = make_supernet(step, kind, res5_dilation=2)
    randomize(supernet).eval()
    images = torch.rand(1, 3, 64, 96)
    assert [shape.stride for shape in supernet.output_shape().values()] == [4, 8, 16, 16]
    for path in covering_paths(supernet.space):
        final = make_final(step, kind, path, res5_dilation=2).eval()
        final.load_state_dict(inherit_subnet(supernet.state_dict(), path))
        supernet.set_path(path)
        with torch.no_grad():
            features = supernet(images)
            assert_same(features, final(images))
        assert features["res5"].shape[2:] == features["res4"].shape[2:] == (4, 6)


@pytest.mark.parametrize("step", ["stage", "dilation"])
def test_supernets_take_the_key(step):
    cfg = dc5_cfg("ResNet50")
    cfg.MODEL.BACKBONE.NAME = f"build_{step}_supernet_backbone"
    with torch.device("meta"):
        assert build_backbone(cfg).output_shape()["res5"].stride == 16
