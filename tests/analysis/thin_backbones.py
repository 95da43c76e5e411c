"""Thin networks and made fields for the measurement of receptive fields."""

import numpy as np
import torch

from crnas_d2 import CRResNet
from crnas_d2.analysis.erf import (
    ERF,
)

from detectron2.modeling import FPN
from detectron2.modeling.backbone.fpn import LastLevelMaxPool

THIN = {"stem_out_channels": 8, "res2_out_channels": 16, "width_per_group": 4}
FEATURES = ["res2", "res3", "res4", "res5"]


def thin_backbone(*codes, seed=0, **options):
    torch.manual_seed(seed)
    return CRResNet(*codes, **THIN, out_features=FEATURES, **options)


def thin_fpn(*codes, seed=0, **options):
    bottom_up = thin_backbone(*codes, seed=seed, **options)
    return FPN(bottom_up, FEATURES, 8, norm="BN", top_block=LastLevelMaxPool())


def gaussian(feature, stride, sigma, shape=(64, 64)):
    y, x = np.indices(shape)
    squares = (y - shape[0] // 2) ** 2 + (x - shape[1] // 2) ** 2
    return ERF(feature, stride, np.exp(-squares / (2 * sigma**2)))
