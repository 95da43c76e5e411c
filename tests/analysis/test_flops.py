"""Multiply-adds and parameters against hand-written formulas, fvcore, torch, torchvision and golden values."""

import os

import pytest
import torch
import torchvision
from counted import Layers, c4_config, config, conv, executed_flops, mask_rcnn
from fvcore.nn import FlopCountAnalysis
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import crnas_d2
from crnas_d2.analysis import analyze_detector

import detectron2
from detectron2.config import get_cfg
from detectron2.modeling import (
    build_model,
)
from detectron2.structures import Boxes

RESNET_STAGES = ("stem", "res2", "res3", "res4", "res5")
MOBILENETV2_STAGES = ("stem", "c16", "c24", "c32", "c64", "c96", "c160", "c320", "c1280")

# 1e9 multiply-adds at 800x1088: the stages, then backbone and FPN lateral
GOLDEN = {
    "R_18": (RESNET_STAGES, (2.047, 8.022, 7.130, 7.130, 7.130), 31.460, 1.671),
    "R_50": (RESNET_STAGES, (2.047, 11.587, 17.826, 25.402, 14.038), 70.899, 6.685),
    "R_101": (RESNET_STAGES, (2.047, 11.587, 17.826, 89.797, 14.038), 135.295, 6.685),
    "X_50_32x4d": (RESNET_STAGES, (2.047, 11.002, 18.828, 26.460, 15.013), 73.350, 6.685),
    "X_101_32x4d": (RESNET_STAGES, (2.047, 11.002, 18.828, 91.329, 15.013), 138.220, 6.685),
    "MNV2": (
        MOBILENETV2_STAGES,
        (0.188, 0.174, 0.953, 0.650, 0.668, 1.008, 0.808, 0.399, 0.348),
        5.195,
        0.808,
    ),
}


def detectron2_config(name):
    cfg = get_cfg()
    crnas_d2.add_crnas_config(cfg)
    folder = os.path.join(os.path.dirname(detectron2.__file__), "model_zoo", "configs")
    cfg.merge_from_file(os.path.join(folder, name))
    return cfg


def macs(cost):
    return {module.name: module.macs for module in cost.modules}


def giga(number):
    return pytest.approx(number * 1e9, abs=0.5e6)


@pytest.mark.parametrize("network", GOLDEN)
def test_golden_values(network):
    stages, stage_macs, backbone, lateral = GOLDEN[network]
    cost = analyze_detector(config(network))
    assert tuple(m.name for m in cost.modules if m.part == "backbone") == stages
    assert macs(cost) == {
        **{stage: giga(number) for stage, number in zip(stages, stage_macs, strict=True)},
        "FPN lateral": giga(lateral),
        "FPN output": giga(42.615),
        "FPN top block": 0,
        "RPN head": giga(43.023),
        "box head": giga(13.894),
        "box predictor": giga(0.411),
    }
    assert cost.backbone_macs == giga(backbone)
    assert cost.macs == sum(macs(cost).values())


def test_golden_values_of_heads_for_each_roi():
    per_roi = {
        m.name: (m.macs / m.rois, m.rois) for m in analyze_detector(mask_rcnn("R_18")).modules[-3:]
    }
    assert per_roi == {
        "box head": (pytest.approx(13.894e6, abs=500), 1000),
        "box predictor": (pytest.approx(0.411e6, abs=500), 1000),
        "mask head": (pytest.approx(529.859e6, abs=500), 100),
    }


@pytest.mark.parametrize(
    "network, groups, width, blocks",
    [("R_50", 1, 64, (3, 4, 6, 3)), ("X_50_32x4d", 32, 128, (3, 4, 6, 3))],
)
def test_bottlenecks_by_formula(network, groups, width, blocks):
    h, w = 200, 272
    expected = {"stem": conv(400, 544, 3, 64, 7)}
    inputs, outputs = 64, 256
    for stage, depth in zip(RESNET_STAGES[1:], blocks):
        input_h, input_w = (h, w) if stage == "res2" else (2 * h, 2 * w)
        first = (
            conv(input_h, input_w, inputs, width, 1)
            + conv(h, w, width, width, 3, groups)
            + conv(h, w, width, outputs, 1)
            + conv(h, w, inputs, outputs, 1)
        )
        later = (
            conv(h, w, outputs, width, 1)
            + conv(h, w, width, width, 3, groups)
            + conv(h, w, width, outputs, 1)
        )
        expected[stage] = first + (depth - 1) * later
        inputs, outputs, width, h, w = outputs, 2 * outputs, 2 * width, h // 2, w // 2

    levels = {2: (200, 272), 3: (100, 136), 4: (50, 68), 5: (25, 34)}
    expected["FPN lateral"] = sum(conv(*hw, 64 * 2**p, 256, 1) for p, hw in levels.items())
    expected["FPN output"] = sum(conv(*hw, 256, 256, 3) for hw in levels.values())
    expected["FPN top block"] = 0
    expected["RPN head"] = sum(
        conv(*hw, 256, 256, 3) + conv(*hw, 256, 3 * (1 + 4), 1)
        for hw in (*levels.values(), (13, 17))
    )
    expected["box head"] = 1000 * (7 * 7 * 256 * 1024 + 1024 * 1024)
    expected["box predictor"] = 1000 * 1024 * (81 + 80 * 4)
    assert macs(analyze_detector(config(network))) == expected


def test_mobilenetv2_as_fvcore_counts_it():
    cfg = config("CR_MNV2")
    cfg.MODEL.DEVICE = "cpu"
    backbone = build_model(cfg).eval().backbone
    counted = FlopCountAnalysis(backbone, torch.zeros(1, 3, 96, 160))
    counted.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    # fvcore counts norms and resizing beside the convolutions.
    by_module = {name: ops["conv"] for name, ops in counted.by_module_and_operator().items()}

    measured = macs(analyze_detector(cfg, (96, 160)))
    for stage in MOBILENETV2_STAGES:
        assert measured[stage] == by_module[f"bottom_up.{stage}"]
    for layers in ("lateral", "output"):
        expected = sum(by_module[f"fpn_{layers}{level}"] for level in range(2, 6))
        assert measured[f"FPN {layers}"] == expected


def test_heads_as_fvcore_counts_them():
    cfg = mask_rcnn("R_18")
    cfg.MODEL.DEVICE = "cpu"
    heads = build_model(cfg).eval().roi_heads
    box = nn.Sequential(heads.box_head, heads.box_predictor)
    measured = macs(analyze_detector(cfg, (64, 64), proposals=3, mask_rois=2))
    boxes = FlopCountAnalysis(box, torch.zeros(3, 256, 7, 7)).total()
    masks = FlopCountAnalysis(Layers(heads.mask_head), torch.zeros(2, 256, 14, 14)).total()
    assert measured["box head"] + measured["box predictor"] == boxes
    assert measured["mask head"] == masks


@pytest.mark.parametrize(
    "baseline, reallocated",
    [
        ("R_18", ("SCR_R_18", "CR_R_18")),
        ("R_50", ("SCR_R_50", "CR_R_50")),
        ("R_101", ("SCR_R_101", "CR_R_101")),
        ("X_50_32x4d", ("SCR_X_50_32x4d",)),
        ("X_101_32x4d", ("SCR_X_101_32x4d",)),
    ],
)
def test_reallocation_of_resnets_is_neutral(baseline, reallocated):
    expected = analyze_detector(config(baseline))
    for network in reallocated:
        cost = analyze_detector(config(network))
        assert macs(cost) != macs(expected)
        assert cost.backbone_macs == expected.backbone_macs
        assert cost.macs == expected.macs


def test_reallocation_of_mobilenetv2_adds_little():
    baseline, scr, cr = (
        analyze_detector(config(network)) for network in ("MNV2", "SCR_MNV2", "CR_MNV2")
    )
    assert cr.backbone_macs - baseline.backbone_macs == giga(0.293)
    assert cr.macs == scr.macs  # dilation costs nothing


@pytest.mark.parametrize(
    "network, reference",
    [
        ("R_18", torchvision.models.resnet18),
        ("R_101", torchvision.models.resnet101),
        ("X_50_32x4d", torchvision.models.resnext50_32x4d),
        ("MNV2", torchvision.models.mobilenet_v2),
    ],
)
def test_backbone_parameters_are_torchvisions(network, reference):
    with torch.device("meta"):
        peer = reference()
    classifier = peer.fc if hasattr(peer, "fc") else peer.classifier
    expected = sum(p.numel() for p in peer.parameters())
    expected -= sum(p.numel() for p in classifier.parameters())
    cost = analyze_detector(config(network), (64, 64))
    assert sum(m.parameters for m in cost.modules if m.part == "backbone") == expected


def test_no_parameter_is_left_out():
    cfg = mask_rcnn("CR_R_50")
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    with torch.device("meta"):
        cfg.MODEL.DEVICE = "meta"
        model = build_model(cfg)
    expected = sum(parameter.numel() for parameter in model.parameters())
    assert analyze_detector(cfg).parameters == expected
    cfg.MODEL.BACKBONE.FREEZE_AT = 3
    assert analyze_detector(cfg).parameters == expected


@pytest.mark.parametrize("norm", ["FrozenBN", "BN", "GN"])
def test_norm_adds_no_macs(norm):
    def macs(cfg):
        return {module.name: module.macs for module in analyze_detector(cfg).modules}

    cfg = config("CR_R_18")
    expected = macs(cfg)
    cfg.MODEL.RESNETS.NORM = norm
    cfg.MODEL.FPN.NORM = norm
    assert macs(cfg) == expected


def test_image_is_padded_as_by_the_model():
    cfg = config("CR_R_18")
    assert analyze_detector(cfg, (769, 1057)) == analyze_detector(cfg, (800, 1088))
    assert analyze_detector(cfg, (768, 1088)).macs < analyze_detector(cfg, (800, 1088)).macs


def test_detectron2s_own_resnet():
    ours = config("R_50")
    own = detectron2_config("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml")
    own.MODEL.RESNETS.STRIDE_IN_1X1 = False
    assert macs(analyze_detector(own)) == macs(analyze_detector(ours))
    own.MODEL.RESNETS.STRIDE_IN_1X1 = True
    less = analyze_detector(ours).backbone_macs - analyze_detector(own).backbone_macs
    assert less == pytest.approx(4.01e9, abs=5e6)


def test_cascade_counts_each_box_head():
    cfg = detectron2_config("Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml")
    cost = analyze_detector(cfg, proposals=512)
    counted = {m.name: (m.macs, m.rois) for m in cost.modules if m.part == "RoI heads"}
    head = 512 * (7 * 7 * 256 * 1024 + 1024 * 1024)
    predictor = 512 * 1024 * (81 + 4)
    assert {name: value for name, value in counted.items() if "box" in name} == {
        f"{name} {stage}": (number, 512)
        for stage in (1, 2, 3)
        for name, number in (("box head", head), ("box predictor", predictor))
    }
    assert counted["mask head"][1] == 100


@pytest.mark.parametrize("mask", [False, True])
def test_c4_as_torch_counts_what_it_executes(mask):
    """On 7 proposals, of which the 2 best go through res5 again for their masks."""
    cfg = c4_config(mask)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.RESNETS.NORM = "BN"
    model = build_model(cfg).eval()
    heads = model.roi_heads
    features = {"res4": torch.zeros(1, 1024, 12, 16)}

    def transform(boxes):
        boxes = torch.tensor([[8.0, 8.0, 100.0, 60.0]]).repeat(boxes, 1)
        return heads._shared_roi_transform([features["res4"]], [Boxes(boxes)])

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.backbone(torch.zeros(1, 3, 192, 256))
        model.proposal_generator.rpn_head([features["res4"]])
        heads.box_predictor(transform(7).mean((2, 3)))
        if mask:
            heads.mask_head.layers(transform(2))
    cost = analyze_detector(cfg, (192, 256), proposals=7, mask_rois=2)
    assert counter.get_total_flops() == 2 * cost.macs
    (res5,) = (m for m in cost.modules if m.name == "res5")
    assert (res5.part, res5.rois) == ("RoI heads", 9 if mask else 7)
    assert res5.parameters == sum(p.numel() for p in heads.res5.parameters())
    stages = [m for m in cost.modules if m.part == "backbone"]
    assert [m.name for m in stages] == ["stem", "res2", "res3", "res4"]
    assert cost.backbone_macs == sum(m.macs for m in [*stages, res5])


def test_res5_on_rois_by_formula():
    """The first block halves the 14x14 of the pooler in its 3x3; each later one costs the same."""
    first = conv(14, 14, 1024, 512, 1) + conv(7, 7, 512, 512, 3) + conv(7, 7, 512, 2048, 1)
    shortcut = conv(7, 7, 1024, 2048, 1)
    later = conv(7, 7, 2048, 512, 1) + conv(7, 7, 512, 512, 3) + conv(7, 7, 512, 2048, 1)
    for blocks in (1, 3, 7):
        cfg = c4_config(STAGE_CODE=[1, 1, 1, blocks], OPERATION_CODE=[])
        assert macs(analyze_detector(cfg))["res5"] == 1000 * (
            first + shortcut + (blocks - 1) * later
        )


def test_detectron2s_own_c4():
    own = detectron2_config("COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x.yaml")
    own.MODEL.RESNETS.STRIDE_IN_1X1 = False
    ours = c4_config(True, STAGE_CODE=[3, 4, 6, 3], OPERATION_CODE=[])
    assert macs(analyze_detector(own)) == macs(analyze_detector(ours))


@pytest.mark.parametrize("network", ["R_50", "CR_R_50"])
def test_dc5_as_torch_counts_what_it_executes(network):
    cfg = crnas_d2.get_config(f"COCO-Detection/faster_rcnn_{network}_DC5_1x.yaml")
    cost = analyze_detector(cfg)

    def run_box_head(heads):
        heads.box_predictor(heads.box_head(torch.empty(1000, 2048, 7, 7, device="meta")))

    assert executed_flops(cfg, run_box_head) == 2 * cost.macs
    # of stride 16, four times as many positions behind the first block's 1x1, which has them anyway
    fpn = macs(analyze_detector(config(network)))["res5"]
    first_1x1 = conv(50, 68, 1024, 512, 1)
    assert macs(cost)["res5"] - first_1x1 == 50 * 68 * (fpn - first_1x1) / (25 * 34)


def retinanet(network):
    return crnas_d2.get_config(f"COCO-Detection/retinanet_{network}_FPN_1x.yaml")


def test_golden_values_of_retinanet():
    stages, stage_macs, *_ = GOLDEN["R_50"]
    pixels = {3: 100 * 136, 4: 50 * 68, 5: 25 * 34, 6: 13 * 17, 7: 7 * 9}
    layer, all_pixels = 9 * 256 * 256, sum(pixels.values())
    cost = analyze_detector(retinanet("R_50"))
    assert macs(cost) == {
        **{stage: giga(number) for stage, number in zip(stages, stage_macs, strict=True)},
        "FPN lateral": 256 * (512 * pixels[3] + 1024 * pixels[4] + 2048 * pixels[5]),
        "FPN output": layer * (pixels[3] + pixels[4] + pixels[5]),
        "FPN top block": 9 * 2048 * 256 * pixels[6] + layer * pixels[7],
        "class subnet": (4 * layer + 9 * 256 * 9 * 80) * all_pixels,
        "box subnet": (4 * layer + 9 * 256 * 9 * 4) * all_pixels,
    }
    assert cost.macs == sum(macs(cost).values())
    assert [(m.part, m.rois) for m in cost.modules[-2:]] == [("dense head", None)] * 2
    assert analyze_detector(retinanet("CR_R_50")).macs == cost.macs


@pytest.mark.parametrize("norm", ["", "BN", "GN"])
def test_detectron2s_own_retinanet_as_torch_counts_it(norm):
    cfg = detectron2_config("COCO-Detection/retinanet_R_50_FPN_1x.yaml")
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False
    cfg.MODEL.RETINANET.NORM = norm
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model = build_model(cfg).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        features = model.backbone(torch.empty(1, 3, 800, 1088, device="meta"))
        model.head([features[name] for name in ("p3", "p4", "p5", "p6", "p7")])
    cost = analyze_detector(cfg)
    assert counter.get_total_flops() == 2 * cost.macs
    assert macs(cost) == macs(analyze_detector(retinanet("R_50")))
    frozen = sum(
        b.numel() for n, b in model.named_buffers() if n.endswith(("norm.weight", "norm.bias"))
    )
    assert cost.parameters == frozen + sum(p.numel() for p in model.parameters())


def test_config_is_left_as_it_was():
    cfg = config("R_18")
    cfg.freeze()
    before = cfg.dump()
    analyze_detector(cfg, (64, 64))
    assert cfg.dump() == before
    assert cfg.is_frozen()
