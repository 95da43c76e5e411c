"""Every shipped config builds, has the pyramid that its heads expect, and the paper's codes and schedule."""

import glob
import os

import pytest
import torch

import crnas_d2
from crnas_d2.config import configs_dir, get_architecture
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone, build_model

CONFIGS = sorted(
    os.path.relpath(path, configs_dir())
    for path in glob.glob(os.path.join(configs_dir(), "*", "*.yaml"))
    if not os.path.basename(path).startswith("Base-")
)
COCO = [name for name in CONFIGS if name.startswith("COCO-Detection")]

NETWORKS = {
    "R_18": "ResNet18",
    "R_50": "ResNet50",
    "R_101": "ResNet101",
    "X_50_32x4d": "ResNeXt50",
    "X_101_32x4d": "ResNeXt101",
    "MNV2": "MobileNetV2",
}


@pytest.mark.parametrize("name", CONFIGS)
def test_pyramid(name):
    cfg = crnas_d2.get_config(name)
    with torch.device("meta"):
        backbone = build_backbone(cfg, ShapeSpec(channels=3))
        features = backbone(torch.empty(1, 3, 256, 384))
    assert list(features) == cfg.MODEL.RPN.IN_FEATURES
    for level, (name, feature) in enumerate(features.items(), start=2):
        stride = 2**level
        assert backbone.output_shape()[name].stride == stride
        assert feature.shape == (1, cfg.MODEL.FPN.OUT_CHANNELS, 256 // stride, 384 // stride)


@pytest.mark.parametrize("name", [n for n in CONFIGS if "101" not in n and "2x" not in n])
def test_detector_builds_and_detects(name):
    cfg = crnas_d2.get_config(name)
    cfg.MODEL.DEVICE = "cpu"
    model = build_model(cfg).eval()
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    with torch.no_grad():
        (result,) = model([{"image": image, "height": 64, "width": 64}])
    assert len(result["instances"]) <= cfg.TEST.DETECTIONS_PER_IMAGE


def test_all_networks_have_both_schedules():
    expected = {
        f"COCO-Detection/faster_rcnn_{prefix}{network}_FPN_{schedule}.yaml"
        for network, name in NETWORKS.items()
        for prefix in ("", "SCR_", "CR_")
        if f"{prefix.replace('_', '-')}{name}" in crnas_d2.ARCHITECTURES
        for schedule in ("1x", "2x")
    }
    assert len(expected) == 32
    assert set(COCO) == expected


@pytest.mark.parametrize("name", COCO)
def test_codes_are_the_published_ones(name):
    network = name.split("faster_rcnn_")[1].split("_FPN")[0]
    for prefix in ("SCR_", "CR_", ""):
        if network.startswith(prefix):
            published = prefix.replace("_", "-") + NETWORKS[network[len(prefix) :]]
            break
    cfg = crnas_d2.get_config(name)
    assert get_architecture(cfg) == crnas_d2.ARCHITECTURES[published]
    if "X_" in network:
        assert (cfg.MODEL.RESNETS.NUM_GROUPS, cfg.MODEL.RESNETS.WIDTH_PER_GROUP) == (32, 4)


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
    assert cfg.MODEL.RESNETS.NORM == cfg.MODEL.FPN.NORM == "SyncBN"
    assert (cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN) == ((800,), 1333)
    assert (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST) == (800, 1333)


def test_baselines_differ_from_reallocated_networks_in_their_codes_alone():
    for name in COCO:
        if "_CR_" in name or "_SCR_" in name:
            ours = crnas_d2.get_config(name)
            baseline = crnas_d2.get_config(name.replace("_SCR_", "_").replace("_CR_", "_"))
            baseline.MODEL.CR.STAGE_CODE = ours.MODEL.CR.STAGE_CODE
            baseline.MODEL.CR.OPERATION_CODE = ours.MODEL.CR.OPERATION_CODE
            assert ours == baseline, name


def test_config_without_our_keys_says_what_to_call():
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME = "build_cr_resnet_fpn_backbone"
    with pytest.raises(ValueError, match="add_crnas_config"):
        build_backbone(cfg)
