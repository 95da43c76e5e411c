"""Fine-tuning of the supernets in a detector: appendix A.1."""

import glob
import os

import pytest

import crnas_d2
from crnas_d2.config import configs_dir

SUPERNETS = sorted(
    os.path.relpath(path, configs_dir())
    for path in glob.glob(os.path.join(configs_dir(), "Supernet", "*_supernet_*.yaml"))
)


def test_all_supernets_are_there():
    """Of ResNet101 and ResNeXt101, the stage supernets are those of the 50-layer networks."""
    networks = ("R_18", "R_50", "X_50_32x4d", "MNV2")
    expected = {f"Supernet/stage_supernet_{network}_FPN.yaml" for network in networks}
    for network in (*networks, "R_101", "X_101_32x4d"):
        expected.add(f"Supernet/dilation_supernet_SCR_{network}_FPN.yaml")
    assert set(SUPERNETS) == expected


@pytest.mark.parametrize("name", SUPERNETS)
def test_recipe_of_fine_tuning(name):
    """On archtrain, 25 epochs, steps at 16 and 22, .00125 per image, batch 16, SyncBN, 800/1333."""
    cfg = crnas_d2.get_config(name)
    assert (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST) == (
        ("coco_2017_archtrain",),
        ("coco_2017_archval",),
    )
    solver = cfg.SOLVER
    images = (118287 - 5000) * 117266 / 118287  # of archtrain with an annotation, as expected
    assert (*solver.STEPS, solver.MAX_ITER) == tuple(
        round(epoch * images / 16) for epoch in (16, 22, 25)
    )
    assert (solver.IMS_PER_BATCH, solver.BASE_LR) == (16, 0.00125 * 16)
    assert (solver.GAMMA, solver.MOMENTUM, solver.WEIGHT_DECAY) == (0.1, 0.9, 0.0001)
    assert solver.WARMUP_ITERS > 0
    assert (cfg.MODEL.RESNETS.NORM, cfg.MODEL.FPN.NORM) == ("SyncBN", "")
    assert cfg.MODEL.BACKBONE.FREEZE_AT == 0
    assert (cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN) == ((800,), 1333)
    assert (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST) == (800, 1333)
