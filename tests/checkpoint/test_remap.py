"""Remapped weights against the rules written as loops, and against what the networks compute."""

import copy

import pytest
import torch
from peers import from_timm, images
from remapping import EACH, SEED_CODES, WIDE, build, make_seed
from thin_supernets import (
    FEATURES,
    KINDS,
    STAGE_NAMES,
    STEPS,
    assert_same,
    covering_paths,
    family_of,
    make_space,
    make_supernet,
    randomize,
)
from torchvision.models import mobilenet_v2, resnet18, resnet50, resnext50_32x4d

import crnas_d2
from crnas_d2 import CRResNet
from crnas_d2.checkpoint.convert import convert
from crnas_d2.checkpoint.inherit import inherit_subnet
from crnas_d2.checkpoint.names import without_counters
from crnas_d2.checkpoint.remap import remap_backbone

from detectron2.modeling import build_model

WIDTHS = {"same": KINDS, "wide": WIDE}
LAST_LAYERS = {
    "basic": "conv2",
    "bottleneck": "conv3",
    "resnext": "conv3",
    "mobilenetv2": "project",
}


def features_of(network):
    with torch.no_grad():
        return network.eval()(images())


# The rules, channel by channel --------------------------------------------------------------------


def blocks_of(tensors, stage):
    return {int(key.split(".")[1]) for key in tensors if key.startswith(f"{stage}.")}


def kept(kind, layer, size, groups):
    """Which channels of the seed network stay, where ``size`` do."""
    if kind == "resnext" and layer in groups:
        half = size // 2  # in each of 2 groups, which have twice as many in the seed network
        return [*range(half), *range(size, size + half)]
    return list(range(size))


def take(kind, layer, source, target, widths):
    """Element by element, over the first two axes."""
    if widths is KINDS:
        return source.clone()
    outputs = kept(kind, layer, target.shape[0], ("conv1", "conv2"))
    if target.dim() == 1:
        return torch.stack([source[i] for i in outputs])
    inputs = kept(kind, layer, target.shape[1], ("conv3",))
    return torch.stack([torch.stack([source[i, j] for j in inputs]) for i in outputs])


def follow_the_rules(kind, seed, fresh, widths):
    expected = {}
    for key, tensor in without_counters(fresh).items():
        stage, *rest = key.split(".")
        source, layer = key, None
        if stage in STAGE_NAMES[family_of(kind)]:
            block, layer = int(rest[0]), rest[1]
            last = max(blocks_of(seed, stage))
            if block > last and last == 0:
                expected[key] = tensor
                continue
            source = ".".join([stage, str(min(block, last)), *rest[1:]])
        expected[key] = take(kind, layer, seed[source], tensor, widths)
    return expected


def codes(kind):
    if kind == "mobilenetv2":
        return [(1, 1, 3, 1, 5, 2, 4, 1, 1, 1), (1, 1, 1, 2, 1, 1, 1, 1, 1, 1)]
    return [(3, 4, 1, 5), (1, 1, 2, 2)]


@pytest.mark.parametrize("width", WIDTHS)
@EACH
def test_networks_follow_the_rules(kind, width):
    seed = make_seed(kind, WIDTHS[width]).state_dict()
    before = copy.deepcopy(seed)
    for code in codes(kind):
        target = build(kind, code, operation_code=[0] * (sum(code) - 2) + [0, 0])
        fresh = copy.deepcopy(target.state_dict())
        weights, _ = remap_backbone(seed, target)
        assert_same(weights, follow_the_rules(kind, seed, fresh, WIDTHS[width]))
        target.load_state_dict(weights, strict=True)
    assert_same(seed, before)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("step", STEPS)
@EACH
def test_every_path_of_a_supernet_follows_the_rules(kind, step, width):
    seed = make_seed(kind, WIDTHS[width]).state_dict()
    torch.manual_seed(2)
    target = randomize(make_supernet(step, kind))
    fresh = copy.deepcopy(target.state_dict())
    weights, report = remap_backbone(seed, target)
    assert weights.keys() == report.origins.keys() == without_counters(fresh).keys()
    assert_same(target.state_dict(), fresh)
    for path in covering_paths(make_space(step, kind)):
        expected = follow_the_rules(kind, seed, inherit_subnet(fresh, path), WIDTHS[width])
        assert_same(inherit_subnet(weights, path), expected)
    target.load_state_dict(weights, strict=True)


def test_dilated_convolutions_take_the_plain_weights():
    seed = make_seed("basic").state_dict()
    dilated = build("basic", (1, 2, 3, 3), operation_code=[1, 0, 2, 0, 1, 2, 1, 1, 2])
    weights, _ = remap_backbone(seed, dilated)
    assert_same(weights, without_counters(seed))


@pytest.mark.parametrize("step", [None, "dilation"])
@EACH
def test_interpolated_kernels_do_the_same_to_a_bilinear_input(kind, step):
    """As the plain ones, away from the border, where both see what lies outside as zero."""
    seed = make_seed(kind).double()
    code = SEED_CODES[family_of(kind)]
    if step is None:
        operations = [0, *[1, 2] * 2, *[1] * (sum(code) - 5)]
        if kind == "mobilenetv2":
            operations[-2:] = [0, 0]  # of its tail
        target = build(kind, code, operation_code=operations).double()
    else:
        target = make_supernet(step, kind).double()
        seed = make_seed(kind, stage_code=target.space.stage_code).double()
    plain, _ = remap_backbone(seed.state_dict(), target)
    weights, report = remap_backbone(seed.state_dict(), target, interpolate_dilated=True)
    dilated = [name for name, origin in report.origins.items() if origin.is_dilated]
    assert len(dilated) > 3
    for name, tensor in weights.items():
        if name not in dilated:
            assert torch.equal(tensor, plain[name])
    row, column = (torch.arange(24.0, dtype=torch.float64) for _ in range(2))
    met = set()
    for name in dilated:
        conv = target.get_submodule(name.removesuffix(".weight"))
        dilation = conv.dilation[0]
        met.add(dilation)
        shape = (1, conv.in_channels, 1, 1)
        a, b, c, d = torch.randn(4, *shape, dtype=torch.float64)
        x = a + b * row[:, None] + c * column + d * row[:, None] * column
        options = {"groups": conv.groups, "dilation": dilation}
        own = torch.nn.functional.conv2d(x, weights[name], **options)
        theirs = torch.nn.functional.conv2d(x, plain[name], groups=conv.groups)
        inner = theirs[:, :, dilation - 1 : 1 - dilation, dilation - 1 : 1 - dilation]
        torch.testing.assert_close(own, inner)
        assert not torch.allclose(
            torch.nn.functional.conv2d(x, plain[name], **options), inner, rtol=0.01
        )
    assert met == {2, 3}


# What the networks compute ------------------------------------------------------------------------


@EACH
def test_a_cut_network_computes_the_channels_that_it_keeps(kind):
    """Of a network whose other channels are zero; so the channels of all layers fit together."""
    widths = {**WIDE, "mobilenetv2": {"width_multiplier": 1.0}}
    seed = make_seed(kind, widths)
    half = build(kind, SEED_CODES[family_of(kind)], {**KINDS, "mobilenetv2": WIDE[kind]})
    shapes, tensors = half.state_dict(), seed.state_dict()
    for key, tensor in without_counters(tensors).items():
        if tensor.dim() == 1:
            per_group = kind == "resnext" and ("conv1" in key or "conv2" in key)
            groups = 2 if per_group and "stem" not in key else 1
            lanes = tensor.view(groups, -1)  # a view: what is set to zero is so in the network
            if key.endswith(("norm.weight", "norm.bias")):
                lanes[:, len(shapes[key]) // groups :] = 0
    weights, _ = remap_backbone(tensors, half)
    half.load_state_dict(weights)
    full, cut = features_of(seed), features_of(half)
    for name in FEATURES:
        channels = cut[name].shape[1]
        assert cut[name].std() > 1e-3
        torch.testing.assert_close(full[name][:, :channels], cut[name], rtol=1e-4, atol=1e-5)


def deeper(kind):
    if kind == "mobilenetv2":
        return (1, 2, 3, 4, 4, 3, 4, 2, 1, 1)
    return (3, 4, 4, 5)


@EACH
def test_function_preserving(kind):
    seed = make_seed(kind)
    torch.manual_seed(5)
    target = build(kind, deeper(kind))
    target.load_state_dict(remap_backbone(seed.state_dict(), target, function_preserving=True)[0])
    expected = features_of(seed)
    for name, feature in features_of(target).items():
        assert feature.std() > 1e-3
        assert torch.equal(feature, expected[name])

    target.load_state_dict(remap_backbone(seed.state_dict(), target)[0])
    assert not torch.allclose(features_of(target)["res5"], expected["res5"], rtol=0.1)


@EACH
def test_function_preserving_keeps_all_but_the_last_norms_of_added_blocks(kind):
    seed = make_seed(kind).state_dict()
    target = build(kind, deeper(kind))
    plain, _ = remap_backbone(seed, target)
    weights, report = remap_backbone(seed, target, function_preserving=True)
    zeroed = {
        f"{stage}.{block}.{LAST_LAYERS[kind]}.norm.{name}"
        for stage, depth, more in zip(
            STAGE_NAMES[family_of(kind)], SEED_CODES[family_of(kind)], deeper(kind)
        )
        for block in range(depth, more)
        for name in ("weight", "bias")
    }
    assert zeroed
    for key, tensor in weights.items():
        assert torch.equal(tensor, plain[key] if key not in zeroed else 0 * plain[key]), key
    assert {key for key, origin in report.origins.items() if origin.how == "zeroed"} == zeroed


@EACH
def test_function_preserving_branches_compute_the_same(kind):
    depths = [1, 1, 2, 3] if family_of(kind) == "resnet" else [1, 1, 1, 1, 2, 1, 2, 1, 1, 1]
    seed = make_seed(kind, stage_code=depths)
    supernet = make_supernet("stage", kind)
    weights, _ = remap_backbone(seed.state_dict(), supernet, function_preserving=True)
    supernet.load_state_dict(weights)
    deep = [max(choices) for choices in supernet.space.choices]
    supernet.set_path(deep)
    expected = features_of(seed)
    for name, feature in features_of(supernet).items():
        assert torch.equal(feature, expected[name])


@EACH
def test_function_preserving_blocks_behind_frozen_norms_learn(kind):
    """A frozen norm of weight 0 would hold its block at the identity for good."""
    seed = make_seed(kind)
    target = build(kind, deeper(kind), norm="FrozenBN")
    target.load_state_dict(remap_backbone(seed.state_dict(), target, function_preserving=True)[0])
    expected = features_of(seed)
    for name, feature in features_of(target).items():
        torch.testing.assert_close(feature, expected[name])
    target(images())["res5"].square().mean().backward()
    added = STAGE_NAMES[family_of(kind)][3 if kind != "mobilenetv2" else 6]
    last = getattr(getattr(target, added)[-1], LAST_LAYERS[kind])
    assert not last.weight.any() and last.weight.grad.abs().max() > 0


@EACH
def test_blocks_that_are_frozen_whole_have_a_zeroed_norm(kind):
    target = build(kind, deeper(kind), freeze_at=5)
    _, report = remap_backbone(make_seed(kind).state_dict(), target, function_preserving=True)
    zeroed = [name for name, origin in report.origins.items() if origin.how == "zeroed"]
    assert zeroed and all(name.endswith(("norm.weight", "norm.bias")) for name in zeroed)


# Networks of other projects -----------------------------------------------------------------------


PEERS = [
    resnet18,
    resnet50,
    resnext50_32x4d,
    mobilenet_v2,
    from_timm("resnet18"),
    from_timm("mobilenetv2_100"),
]


@pytest.mark.parametrize("make", PEERS)
def test_the_same_architecture_takes_the_converted_weights(make):
    torch.manual_seed(0)
    converted, description = convert(make().state_dict())
    weights, report = remap_backbone(converted, description.build())
    assert_same(weights, converted)
    assert {(o.how, o.source == name, o.is_cut) for name, o in report.origins.items()} == {
        ("copied", True, False)
    }
    assert report.unused == ()


def test_half_width_supernet_of_a_public_resnext():
    """Channels of the first group's end and of the second group's begin, by hand."""
    peer = resnext50_32x4d()
    converted, _ = convert(peer.state_dict())
    half = CRResNet(
        (1, 1, 1, 1), stem_out_channels=32, res2_out_channels=128, num_groups=32, width_per_group=2
    )
    weights, _ = remap_backbone(converted, half)
    middle, out = weights["res2.0.conv2.weight"], weights["res2.0.conv3.weight"]
    theirs = peer.layer1[0]
    assert middle.shape == (64, 2, 3, 3) and out.shape == (128, 64, 1, 1)
    for channel, their_channel in ((0, 0), (1, 1), (2, 4), (3, 5), (62, 124), (63, 125)):
        assert torch.equal(middle[channel], theirs.conv2.weight[their_channel, :2])
        assert torch.equal(out[:, channel], theirs.conv3.weight[:128, their_channel])
        entry = weights["res2.0.conv1.weight"][channel]
        assert torch.equal(entry, theirs.conv1.weight[their_channel, :32])


# The report ---------------------------------------------------------------------------------------


# Errors -------------------------------------------------------------------------------------------

RESNET = "resnet of bottleneck blocks"


@pytest.mark.parametrize(
    "seed, target, message",
    [
        ("basic", "bottleneck", f"resnet of basic blocks, .* the target is a {RESNET}, "),
        ("mobilenetv2", "basic", "a mobilenetv2 of inverted residual blocks, .* a resnet of basic"),
        ("bottleneck", "resnext", f"a {RESNET}, .* the target is a {RESNET} in 2 groups"),
        ("resnext", "bottleneck", f"a {RESNET} in 2 groups, .* the target is a {RESNET}, "),
    ],
)
def test_another_kind_of_network_is_refused(seed, target, message):
    for supernet in (build(target, make_seed(target).architecture.stage_code), None):
        supernet = supernet or make_supernet("stage", target)
        with pytest.raises(ValueError, match=message):
            remap_backbone(make_seed(seed).state_dict(), supernet)


def test_another_number_of_groups_is_refused():
    widths = {"resnext": {**KINDS["resnext"], "num_groups": 4, "width_per_group": 2}}
    with pytest.raises(ValueError, match="in 4 groups, .* the target .* in 2 groups"):
        remap_backbone(make_seed("resnext", widths).state_dict(), build("resnext", (1, 1, 1, 1)))


@EACH
def test_a_wider_target_is_refused(kind):
    seed = make_seed(kind).state_dict()
    first = r"stem\.(0\.)?conv1?\.weight has shape \(8, 3, \d, \d\) .*, \(16, 3, \d, \d\) in the"
    with pytest.raises(ValueError, match=first):
        remap_backbone(seed, build(kind, SEED_CODES[family_of(kind)], WIDE))


def test_another_norm_is_refused():
    target = build("basic", (1, 2, 3, 3), norm="GN")
    with pytest.raises(ValueError, match="running_var; the target .* norms have weight, bias$"):
        remap_backbone(make_seed("basic").state_dict(), target)
    target = build("basic", (1, 2, 3, 3), norm="")
    with pytest.raises(ValueError, match="function_preserving: the target has no norms"):
        remap_backbone(build("basic", (1, 1, 1, 1), norm="").state_dict(), target, True)


@pytest.mark.parametrize("norm", ["FrozenBN", "SyncBN"])
def test_batch_norms_of_all_kinds_are_one(norm):
    seed = make_seed("basic").state_dict()
    target = build("basic", (1, 2, 3, 3), norm=norm)
    weights, _ = remap_backbone(seed, target)
    assert_same(weights, without_counters(seed))


@pytest.mark.parametrize("step", STEPS)
@EACH
def test_a_supernet_is_no_seed(kind, step):
    supernet = make_supernet(step, kind)
    with pytest.raises(ValueError, match="the seed network is a supernet; .* inherit_subnet"):
        remap_backbone(supernet.state_dict(), supernet)


def test_a_seed_without_the_names_is_refused():
    with pytest.raises(ValueError, match="the seed network has no tensor res2.0.*: conv1.weight"):
        remap_backbone(resnet18().state_dict(), build("basic", (1, 1, 1, 1)))


def test_a_seed_with_a_hole_is_refused():
    seed = make_seed("basic").state_dict()
    del seed["res4.2.conv1.norm.bias"]
    with pytest.raises(ValueError, match="the seed network has no tensor res4.2.conv1.norm.bias"):
        remap_backbone(seed, build("basic", (1, 1, 5, 1)))


def test_a_target_without_a_backbone_is_refused():
    with pytest.raises(ValueError, match="the target Sequential is no CRResNet, "):
        remap_backbone(make_seed("basic").state_dict(), torch.nn.Sequential())


def test_res5_of_a_c4_detector_is_remapped_where_it_lies():
    cfg = crnas_d2.get_config("COCO-Detection/faster_rcnn_CR_R_50_C4_1x.yaml")
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.RESNETS.update(
        STEM_OUT_CHANNELS=8, RES2_OUT_CHANNELS=16, WIDTH_PER_GROUP=4, NORM="BN"
    )
    model = build_model(cfg)
    seed = make_seed("bottleneck")
    network = CRResNet(cfg.MODEL.CR.STAGE_CODE, cfg.MODEL.CR.OPERATION_CODE, **KINDS["bottleneck"])
    expected, _ = remap_backbone(seed.state_dict(), network)
    weights, report = remap_backbone(seed.state_dict(), model)
    assert_same(weights, expected)
    assert "res5" in report.changes()
    model.roi_heads.res5.load_state_dict(
        {k.removeprefix("res5."): t for k, t in weights.items() if k.startswith("res5.")},
        strict=False,
    )
