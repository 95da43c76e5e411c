"""Every shipped config builds and runs, and has the paper's codes, widths and schedule."""

import glob
import math
import os
import re
from functools import cache

import pytest
import torch

import crnas_d2
from crnas_d2.checkpoint.start import build_on_meta
from crnas_d2.config import configs_dir, flatten_config, get_architecture
from crnas_d2.config_files import name_in_configs
from crnas_d2.engine.hooks import find_supernet

import detectron2
from detectron2.config import get_cfg
from detectron2.modeling import build_backbone, build_model
from detectron2.solver import build_lr_scheduler

CONFIGS = sorted(
    os.path.relpath(path, configs_dir())
    for path in glob.glob(os.path.join(configs_dir(), "*", "*.yaml"))
    if not os.path.basename(path).startswith("Base-")
    and os.path.basename(os.path.dirname(path)) not in ("Networks", "Search")  # parts, recipes
)
CLASSIFIERS = [
    name
    for name in CONFIGS
    if crnas_d2.get_config(name).MODEL.META_ARCHITECTURE == "ImageClassifier"
]
DETECTORS = [name for name in CONFIGS if name not in CLASSIFIERS]
COCO = [name for name in CONFIGS if name.startswith("COCO-Detection/faster_rcnn")]
NAS_FPN = [name for name in COCO if "_NASFPN_" in name]
ONE_LEVEL = [name for name in COCO if "_C4_" in name or "_DC5_" in name]
IMAGENET = [name for name in CONFIGS if name.startswith("ImageNet")]
PUBLISHED = {name_in_configs(name): codes for name, codes in crnas_d2.ARCHITECTURES.items()}
SUPERNETS = [name for name in IMAGENET if "supernet" in name]


def choose_a_path(model):
    """Of a supernet, which runs none on its own."""
    supernet = find_supernet(model)
    if supernet is not None:
        supernet.set_path(next(iter(supernet.space)))
    return model


@pytest.mark.parametrize("name", [name for name in DETECTORS if name not in ONE_LEVEL])
def test_pyramid(name):
    cfg = crnas_d2.get_config(name)
    backbone = choose_a_path(build_on_meta(cfg))
    with torch.device("meta"):
        features = backbone(torch.empty(1, 3, 256, 384))
    is_close = name.endswith("_close.yaml")  # a RetinaNet on P2 to P5
    of_head = cfg.MODEL.RETINANET if "retinanet" in name or is_close else cfg.MODEL.RPN
    assert list(features) == of_head.IN_FEATURES + ["p6"] * is_close
    neck = cfg.MODEL.NAS_FPN if name in NAS_FPN else cfg.MODEL.FPN
    first = 3 if name in NAS_FPN or ("retinanet" in name and not is_close) else 2
    for level, (feature_name, feature) in enumerate(features.items(), start=first):
        stride = 2**level
        assert backbone.output_shape()[feature_name].stride == stride
        assert feature.shape == (1, neck.OUT_CHANNELS, 256 // stride, 384 // stride)


@pytest.mark.parametrize(
    "name",
    [n for n in DETECTORS if "101" not in n and "2x" not in n and not n.startswith("Supernet")],
)
def test_detector_builds_and_detects(name, monkeypatch):
    """Without a threshold it fills its detections, within the image and of its classes."""
    cfg = crnas_d2.get_config(name)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = cfg.MODEL.RETINANET.SCORE_THRESH_TEST = 0.0
    cfg.MODEL.RPN.POST_NMS_TOPK_TEST = cfg.MODEL.RETINANET.TOPK_CANDIDATES_TEST = 20
    cfg.TEST.DETECTIONS_PER_IMAGE = 20
    for fill in ("kaiming_normal_", "kaiming_uniform_", "normal_", "uniform_"):
        monkeypatch.setattr(torch.nn.init, fill, lambda tensor, *_, **__: tensor.data.zero_())
    model = choose_a_path(build_model(cfg).eval())
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    with torch.no_grad():
        (result,) = model([{"image": image, "height": 64, "width": 64}])
    found = result["instances"]
    assert len(found) == 20
    assert found.pred_boxes.tensor.min() >= 0 and found.pred_boxes.tensor.max() <= 64
    of_head = cfg.MODEL.RETINANET if "RetinaNet" in type(model).__name__ else cfg.MODEL.ROI_HEADS
    assert 0 <= found.pred_classes.min() and found.pred_classes.max() < of_head.NUM_CLASSES
    assert found.has("pred_masks") == cfg.MODEL.MASK_ON


@cache
def build_meta_classifier(name):
    cfg = crnas_d2.get_config(name)
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        return build_model(cfg)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifier_gives_a_loss_and_scores(name):
    cfg = crnas_d2.get_config(name)
    side = cfg.INPUT.CLASSIFICATION.CROP_SIZE
    model = choose_a_path(build_meta_classifier(name)).train()
    with torch.device("meta"):
        batch = {
            "image": torch.empty(2, 3, side, side, dtype=torch.uint8),
            "label": torch.zeros(2, dtype=torch.int64),
        }
        assert model(batch)["loss_cls"].shape == ()
        assert model.eval()(batch).shape == (2, cfg.MODEL.CLASSIFIER.NUM_CLASSES)
    assert model.backbone.output_shape()["res5"].stride == 32


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifier_has_the_backbone_of_the_detector(name):
    folder, network = name.removesuffix(".yaml").split("/")
    if folder == "ImageNet":
        folder = "Supernet" if "supernet" in network else "COCO-Detection"
    network = network.removeprefix("classifier_")
    candidates = [
        f"{folder}/{network}.yaml",
        f"{folder}/{network}_FPN.yaml",
        f"{folder}/retinanet_{network}.yaml",
        f"{folder}/faster_rcnn_{network}_FPN.yaml",
        f"{folder}/faster_rcnn_{network}_FPN_1x.yaml",
    ]
    (detector,) = set(candidates) & set(DETECTORS)
    theirs = build_on_meta(crnas_d2.get_config(detector)).bottom_up
    ours, theirs = (
        {key: tensor.shape for key, tensor in backbone.state_dict().items()}
        for backbone in (build_meta_classifier(name).backbone, theirs)
    )
    counters = {key for key in ours if key.endswith("num_batches_tracked")}  # not in FrozenBN
    assert {**ours, **theirs} == ours
    assert ours.keys() - theirs.keys() <= counters


def test_all_networks_have_both_schedules():
    expected = {
        f"COCO-Detection/faster_rcnn_{name_in_configs(architecture)}_FPN_{schedule}.yaml"
        for architecture in crnas_d2.ARCHITECTURES
        for schedule in ("1x", "2x")
    }
    assert len(expected) == 32
    assert set(COCO) - set(NAS_FPN) - set(ONE_LEVEL) == expected


def test_all_networks_and_supernets_are_pre_trained():
    finals = {
        n.removesuffix("_FPN_1x.yaml").split("faster_rcnn_")[1] for n in COCO if "_FPN_1x" in n
    }
    supernets = {f"dilation_supernet_{network}" for network in finals if network.startswith("SCR_")}
    # ResNet101 and ResNeXt101 have the stage space of their smaller sisters
    supernets |= {f"stage_supernet_{network}" for network in ("R_18", "R_50", "X_50_32x4d", "MNV2")}
    assert {os.path.basename(n).removesuffix(".yaml") for n in IMAGENET} == finals | supernets


@pytest.mark.parametrize("name", [n for n in COCO + IMAGENET if "stage_supernet" not in n])
def test_codes_are_the_published_ones(name):
    network = re.split("_(?:NAS)?FPN|_C4|_DC5", os.path.basename(name).removesuffix(".yaml"))[0]
    network = network.removeprefix("faster_rcnn_").removeprefix("dilation_supernet_")
    cfg = crnas_d2.get_config(name)
    assert get_architecture(cfg) == PUBLISHED[network]
    if "X_" in network and "supernet" not in name:
        assert (cfg.MODEL.RESNETS.NUM_GROUPS, cfg.MODEL.RESNETS.WIDTH_PER_GROUP) == (32, 4)


@pytest.mark.parametrize("name", SUPERNETS)
def test_channels_of_a_supernet(name):
    """Appendix A.1: [32, 64, 128, 256] for ResNet and ResNeXt."""
    backbone = build_meta_classifier(name).backbone
    if "MNV2" in name:
        assert backbone.output_shape()["res5"].channels == 1280
        return
    widths = {"R_18": 1, "R_50": 1, "R_101": 1, "X_50_32x4d": 2, "X_101_32x4d": 2}
    width = next(w for network, w in widths.items() if name.endswith(f"{network}.yaml"))
    for stage, channels in zip(("res2", "res3", "res4", "res5"), (32, 64, 128, 256)):
        convs = [
            m
            for n, m in getattr(backbone, stage).named_modules()
            if isinstance(m, torch.nn.Conv2d) and m.kernel_size == (3, 3)
        ]
        assert {conv.out_channels for conv in convs} == {channels * width}
        assert {conv.groups for conv in convs} == {32 if "X_" in name else 1}
    assert backbone.output_shape()["res5"].channels == (256 if "R_18" in name else 1024)


@pytest.mark.parametrize("name", IMAGENET)
def test_recipe_of_pre_training(name):
    """Appendix A.1: 150 epochs of 1,281,167 images, batch 1024, cosine from 0.4, warm-up."""
    cfg = crnas_d2.get_config(name)
    solver = cfg.SOLVER
    assert solver.IMS_PER_BATCH == 1024
    assert solver.MAX_ITER == round(150 * 1281167 / 1024)
    assert solver.WARMUP_ITERS == round(5 * 1281167 / 1024)
    assert (solver.BASE_LR, solver.MOMENTUM, solver.WEIGHT_DECAY) == (0.4, 0.9, 0.0001)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=solver.BASE_LR)
    schedule = build_lr_scheduler(cfg, optimizer)
    assert schedule.get_last_lr() == pytest.approx([0.1])
    for iteration in (solver.WARMUP_ITERS, solver.MAX_ITER // 2, solver.MAX_ITER - 1):
        schedule.last_epoch = iteration
        cosine = 0.4 * (1 + math.cos(math.pi * iteration / solver.MAX_ITER)) / 2
        assert schedule.get_lr() == pytest.approx([cosine], abs=1e-9)
    assert cfg.MODEL.RESNETS.NORM == ("SyncBN" if name in SUPERNETS else "BN")
    assert cfg.MODEL.BACKBONE.FREEZE_AT == 0
    assert cfg.MODEL.CLASSIFIER.DROPOUT == (0.2 if "MNV2" in name else 0)
    assert (cfg.INPUT.CLASSIFICATION.CROP_SIZE, cfg.INPUT.CLASSIFICATION.TEST_SIZE) == (224, 256)


@pytest.mark.parametrize("name", COCO)
def test_recipe(name):
    """Section 4.1: 13 epochs, steps at 8 and 11; appendix A.4: 25 epochs, steps at 16 and 22."""
    cfg = crnas_d2.get_config(name)
    solver = cfg.SOLVER
    iterations_per_epoch = 117266 / solver.IMS_PER_BATCH
    epochs = (8, 11, 13) if name.endswith("1x.yaml") else (16, 22, 25)
    assert (*solver.STEPS, solver.MAX_ITER) == tuple(
        round(epoch * iterations_per_epoch) for epoch in epochs
    )
    assert solver.BASE_LR == 0.00125 * solver.IMS_PER_BATCH
    assert (solver.GAMMA, solver.MOMENTUM, solver.WEIGHT_DECAY) == (0.1, 0.9, 0.0001)
    assert solver.WARMUP_ITERS > 0
    assert cfg.MODEL.RESNETS.NORM == ("FrozenBN" if name in ONE_LEVEL else "SyncBN")
    assert cfg.MODEL.FPN.NORM == ""
    assert (cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN) == ((800,), 1333)
    assert (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST) == (800, 1333)


def test_nas_fpn():
    """Appendix A.4: "NAS-FPN (7 @ 384) in Faster RCNN", ResNet50 and CR-ResNet50, 1x."""
    assert NAS_FPN == [
        f"COCO-Detection/faster_rcnn_{network}_NASFPN_1x.yaml" for network in ("CR_R_50", "R_50")
    ]
    for name in NAS_FPN:
        cfg = crnas_d2.get_config(name)
        neck = cfg.MODEL.NAS_FPN
        assert (neck.NUM_CELLS, neck.OUT_CHANNELS, neck.NORM) == (7, 384, "SyncBN")
        assert cfg.MODEL.RPN.IN_FEATURES == ["p3", "p4", "p5", "p6", "p7"]
        assert cfg.MODEL.ROI_HEADS.IN_FEATURES == ["p3", "p4", "p5", "p6"]
        assert cfg.MODEL.ANCHOR_GENERATOR.SIZES == [[32 * 2 ** (n - 2)] for n in range(3, 8)]
        fpn = crnas_d2.get_config(name.replace("_NASFPN", "_FPN"))
        for key in ("BACKBONE", "NAS_FPN", "ANCHOR_GENERATOR"):
            fpn.MODEL[key] = cfg.MODEL[key]
        for key in ("RPN", "ROI_HEADS"):
            fpn.MODEL[key].IN_FEATURES = cfg.MODEL[key].IN_FEATURES
        assert fpn == cfg


@pytest.mark.parametrize("kind", ["C4", "DC5"])
def test_one_level_is_that_of_detectron2(kind):
    """All keys of the model but those of the images, the stride, and what is not in use."""
    name = f"COCO-Detection/faster_rcnn_R_50_{kind}_1x.yaml"
    assert [n for n in ONE_LEVEL if kind in n] == [name.replace("R_50", "CR_R_50"), name]
    ours, theirs = crnas_d2.get_config(name), get_cfg()
    folder = os.path.join(os.path.dirname(detectron2.__file__), "model_zoo", "configs")
    theirs.merge_from_file(os.path.join(folder, name))
    ours, theirs = (flatten_config(cfg.MODEL, "") for cfg in (ours, theirs))
    other = {key for key, value in theirs.items() if ours[key] != value}
    expected = {"WEIGHTS", "PIXEL_MEAN", "PIXEL_STD", "RESNETS.STRIDE_IN_1X1", "BACKBONE.NAME"}
    expected |= {"FPN.IN_FEATURES"}
    if kind == "C4":
        expected |= {"ROI_HEADS.NAME", "ROI_BOX_HEAD.NAME", "ROI_BOX_HEAD.NUM_FC"}
    else:
        expected |= {"ROI_MASK_HEAD.NUM_CONV"}
    assert other == expected


def test_reallocated_networks_differ_from_baselines_in_their_codes_and_what_is_frozen():
    for name in COCO:
        if "_CR_" in name or "_SCR_" in name:
            ours = crnas_d2.get_config(name)
            baseline = crnas_d2.get_config(name.replace("_SCR_", "_").replace("_CR_", "_"))
            baseline.MODEL.CR.STAGE_CODE = ours.MODEL.CR.STAGE_CODE
            baseline.MODEL.CR.OPERATION_CODE = ours.MODEL.CR.OPERATION_CODE
            assert (ours.MODEL.BACKBONE.FREEZE_AT, baseline.MODEL.BACKBONE.FREEZE_AT) == (1, 2)
            baseline.MODEL.BACKBONE.FREEZE_AT = 1
            assert ours == baseline, name


def test_config_without_our_keys_says_what_to_call():
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME = "build_cr_fpn_backbone"
    with pytest.raises(ValueError, match="add_crnas_config"):
        build_backbone(cfg)
