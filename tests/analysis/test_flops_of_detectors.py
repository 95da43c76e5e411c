"""Multiply-adds of Detectron2's other detectors: by hand, by fvcore, and by what torch executes."""

import os

import pytest
import torch
from counted import Layers
from fvcore.nn import FlopCountAnalysis, parameter_count
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import crnas_d2
from crnas_d2.analysis import analyze_detector

import detectron2
from detectron2.config import get_cfg, instantiate
from detectron2.modeling import BACKBONE_REGISTRY, Backbone, build_model

LEVELS = {"p2": (200, 272), "p3": (100, 136), "p4": (50, 68), "p5": (25, 34), "p6": (13, 17)}


def zoo_config(name, *opts):
    cfg = get_cfg()
    crnas_d2.add_crnas_config(cfg)
    folder = os.path.join(os.path.dirname(detectron2.__file__), "model_zoo", "configs")
    cfg.merge_from_file(os.path.join(folder, name))
    cfg.merge_from_list(list(opts))
    return cfg


KEYPOINT = "COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x.yaml"
PANOPTIC = "COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.yaml"
FASTER = "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"
MASK = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"
SEMANTIC = ("MODEL.META_ARCHITECTURE", "SemanticSegmentor")


def modules(cost, *parts):
    return {m.name: m.macs for m in cost.modules if not parts or m.part in parts}


def conv(size, inputs, outputs, kernel):
    return size[0] * size[1] * inputs * outputs * kernel * kernel


def test_keypoint_rcnn_by_formula():
    cost = analyze_detector(zoo_config(KEYPOINT))
    (head,) = (m for m in cost.modules if m.name == "keypoint head")
    convolutions = conv((14, 14), 256, 512, 3) + 7 * conv((14, 14), 512, 512, 3)
    deconvolution = conv((14, 14), 512, 17, 4)  # each of its inputs uses the whole kernel
    assert (head.part, head.rois) == ("RoI heads", 100)
    assert head.macs == 100 * (convolutions + deconvolution)
    assert head.parameters == 9 * (256 + 7 * 512) * 512 + 8 * 512 + 16 * 512 * 17 + 17
    rest = modules(cost)
    del rest["keypoint head"]
    faster = modules(analyze_detector(zoo_config(FASTER)))
    # it has one class, and two scores and four sides for it
    assert rest.pop("box predictor") == 1000 * 1024 * (2 + 4)
    assert faster.pop("box predictor") == 1000 * 1024 * (81 + 4 * 80)
    assert rest == faster
    assert modules(analyze_detector(zoo_config(KEYPOINT), mask_rois=7))["keypoint head"] == (
        7 * (convolutions + deconvolution)
    )


def semantic_head(classes=54):
    """Three convolutions on p5, of which each but the first one sees twice the size; two on p4, one
    on p3 and on p2; a prediction on p2's size."""
    first = sum(conv(LEVELS[level], 256, 128, 3) for level in ("p2", "p3", "p4", "p5"))
    later = sum(conv(LEVELS[level], 128, 128, 3) for level in ("p3", "p3", "p4"))
    return first + later + conv(LEVELS["p2"], 128, classes, 1)


def test_panoptic_fpn_by_formula():
    cost = analyze_detector(zoo_config(PANOPTIC))
    parts = modules(cost)
    assert parts.pop("semantic head") == semantic_head()
    assert parts == modules(analyze_detector(zoo_config(MASK)))
    (head,) = (m for m in cost.modules if m.name == "semantic head")
    assert (head.part, head.rois) == ("semantic segmentation", None)
    weights = 9 * 128 * (4 * 256 + 3 * 128) + 128 * 54
    assert head.parameters == weights + 7 * 2 * 128 + 54  # GN, and a bias of the prediction


def test_semantic_fpn_by_formula():
    cost = analyze_detector(zoo_config(PANOPTIC, *SEMANTIC))
    panoptic = analyze_detector(zoo_config(PANOPTIC))
    assert modules(cost) == modules(panoptic, "backbone", "neck", "semantic segmentation")
    more = analyze_detector(zoo_config(PANOPTIC, *SEMANTIC, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 9))
    assert modules(more)["semantic head"] == semantic_head(9)


@pytest.mark.parametrize("name", ["rpn_R_50_FPN_1x", "rpn_R_50_C4_1x"])
def test_proposal_network_is_a_faster_rcnn_without_heads(name):
    cost = analyze_detector(zoo_config(f"COCO-Detection/{name}.yaml"))
    whole = analyze_detector(
        zoo_config(f"COCO-Detection/{name}.yaml".replace("rpn", "faster_rcnn"))
    )
    assert modules(cost) == modules(whole, "backbone", "neck", "RPN")
    assert cost.parameters == sum(m.parameters for m in whole.modules if m.part != "RoI heads")


def test_fast_rcnn_is_a_faster_rcnn_without_rpn():
    cost = analyze_detector(zoo_config("COCO-Detection/fast_rcnn_R_50_FPN_1x.yaml"))
    rest = modules(analyze_detector(zoo_config(FASTER)))
    del rest["RPN head"]
    parts = modules(cost)
    # its boxes are not predicted by class
    assert parts == rest


def test_masks_and_keypoints_at_once():
    both = modules(analyze_detector(zoo_config(MASK, "MODEL.KEYPOINT_ON", True)))
    keypoints = modules(analyze_detector(zoo_config(KEYPOINT)))
    assert both.pop("keypoint head") == keypoints["keypoint head"]
    assert both == modules(analyze_detector(zoo_config(MASK)))


class Semantic(nn.Module):
    def __init__(self, head):
        super().__init__()
        self.head = head

    def forward(self, *features):
        return self.head.layers(dict(zip(("p2", "p3", "p4", "p5"), features, strict=True)))


def fvcore_count(module, inputs, *ops):
    counted = FlopCountAnalysis(module, inputs).tracer_warnings("none")
    counted.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    return sum(counted.by_operator()[op] for op in ops or ("conv", "linear"))


def test_heads_as_fvcore_counts_them():
    cfg = zoo_config(PANOPTIC, "MODEL.KEYPOINT_ON", True, "MODEL.DEVICE", "cpu")
    model = build_model(cfg).eval()
    cost = analyze_detector(cfg, (64, 96), proposals=3, mask_rois=2)
    parts, heads = modules(cost), model.roi_heads
    pooled = torch.zeros(2, 256, 14, 14)
    assert parts["keypoint head"] == fvcore_count(Layers(heads.keypoint_head), pooled)
    assert parts["mask head"] == fvcore_count(Layers(heads.mask_head), pooled)
    features = [torch.zeros(1, 256, 256 >> n, 256 >> n) for n in range(2, 6)]

    square = modules(analyze_detector(cfg, (256, 256)))
    assert square["semantic head"] == fvcore_count(Semantic(model.sem_seg_head), tuple(features))
    frozen = sum(
        b.numel() for n, b in model.named_buffers() if n.endswith(("norm.weight", "norm.bias"))
    )
    assert cost.parameters == frozen + parameter_count(model)[""]


@pytest.mark.parametrize(
    "name, opts",
    [
        ("COCO-Detection/rpn_R_50_FPN_1x.yaml", ()),
        (PANOPTIC, SEMANTIC),
        ("COCO-Detection/retinanet_R_50_FPN_1x.yaml", ()),
    ],
)
def test_whole_detectors_as_torch_executes_them(name, opts):
    """Those that have no RoIs run as they stand, an image of noise to its end."""
    cfg = zoo_config(name, *opts, "MODEL.DEVICE", "cpu")
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    image = {"image": torch.randint(256, (3, 70, 90)), "height": 70, "width": 90}
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model([image])
    assert counter.get_total_flops() == 2 * analyze_detector(cfg, (70, 90)).macs


def fcos():
    with torch.device("meta"):
        return instantiate(crnas_d2.lazy_model("CR-ResNet50", "fcos", num_classes=11))


def test_fcos_by_formula_from_its_model():
    """FCOS is no detector of a YAML config."""
    cost = analyze_detector(fcos())
    retinanet = crnas_d2.get_config("COCO-Detection/retinanet_CR_R_50_FPN_1x.yaml")
    pixels = sum(map(lambda hw: hw[0] * hw[1], [*list(LEVELS.values())[1:], (7, 9)]))
    layers = 4 * 9 * 256 * 256
    assert modules(cost, "dense head") == {
        "class subnet": (layers + 9 * 256 * 11) * pixels,
        "box subnet": (layers + 9 * 256 * (4 + 1)) * pixels,
    }
    assert modules(cost, "backbone") == modules(analyze_detector(retinanet), "backbone")


def test_a_model_is_counted_as_its_config_and_left_as_it_is():
    cfg = crnas_d2.get_config("COCO-Detection/faster_rcnn_CR_R_18_FPN_1x.yaml")
    cfg.MODEL.DEVICE = "cpu"
    model = build_model(cfg).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert analyze_detector(model, (96, 160)) == analyze_detector(cfg, (96, 160))
    assert model.training and all(module.training for module in model.modules())
    for name, value in model.state_dict().items():
        assert value.device.type == "cpu" and torch.equal(value, before[name])
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


class Attention(nn.Module):
    """Has products of two features beside those of layers."""

    def __init__(self, channels):
        super().__init__()
        self.project = nn.Conv2d(channels, 3 * channels, 1, bias=False)

    def forward(self, x):
        query, key, value = self.project(x).flatten(2).chunk(3, dim=1)
        return ((query.transpose(1, 2) @ key).softmax(2) @ value.transpose(1, 2)).mT.reshape(
            x.shape
        )


@BACKBONE_REGISTRY.register()
class BackboneWithTestAttention(Backbone):
    def __init__(self, cfg, input_shape):
        super().__init__()
        self.bottom_up = crnas_d2.CRResNet((1, 1, 1, 1), block="basic", out_features=["res3"])
        self.attention = Attention(128)

    def forward(self, x):
        return {"p3": self.attention(self.bottom_up(x)["res3"])}

    def output_shape(self):
        return {"p3": detectron2.layers.ShapeSpec(channels=128, stride=8)}


def test_products_of_features_count():
    cfg = crnas_d2.get_config("COCO-Detection/faster_rcnn_R_18_FPN_1x.yaml")
    cfg.MODEL.BACKBONE.NAME = "BackboneWithTestAttention"
    cfg.MODEL.RPN.IN_FEATURES = cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p3"]
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[64]]
    positions = 8 * 12
    neck = modules(analyze_detector(cfg, (64, 96)), "neck")
    assert neck == {"neck": positions * 128 * 3 * 128 + 2 * positions * positions * 128}
