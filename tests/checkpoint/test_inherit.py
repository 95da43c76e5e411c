"""The weights of a path, taken out of those of a supernet."""

import copy
from random import Random

import numpy as np
import pytest
import safetensors.torch
import torch
from thin_supernets import (
    KINDS,
    STEPS,
    assert_same,
    covering_paths,
    family_of,
    make_final,
    make_space,
    make_supernet,
    make_thin_cfg,
    randomize,
    sample_paths,
    supernet_key,
)

from crnas_d2 import ARCHITECTURES, CRMobileNetV2, CRResNet
from crnas_d2.checkpoint.inherit import inherit_subnet
from crnas_d2.spaces import get_operation_space, get_stage_space

from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

ALL = pytest.mark.parametrize("step, kind", [(s, k) for s in STEPS for k in KINDS])


@ALL
def test_tensors_are_those_of_the_path(step, kind):
    torch.manual_seed(0)
    supernet = randomize(make_supernet(step, kind)).state_dict()
    before = copy.deepcopy(supernet)
    for path in sample_paths(make_space(step, kind), 5):
        final = make_final(step, kind, path)
        subnet = inherit_subnet(supernet, path)
        assert subnet.keys() == final.state_dict().keys()
        for key, tensor in subnet.items():
            assert tensor is supernet[supernet_key(step, kind, path, key)]
        final.load_state_dict(subnet, strict=True)
        assert_same(final.state_dict(), subnet)
    assert_same(supernet, before)


@pytest.mark.parametrize("kind", ["basic", "mobilenetv2"])
def test_every_stage_code_of_a_small_space(kind):
    space = make_space("stage", kind)
    with torch.device("meta"):
        supernet = make_supernet("stage", kind).state_dict()
        for path in space:
            final = make_final("stage", kind, path).state_dict()
            assert shapes(inherit_subnet(supernet, path)) == shapes(final)


@ALL
def test_order_prefix_and_neighbors_of_the_keys(step, kind, tmp_path):
    """As in a detector's checkpoint: other modules beside the backbone, keys in any order."""
    torch.manual_seed(0)
    supernet = randomize(make_supernet(step, kind))
    path = sample_paths(supernet.space, 1)[0]
    expected = inherit_subnet(supernet.state_dict(), path)
    others = {
        "backbone.fpn_lateral2.weight": torch.rand(1),
        "roi_heads.ops.0.weight": torch.rand(1),
        "roi_heads.res5.0.conv2.weight": torch.rand(1),
    }
    prefix = "module.backbone.bottom_up."
    weights = {prefix + key: tensor for key, tensor in supernet.state_dict().items()} | others
    expected = {prefix + key: tensor for key, tensor in expected.items()} | others

    shuffled = list(weights)
    Random(0).shuffle(shuffled)
    assert_same(inherit_subnet({key: weights[key] for key in shuffled}, path), expected)

    safetensors.torch.save_file(weights, tmp_path / "supernet.safetensors")
    stored = safetensors.torch.load_file(tmp_path / "supernet.safetensors")
    assert list(stored) != list(weights)
    assert_same(inherit_subnet(stored, path), expected)


@pytest.mark.parametrize("norm", ["BN", "FrozenBN", "SyncBN", "GN"])
@pytest.mark.parametrize("freeze_at", [0, 2])
@pytest.mark.parametrize("step", STEPS)
def test_norms_and_frozen_stages(step, freeze_at, norm):
    options = {"norm": norm, "freeze_at": freeze_at}
    supernet = make_supernet(step, "bottleneck", **options)
    path = sample_paths(supernet.space, 1)[0]
    final = make_final(step, "bottleneck", path, **options)
    final.load_state_dict(inherit_subnet(supernet.state_dict(), path), strict=True)


@pytest.mark.parametrize("out_features", [["stem", "res2"], ["res4"], ["res3", "res5"]])
@pytest.mark.parametrize("kind", ["basic", "mobilenetv2"])
@pytest.mark.parametrize("step", STEPS)
def test_supernet_without_its_last_stages(step, kind, out_features):
    torch.manual_seed(0)
    supernet = make_supernet(step, kind, out_features=out_features).eval()
    path = sample_paths(supernet.space, 1)[0]
    final = make_final(step, kind, path, out_features=out_features).eval()
    final.load_state_dict(inherit_subnet(supernet.state_dict(), path), strict=True)
    supernet.set_path(path)
    images = torch.rand(1, 3, 64, 64)
    assert_same(supernet(images), final(images))
    with pytest.raises(ValueError, match="has 0 entries"):
        inherit_subnet(supernet.state_dict(), ())


@ALL
def test_path_of_any_integers(step, kind):
    supernet = make_supernet(step, kind).state_dict()
    path = sample_paths(make_space(step, kind), 1)[0]
    expected = inherit_subnet(supernet, path)
    for other in (list(path), tuple(np.array(path)), np.array(path)):
        assert_same(inherit_subnet(supernet, other), expected)


@pytest.fixture(scope="module")
def states():
    with torch.device("meta"):
        return {
            (step, kind): make_supernet(step, kind).state_dict()
            for step in STEPS
            for kind in ("basic", "mobilenetv2")
        }


@pytest.mark.parametrize(
    "step, kind, path, words",
    [
        ("stage", "basic", (1, 1, 2), ["[1, 1, 2] has 3 entries", "have 4"]),
        ("stage", "basic", (1, 1, 2, 1, 1), ["has 5 entries", "have 4"]),
        ("stage", "basic", (), ["[] has 0 entries", "have 4"]),
        ("stage", "basic", (1, 2, 2, 1), ["[1, 2, 2, 1]", "2 at res3;", "[1, 3]"]),
        ("stage", "basic", (1, 1, 2, 0), ["0 at res5;", "[1, 2, 3]"]),
        ("stage", "basic", "1121", ["'1' at res2;", "[1, 2]"]),
        ("stage", "mobilenetv2", (1, 1, 2, 3), ["has 4 entries", "have 10"]),
        ("stage", "mobilenetv2", (2, 1, 1, 1, 2, 1, 2, 1, 1, 1), ["2 at stem;", "[1]"]),
        ("stage", "mobilenetv2", (1, 1, 1, 2, 2, 1, 2, 1, 1, 1), ["2 at c32;", "[1, 3]"]),
        ("stage", "mobilenetv2", (1, 1, 1, 1, 2, 1, 2, 1, 1, 0), ["0 at pool;", "[1]"]),
        ("shared", "basic", (1, 1, 2), ["[1, 1, 2] has 3 entries", "have 4"]),
        ("shared", "basic", (1, 2, 2, 1), ["[1, 2, 2, 1]", "2 at res3;", "[1, 3]"]),
        ("shared", "basic", (1, 1, 3, 0), ["3 at res4;", "[2, 4]"]),
        ("shared", "mobilenetv2", (1, 1, 1, 2, 2, 1, 2, 1, 1, 1), ["2 at c32;", "[1, 3]"]),
        ("dilation", "basic", (0,) * 7, ["has 7 entries", "have 8"]),
        ("dilation", "basic", (0,) * 9, ["has 9 entries", "have 8"]),
        ("dilation", "basic", (0, 0, 3, 0, 0, 0, 0, 0), ["3 at res3.1;", "[0, 1, 2]"]),
        ("dilation", "basic", (0, 0, 0, 0, 0, 0, 0, -1), ["-1 at res5.1;", "[0, 1, 2]"]),
        ("dilation", "mobilenetv2", (0,) * 17, ["has 17 entries", "have 20"]),
        ("dilation", "mobilenetv2", (1,) + (0,) * 19, ["1 at stem", "[0]"]),
        ("dilation", "mobilenetv2", (0,) * 18 + (2, 0), ["2 at c1280", "[0]"]),
        ("dilation", "mobilenetv2", (0,) * 8 + (7,) + (0,) * 11, ["7 at c64.2;", "[0, 1, 2]"]),
    ],
)
def test_supernet_without_the_path(states, step, kind, path, words):
    with pytest.raises(ValueError) as error:
        inherit_subnet(states[step, kind], path)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("kind", ["basic", "mobilenetv2"])
def test_weights_of_no_supernet(kind):
    final = make_final("dilation", kind, sample_paths(make_space("dilation", kind), 1)[0])
    weights = final.state_dict()
    with pytest.raises(ValueError) as error:
        inherit_subnet(weights, (1, 1, 2, 1))
    assert f"no choice blocks in these weights ({len(weights)} keys" in str(error.value)
    assert next(iter(weights)) in str(error.value) and "supernet" in str(error.value)
    with pytest.raises(ValueError, match="no choice blocks"):
        inherit_subnet({}, (1, 1, 2, 1))
    with pytest.raises(ValueError, match="1 keys: model"):
        inherit_subnet({"model": weights}, (1, 1, 2, 1))


@pytest.mark.parametrize(
    "step, name", [("stage", "ResNet50"), ("dilation", "ResNet50"), ("dilation", "MobileNetV2")]
)
def test_path_of_another_family(states, step, name):
    kind = "mobilenetv2" if name == "ResNet50" else "basic"
    architecture = ARCHITECTURES[name]
    path = architecture.stage_code if step == "stage" else architecture.operation_code
    with pytest.raises(ValueError, match=f"has {len(path)} entries"):
        inherit_subnet(states[step, kind], path)


CHOICES = {
    "resnet": [[1, 2], [1, 2], [1, 2], [1, 2]],
    "mobilenetv2": [[1], [1], *[[1, 2]] * 5, [1], [1], [1]],
}


def make_detector_cfg(backbone, family):
    cfg = make_thin_cfg(backbone, family)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.CR.STAGE_CODE = [1, 2, 1, 2] if family == "resnet" else [1, 1, 1, 2, 2, 1, 2, 1, 1, 1]
    cfg.MODEL.SUPERNET.STAGE_CHOICES = CHOICES[family]
    cfg.MODEL.FPN.OUT_CHANNELS = 8
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[16], [32], [64], [128], [256]]
    cfg.MODEL.RPN.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]
    cfg.MODEL.ROI_HEADS.NAME = "StandardROIHeads"
    cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p2", "p3", "p4", "p5"]
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    cfg.MODEL.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
    cfg.MODEL.ROI_BOX_HEAD.NUM_FC = 1
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 16
    return cfg


@pytest.mark.parametrize("family", CHOICES)
@pytest.mark.parametrize("step", STEPS)
def test_whole_detector(step, family):
    """Its losses and detections, not only its features."""
    torch.manual_seed(0)
    kind = "dilation" if step == "dilation" else "stage"
    cfg = make_detector_cfg(f"build_{kind}_supernet_fpn_backbone", family)
    cfg.MODEL.SUPERNET.SHARE_BLOCKS = step == "shared"
    detector = randomize(build_model(cfg))
    supernet = detector.backbone.bottom_up
    path = sample_paths(supernet.space, 1)[0]
    supernet.set_path(path)

    cfg = make_detector_cfg(f"build_cr_{family}_fpn_backbone", family)
    cfg.MODEL.CR["STAGE_CODE" if kind == "stage" else "OPERATION_CODE"] = list(path)
    final = build_model(cfg)
    final.load_state_dict(inherit_subnet(detector.state_dict(), path), strict=True)

    instances = Instances((64, 64))
    instances.gt_boxes = Boxes(torch.tensor([[4.0, 8.0, 40.0, 50.0]]))
    instances.gt_classes = torch.tensor([1])
    image = {"image": torch.randint(256, (3, 64, 64)).float(), "instances": instances}
    results = []
    for model in (detector, final):
        torch.manual_seed(1)
        with EventStorage():
            losses = model.train()([image, image])
        sum(losses.values()).backward()
        with torch.no_grad():
            detections = model.eval()([image])[0]["instances"]
        assert len(detections) > 0
        results.append(
            {
                **losses,
                "boxes": detections.pred_boxes.tensor,
                "scores": detections.scores,
                "gradient": model.backbone.bottom_up.stem.get_parameter(
                    "conv1.weight" if family == "resnet" else "0.conv.weight"
                ).grad,
            }
        )
    assert_same(*results)
    assert_same(inherit_subnet(detector.state_dict(), path), final.state_dict())


@pytest.mark.parametrize("kind", ["basic", "mobilenetv2"])
def test_every_choice_of_the_papers_stage_space(kind):
    space = get_stage_space(family_of(kind))
    with torch.device("meta"):
        supernet = make_supernet("stage", kind, space=space).state_dict()
        for path in covering_paths(space):
            final = make_final("stage", kind, path).state_dict()
            assert shapes(inherit_subnet(supernet, path)) == shapes(final)


@pytest.mark.parametrize(
    "kind, name",
    [
        ("basic", "CR-ResNet18"),
        ("bottleneck", "CR-ResNet50"),
        ("bottleneck", "CR-ResNet101"),
        ("mobilenetv2", "CR-MobileNetV2"),
    ],
)
def test_published_operation_codes(kind, name):
    architecture = ARCHITECTURES[name]
    network = CRMobileNetV2 if kind == "mobilenetv2" else CRResNet
    with torch.device("meta"):
        supernet = make_supernet("dilation", kind, space=get_operation_space(architecture))
        final = network(architecture.stage_code, architecture.operation_code, **KINDS[kind])
    weights, code = supernet.state_dict(), architecture.operation_code
    subnet = inherit_subnet(weights, code)
    assert shapes(subnet) == shapes(final.state_dict())
    for key, tensor in subnet.items():
        assert tensor is weights[supernet_key("dilation", kind, code, key, architecture.stage_code)]


def shapes(state_dict):
    return {key: tensor.shape for key, tensor in state_dict.items()}
