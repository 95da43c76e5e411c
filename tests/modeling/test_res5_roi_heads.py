"""C4 detectors: res5 in the RoI heads, against Detectron2's and against a backbone's."""

import pytest
import torch
from thin_supernets import randomize
from torch import nn

import crnas_d2
from crnas_d2 import CRResNet
from crnas_d2.engine.config_check import check_network
from crnas_d2.modeling import CRRes5ROIHeads
from crnas_d2.modeling.activation_checkpoint import CheckpointedStage

from detectron2.modeling import ROI_HEADS_REGISTRY, build_backbone, build_model
from detectron2.modeling.roi_heads import Res5ROIHeads
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

CODE, OPERATIONS = [1, 2, 1, 4], [0, 1, 0, 2, 0, 1, 2, 1]


def make_cfg(stage_code=CODE, operation_code=OPERATIONS, **resnets):
    cfg = crnas_d2.get_config("COCO-Detection/faster_rcnn_CR_R_50_C4_1x.yaml")
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.CR.STAGE_CODE, cfg.MODEL.CR.OPERATION_CODE = stage_code, operation_code
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = 16
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 32
    cfg.MODEL.RESNETS.WIDTH_PER_GROUP = 8
    cfg.MODEL.RESNETS.NORM = "BN"
    for key, value in resnets.items():
        cfg.MODEL.RESNETS[key] = value
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 16
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 30
    cfg.MODEL.ROI_MASK_HEAD.NAME = "MaskRCNNConvUpsampleHead"
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 8
    return cfg


def scenes():
    """Two images of random pixels with two objects each."""
    for height, width in ((96, 128), (80, 96)):
        objects = Instances((height, width))
        objects.gt_boxes = Boxes(torch.tensor([[4.0, 4.0, 50.0, 60.0], [30.0, 10.0, 90.0, 70.0]]))
        objects.gt_classes = torch.tensor([0, 2])
        objects.gt_masks = BitMasks(torch.rand(2, height, width) > 0.5)
        yield {"image": torch.rand(3, height, width) * 255, "instances": objects}


@pytest.mark.parametrize("stride_in_1x1", [False, True])
@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("groups, norm", [(1, "BN"), (2, "FrozenBN")])
def test_baseline_is_detectron2s_detector(mask, stride_in_1x1, groups, norm):
    torch.manual_seed(0)
    cfg = make_cfg([3, 4, 6, 3], [], STRIDE_IN_1X1=stride_in_1x1, NUM_GROUPS=groups, NORM=norm)
    cfg.MODEL.MASK_ON = mask
    ours = build_model(cfg)
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.ROI_HEADS.NAME = "build_resnet_backbone", "Res5ROIHeads"
    theirs = build_model(cfg)
    assert type(ours.roi_heads) is CRRes5ROIHeads and type(theirs.roi_heads) is Res5ROIHeads
    randomize(theirs)
    ours.load_state_dict(theirs.state_dict())
    images = list(scenes())

    losses = []
    for model in (ours, theirs):
        torch.manual_seed(1)  # which proposals are sampled
        with EventStorage():
            losses.append(model.train()(images))
        sum(losses[-1].values()).backward()
    assert losses[0].keys() == losses[1].keys() and ("loss_mask" in losses[0]) == mask
    assert all(torch.equal(losses[0][name], losses[1][name]) for name in losses[0])
    for (name, p), (other, q) in zip(ours.named_parameters(), theirs.named_parameters()):
        assert name == other and torch.equal(p.grad, q.grad), name

    with torch.no_grad():
        for own, their in zip(ours.eval()(images), theirs.eval()(images), strict=True):
            own, their = own["instances"].get_fields(), their["instances"].get_fields()
            assert own.keys() == their.keys() and len(own["scores"]) > 0
            assert torch.equal(own["pred_boxes"].tensor, their["pred_boxes"].tensor)
            for field in own.keys() - {"pred_boxes"}:
                assert torch.equal(own[field], their[field]), field


@pytest.mark.parametrize(
    "options",
    [
        {"block": "bottleneck", "stride_in_1x1": True},
        {"block": "bottleneck", "num_groups": 2, "norm": "GN"},
        {"block": "basic", "res2_out_channels": 16},
    ],
    ids=["bottleneck", "resnext", "basic"],
)
def test_res5_is_that_of_a_backbone_with_the_codes(options):
    torch.manual_seed(0)
    keys = {key.upper(): value for key, value in options.items() if key != "block"}
    cfg = make_cfg(**keys)
    cfg.MODEL.CR.BLOCK = options["block"]
    detector = build_model(cfg).eval()
    assert not hasattr(detector.backbone, "res5")
    assert list(detector.backbone.output_shape()) == ["res4"]
    res5 = detector.roi_heads.res5
    assert [b.conv2.dilation[0] for b in res5] == [o + 1 for o in OPERATIONS[-4:]]
    whole = CRResNet(
        CODE,
        OPERATIONS,
        out_features=["res4", "res5"],
        **{"stem_out_channels": 16, "res2_out_channels": 32, "width_per_group": 8, **options},
    ).eval()
    randomize(whole)
    weights = whole.state_dict()
    res5.load_state_dict(
        {k.removeprefix("res5."): t for k, t in weights.items() if k.startswith("res5.")}
    )
    detector.backbone.load_state_dict(
        {key: t for key, t in weights.items() if not key.startswith("res5.")}
    )
    images = torch.rand(1, 3, 96, 128)
    with torch.no_grad():
        expected = whole(images)
        assert torch.equal(detector.backbone(images)["res4"], expected["res4"])
        assert torch.equal(res5(expected["res4"]), expected["res5"])
        assert len(detector(list(scenes()))) == 2


@pytest.mark.parametrize("freeze_at", range(6))
def test_freeze_at_is_detectron2s(freeze_at):
    cfg = make_cfg([3, 4, 6, 3], [])
    cfg.MODEL.BACKBONE.FREEZE_AT = freeze_at
    with torch.device("meta"):
        cfg.MODEL.DEVICE = "meta"
        ours = build_model(cfg)
        cfg.MODEL.BACKBONE.NAME, cfg.MODEL.ROI_HEADS.NAME = "build_resnet_backbone", "Res5ROIHeads"
        theirs = build_model(cfg)
    trainable, expected = (
        {name for name, p in model.named_parameters() if p.requires_grad}
        for model in (ours, theirs)
    )
    assert trainable == expected
    assert "roi_heads.res5.0.conv1.weight" in trainable


def test_activations_are_recomputed_where_asked():
    cfg = make_cfg()
    cfg.MODEL.CR.ACTIVATION_CHECKPOINT = True
    assert type(build_model(cfg).roi_heads.res5) is CheckpointedStage


@ROI_HEADS_REGISTRY.register()
class OtherHeadsOfDetectron2(Res5ROIHeads):
    """As projects for few shots have them."""


@ROI_HEADS_REGISTRY.register()
class OtherHeadsOfOurs(CRRes5ROIHeads):
    pass


@ROI_HEADS_REGISTRY.register()
class HeadsWithOwnRes5(Res5ROIHeads):
    @classmethod
    def _build_res5_block(cls, cfg):
        return nn.Conv2d(256, 8, 1), 8


@pytest.mark.parametrize("heads", ["Res5ROIHeads", "OtherHeadsOfDetectron2"])
def test_heads_without_the_codes_are_refused(heads):
    cfg = make_cfg()
    cfg.MODEL.ROI_HEADS.NAME = heads
    message = f"MODEL.ROI_HEADS.NAME is '{heads}', .*; expected 'CRRes5ROIHeads'"
    for build in (build_backbone, build_model, lambda c: check_network(c, training=True)):
        with pytest.raises(ValueError, match=message):
            build(cfg)
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res4", "res5"]
    with pytest.raises(ValueError, match=message):
        check_network(cfg, training=True)
    cfg.MODEL.META_ARCHITECTURE = "RetinaNet"  # has no RoI heads, whatever the key says
    build_backbone(cfg)


@pytest.mark.parametrize("heads", ["OtherHeadsOfOurs", "HeadsWithOwnRes5"])
def test_other_heads_with_own_res5_are_built(heads):
    cfg = make_cfg()
    cfg.MODEL.ROI_HEADS.NAME = heads
    assert type(build_model(cfg).roi_heads) is ROI_HEADS_REGISTRY.get(heads)


@pytest.mark.parametrize(
    "builder",
    [f"build_{network}_backbone" for network in ("cr", "stage_supernet", "dilation_supernet")],
)
def test_supernets_are_refused(builder):
    cfg = make_cfg()
    cfg.MODEL.BACKBONE.NAME = builder
    if "supernet" not in builder:
        build_model(cfg)
        return
    for build in (build_backbone, lambda c: check_network(c, training=True)):
        with pytest.raises(ValueError, match="'CRRes5ROIHeads', .*expected 'StandardROIHeads'"):
            build(cfg)


@pytest.mark.parametrize("heads", ["CRRes5ROIHeads", "Res5ROIHeads"])
def test_mobilenetv2_is_refused(heads):
    cfg = crnas_d2.get_config("Networks/MNV2.yaml")
    cfg.MODEL.BACKBONE.NAME = "build_cr_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.ROI_HEADS.NAME = heads
    message = (
        f"NAME is '{heads}', .* expected 'StandardROIHeads' .* MODEL.CR.FAMILY is 'mobilenetv2'"
    )
    for build in (build_backbone, lambda c: check_network(c, training=True)):
        with pytest.raises(ValueError, match=message):
            build(cfg)


def test_other_contradictions():
    cfg = make_cfg(RES5_DILATION=2)
    with pytest.raises(
        ValueError, match="RES5_DILATION is 2; expected 1 with MODEL.ROI_HEADS.NAME"
    ):
        build_backbone(cfg)
    cfg = make_cfg(OUT_FEATURES=["res3", "res4"])
    cfg.MODEL.ROI_HEADS.IN_FEATURES = ["res3"]
    with pytest.raises(
        ValueError, match=r"IN_FEATURES is \['res3'\], .* 64 channels; .*\['res4'\]"
    ):
        build_model(cfg)
