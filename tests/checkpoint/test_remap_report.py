"""What a remap says of itself: which tensors came from where, and what changed."""

import json
import re

import torch
from remapping import EACH, SEED_CODES, WIDE, build, make_seed
from thin_supernets import (
    assert_same,
    family_of,
    make_supernet,
)

from crnas_d2.checkpoint.remap import remap_backbone

from detectron2.modeling import FPN


def counts(row):
    return [row[name] for name in ("copied", "repeated", "zeroed", "initialised", "cut")]


def test_report_of_a_network():
    seed = make_seed("basic", WIDE).state_dict()
    weights, report = remap_backbone(seed, build("basic", (3, 4, 1, 3)), function_preserving=True)
    rows = {row["part"]: row for row in report.rows()}
    assert list(rows) == ["stem", "res2", "res3", "res4", "res5"]
    # 5 tensors for each convolution and its norm; res3 to res5 have one for the shortcut
    assert counts(rows["stem"]) == [5, 0, 0, 0, 5] and rows["stem"]["seed_blocks"] == []
    assert counts(rows["res2"]) == [10, 0, 4, 16, 10]
    assert rows["res2"]["seed_blocks"] == [0, None, None]
    assert counts(rows["res3"]) == [25, 16, 4, 0, 41]
    assert rows["res3"]["seed_blocks"] == [0, 1, 1, 1]
    assert counts(rows["res4"]) == [15, 0, 0, 0, 15]
    assert counts(rows["res5"]) == [35, 0, 0, 0, 35]
    assert sum(sum(counts(row)[:4]) for row in rows.values()) == len(weights)
    assert len(report.unused) == 20 and all(k.startswith("res4.") for k in report.unused)

    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in str(report).splitlines()]
    assert ["res2", "0, none x 2", "10", "0", "4", "16", "10"] in lines
    assert ["res3", "0-1, 1 x 2", "25", "16", "4", "0", "41"] in lines
    assert str(report).splitlines()[-1] == "not used of the seed network: res4.1, res4.2"
    kept = json.loads(report.metadata()["remap"])
    assert kept == {"parts": report.rows(), "unused": list(report.unused)}


def test_changes_of_a_network():
    seed = make_seed("basic").state_dict()
    target = build("basic", (1, 3, 2, 3), operation_code=[0, 0, 0, 0, 0, 0, 0, 2, 0])
    _, report = remap_backbone(seed, target)
    assert report.changes() == {"res3": "repeated", "res4": "shortened", "res5": "dilated"}
    _, report = remap_backbone(seed, target, function_preserving=True)
    assert report.changes()["res3"] == "repeated"
    _, report = remap_backbone(seed, build("basic", (2, 2, 3, 3)))
    assert report.changes() == {"res2": "initialised"}
    _, report = remap_backbone(make_seed("basic", WIDE).state_dict(), build("basic", (1, 2, 3, 1)))
    assert report.changes() == {
        **dict.fromkeys(["stem", "res2", "res3", "res4"], "cut"),
        "res5": "cut, shortened",
    }


@EACH
def test_no_changes_where_all_is_copied(kind):
    seed = make_seed(kind)
    assert remap_backbone(seed.state_dict(), seed)[1].changes() == {}
    smaller = build(kind, SEED_CODES[family_of(kind)], out_features=["res2", "res3"])
    assert remap_backbone(seed.state_dict(), smaller)[1].changes() == {}


@EACH
def test_dilated_candidates_of_a_supernet_are_changes(kind):
    """All but those of operation 0, in a supernet whose stages are as deep as the seed's."""
    supernet = make_supernet("dilation", kind)
    seed = make_seed(kind, stage_code=supernet.space.stage_code)
    _, report = remap_backbone(seed.state_dict(), supernet)
    dilated = {name for name, origin in report.origins.items() if origin.is_dilated}
    layer = "depthwise" if kind == "mobilenetv2" else "conv2"
    blocks = [choice for choice in supernet.space.choices if len(choice) > 1]
    assert len(dilated) == 2 * len(blocks)
    assert all(re.fullmatch(rf"\w+\.\d+\.{layer}\.ops\.[12]\.weight", name) for name in dilated)
    assert set(report.changes().values()) == {"dilated"}


def test_report_of_supernets():
    seed = make_seed("basic").state_dict()
    _, report = remap_backbone(seed, make_supernet("stage", "basic"))
    rows = {row["part"]: row["seed_blocks"] for row in report.rows()}
    assert list(rows)[:3] == ["stem", "res2.ops.1", "res2.ops.2"]
    assert rows["res4.ops.4"] == [0, 1, 2, 2] and rows["res2.ops.2"] == [0, None]
    _, report = remap_backbone(seed, make_supernet("shared", "basic"))
    rows = {row["part"]: row["seed_blocks"] for row in report.rows()}
    assert rows["res4.ops.2"] == [0, 1] and rows["res4.ops.4"] == [2, 2]
    assert rows["res2.ops.2"] == [None]
    _, report = remap_backbone(seed, make_supernet("dilation", "basic"))
    rows = {row["part"]: row for row in report.rows()}
    # of res3, with 2 blocks: 5 for each conv1 and the shortcut, 5 for each of 3 candidates
    assert counts(rows["res3"]) == [5 + 2 * 20, 0, 0, 0, 0]


def test_a_shortcut_that_the_seed_does_not_have_stays_as_it_is():
    seed = make_seed("basic", {"basic": {**WIDE["basic"], "stem_out_channels": 16}})
    target = build("basic", (1, 2, 3, 3))
    assert "res2.0.shortcut.weight" not in target.state_dict()
    widths = {"basic": {"block": "basic", "stem_out_channels": 8, "res2_out_channels": 16}}
    target = build("basic", (1, 2, 3, 3), widths)
    weights, report = remap_backbone(seed.state_dict(), target)
    name = "res2.0.shortcut.weight"
    assert torch.equal(weights[name], target.state_dict()[name])
    assert report.origins[name].how == "initialised"


def test_a_stage_that_the_seed_does_not_have_stays_as_it_is():
    seed = make_seed("basic").state_dict()
    seed = {key: tensor for key, tensor in seed.items() if not key.startswith("res5.")}
    target = build("basic", (1, 2, 3, 2))
    weights, report = remap_backbone(seed, target, function_preserving=True)
    assert report.rows()[-1]["initialised"] == 25
    for name, tensor in target.state_dict().items():
        if name.startswith("res5.") and name in weights:
            assert torch.equal(weights[name], tensor)


def test_the_target_may_be_inside_another_model():
    seed = make_seed("bottleneck").state_dict()
    backbone = build("bottleneck", (2, 2, 3, 3))
    weights, _ = remap_backbone(seed, backbone)
    model = torch.nn.Sequential(FPN(backbone, ["res3", "res4"], 8))
    assert_same(remap_backbone(seed, model)[0], weights)


def test_tensors_have_memory_of_their_own():
    seed, target = make_seed("basic").state_dict(), build("basic", (2, 2, 3, 5))
    weights, _ = remap_backbone(seed, target)
    every = [*seed.values(), *target.state_dict().values(), *weights.values()]
    addresses = [t.data_ptr() for t in every]
    assert len(set(addresses)) == len(addresses)
    assert not any(tensor.requires_grad for tensor in weights.values())


def test_type_and_device_are_the_targets():
    seed = {k: t.half() if t.dim() else t for k, t in make_seed("basic").state_dict().items()}
    weights, _ = remap_backbone(seed, build("basic", (1, 2, 3, 3)).double())
    assert {tensor.dtype for tensor in weights.values()} == {torch.float64}
