"""Sketches: stages and costs against traced shapes and tables, and what stands in the figure."""

import re
from xml.etree import ElementTree

import pytest
from counted import config
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

import crnas_d2
from crnas_d2 import ARCHITECTURES, Architecture
from crnas_d2.analysis.flops import analyze_detector
from crnas_d2.analysis.sketch import SketchedNetwork
from crnas_d2.analysis.sketch_figure import draw_sketches
from crnas_d2.analysis.style import DILATION_COLORS, GRAY, PALE, render, styled
from crnas_d2.analysis.trace import trace_detector

# 1e9 multiply-adds at 800x1088 of stem and stages (see test_flops.py), and of the backbone
R_50 = (2.047, 11.587, 17.826, 25.402, 14.038), 70.899
LATER_BLOCK = {"ResNet18": 4.0108, "ResNet50": 3.7880, "ResNet101": 3.7880, "ResNeXt50": 3.8158}


def texts(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def boxes(figure):
    """Left, top, width, height and color of the boxes of blocks, then of the bars, as drawn."""
    patches = [p for p in figure.axes[0].patches if isinstance(p, Rectangle)]
    found = [(*p.get_bbox().bounds, to_hex(p.get_facecolor()).upper()) for p in patches]
    return [b for b in found if b[4] != GRAY], [b for b in found if b[4] == GRAY]


def test_shares_of_resnet50():
    network = SketchedNetwork.published("ResNet50")
    stages, backbone = R_50
    assert [stage.name for stage in network.stages] == ["stem", "res2", "res3", "res4", "res5"]
    assert [stage.macs / 1e9 for stage in network.stages] == pytest.approx(stages, abs=5e-4)
    assert network.macs / 1e9 == pytest.approx(backbone, abs=5e-4)
    assert network.shares == pytest.approx([macs / backbone for macs in stages], abs=1e-4)
    assert sum(network.shares) == pytest.approx(1)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_published_networks(name):
    network = SketchedNetwork.published(name)
    architecture = ARCHITECTURES[name]
    assert network.label == name
    assert sum(network.shares) == pytest.approx(1)
    if architecture.family == "resnet":
        assert [stage.dilations for stage in network.stages] == [(), *architecture.dilations]
        assert [stage.stride for stage in network.stages] == [4, 4, 8, 16, 32]
    else:
        stem, *inner, tail = network.stages  # a detector has no pool
        assert stem.dilations == tail.dilations == ()
        assert [stage.dilations for stage in inner] == list(architecture.dilations[1:-2])


@pytest.mark.parametrize("name, giga", LATER_BLOCK.items())
def test_published_name_takes_the_right_blocks(name, giga):
    """The reallocated network costs as much, and moves whole blocks of a known cost."""
    baseline, found = map(SketchedNetwork.published, (name, f"SCR-{name}"))
    assert found.macs == baseline.macs
    for before, after in list(zip(baseline.stages, found.stages))[1:]:
        moved = len(after.dilations) - len(before.dilations)
        assert (after.macs - before.macs) / 1e9 == pytest.approx(moved * giga, abs=5e-4)


@pytest.mark.parametrize("network", ["CR_R_50", "CR_MNV2"])
def test_strides_are_those_of_the_outputs(network):
    cfg = config(network)
    calls = trace_detector(cfg, (800, 1088), 1, 1).calls
    heights = {}
    for call in calls:
        match call.name.split("."):
            case ["backbone", "bottom_up", stage, *_]:
                heights[stage] = call.output_shape[-2]
    expected = {stage: 800 // height for stage, height in heights.items()}
    if "R_50" in network:
        expected["stem"] *= 2  # the max-pooling, which is no layer
    sketched = SketchedNetwork.from_config("", cfg)
    assert {stage.name: stage.stride for stage in sketched.stages} == expected


def detector(network, kind):
    return crnas_d2.get_config(f"COCO-Detection/faster_rcnn_{network}_{kind}_1x.yaml")


def test_dc5_has_the_dilations_and_strides_of_its_network():
    cfg = detector("CR_R_50", "DC5")
    sketched = SketchedNetwork.from_config("", cfg)
    trace = trace_detector(cfg, (800, 1088), 1, 1)
    heights = [c.output_shape[2] for c in trace.calls if c.name.startswith("backbone.res5.")]
    assert [s.stride for s in sketched.stages] == [4, 4, 8, 16, 16]
    assert heights[-1] == 800 // 16
    for stage in sketched.stages[1:]:
        blocks = getattr(trace.model.backbone, stage.name)
        assert stage.dilations == tuple(block.conv2.dilation[0] for block in blocks)
    figure = draw_sketches([sketched])
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == [*(f"dilation {n}" for n in (1, 2, 3, 4, 6)), "no choice block"]
    assert "stride 32" not in texts(figure)


def test_c4_has_its_res5_too():
    cfg = detector("CR_R_50", "C4")
    sketched = SketchedNetwork.from_config("", cfg)
    assert [(s.name, s.stride) for s in sketched.stages] == [
        *(("stem", 4), ("res2", 4), ("res3", 8), ("res4", 16)),
        ("res5", None),
    ]
    assert [s.dilations for s in sketched.stages[1:]] == list(
        ARCHITECTURES["CR-ResNet50"].dilations
    )
    assert sketched.macs == analyze_detector(cfg).backbone_macs
    figure = draw_sketches([sketched, SketchedNetwork.published("CR-ResNet50")])
    assert texts(figure).count("on RoIs") == texts(figure).count("stride 32") == 1
    assert figure.texts[-1].get_text().endswith("for an image of 800x1088 with 1000 RoIs.")


def test_architecture_alone():
    codes = (1, 2, 3, 1), (0, 1, 2, 0, 1, 2, 0)
    for block, network in (("basic", "R_18"), ("bottleneck", "R_50")):
        cfg = config(network)
        cfg.MODEL.CR.STAGE_CODE, cfg.MODEL.CR.OPERATION_CODE = map(list, codes)
        expected = SketchedNetwork.from_config("own", cfg)
        assert SketchedNetwork.from_architecture("own", Architecture(*codes), block) == expected
    mobile = SketchedNetwork.from_architecture("CR-MobileNetV2", ARCHITECTURES["CR-MobileNetV2"])
    assert mobile == SketchedNetwork.published("CR-MobileNetV2")


def test_each_block_is_a_box_with_its_dilation():
    figure = draw_sketches([SketchedNetwork.published("CR-ResNet50")])
    blocks, _ = boxes(figure)
    dilations = [o + 1 for o in ARCHITECTURES["CR-ResNet50"].operation_code]
    assert [color for *_, color in blocks] == [PALE, *(DILATION_COLORS[d] for d in dilations)]
    numbers = [int(text) for text in texts(figure) if re.fullmatch(r"\d", text)]
    assert numbers == dilations
    centers = [t.get_position()[0] for t in figure.axes[0].texts if t.get_text() in "123"]
    assert centers == pytest.approx([left + width / 2 for left, _, width, *_ in blocks[1:]])


def test_bars_have_one_scale():
    networks = [SketchedNetwork.published(n) for n in ("ResNet101", "CR-ResNet18", "MobileNetV2")]
    _, bars = boxes(draw_sketches(networks))
    shares = [share for network in networks for share in network.shares]
    scale = bars[0][2] / shares[0]
    assert [width for _, _, width, *_ in bars] == pytest.approx([scale * s for s in shares])


def test_stages_stand_below_each_other():
    names = ("ResNet50", "SCR-ResNet50", "ResNet101")
    _, bars = boxes(draw_sketches([SketchedNetwork.published(name) for name in names]))
    lefts = [left for left, *_ in bars]
    assert lefts[:5] == lefts[5:10] == lefts[10:]
    assert sorted(set(lefts)) == lefts[:5]


def test_what_is_written():
    figure = draw_sketches([SketchedNetwork.published(n) for n in ("ResNet50", "SCR-ResNet50")])
    written = texts(figure)
    assert [t for t in written if "stride" in t] == [f"stride {n}" for n in (4, 4, 8, 16, 32)]
    assert [t for t in written if re.fullmatch(r"\d+ blocks?", t)] == [
        *("3 blocks", "4 blocks", "6 blocks", "3 blocks"),
        *("1 block", "3 blocks", "5 blocks", "7 blocks"),
    ]
    assert [t for t in written if "%" in t][:5] == ["2.9 %", "16.3 %", "25.1 %", "35.8 %", "19.8 %"]
    assert written.count("  16 blocks, 70.9 GMACs") == 2
    (legend,) = figure.legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == ["dilation 1", "dilation 2", "dilation 3", "no choice block"]


@pytest.mark.parametrize(
    "names",
    [
        ("CR-ResNet18",),
        ("ResNet101", "CR-ResNet101"),
        ("MobileNetV2", "CR-MobileNetV2", "ResNet18", "ResNet50", "SCR-ResNeXt50", "ResNet101"),
    ],
)
def test_nothing_overlaps_or_leaves_the_figure(names):
    figure = draw_sketches([SketchedNetwork.published(name) for name in names])
    with styled():
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
    renderer = canvas.get_renderer()
    page = figure.bbox
    written = [*figure.axes[0].texts, *figure.texts, *figure.legends]
    areas = [item.get_window_extent(renderer).padded(-1) for item in written]
    blocks = [p.get_window_extent(renderer) for p in figure.axes[0].patches]
    assert all(page.x0 <= a.x0 and a.x1 <= page.x1 for a in areas + blocks)
    assert all(page.y0 <= a.y0 and a.y1 <= page.y1 for a in areas + blocks)
    for i, area in enumerate(areas):
        assert not any(area.overlaps(other) for other in areas[:i]), written[i]
        if not re.fullmatch(r"\d", getattr(written[i], "get_text", str)()):
            assert not any(area.overlaps(block) for block in blocks), written[i]
    assert min(text.get_fontsize() for text in written if hasattr(text, "get_fontsize")) >= 8


def test_svg():
    networks = [SketchedNetwork.published(name) for name in ("ResNet18", "CR-ResNet18")]
    first, second = (render(draw_sketches(networks), "svg") for _ in range(2))
    assert ElementTree.fromstring(first).tag.endswith("svg")
    assert first == second


def test_unknown_name():
    with pytest.raises(
        ValueError, match="architecture is 'CR-ResNet34'; expected .* ResNet18, SCR-ResNet18"
    ):
        SketchedNetwork.published("CR-ResNet34")


def test_unknown_block():
    with pytest.raises(
        ValueError, match=r"block is 'wide'; expected one of \['basic', 'bottleneck'"
    ):
        SketchedNetwork.from_architecture("own", Architecture((1, 1, 1, 1)), "wide")


@pytest.mark.parametrize(
    "name",
    ["Supernet/stage_supernet_R_18_FPN.yaml", "Supernet/dilation_supernet_SCR_R_50_FPN.yaml"],
)
def test_supernet_has_no_sketch(name):
    with pytest.raises(ValueError, match="own: MODEL.BACKBONE.NAME is 'build_.*_supernet"):
        SketchedNetwork.from_config("own", crnas_d2.get_config(name))


def test_no_network():
    with pytest.raises(ValueError, match="expected one or more"):
        draw_sketches([])
