"""Thin networks to remap, and which of their channels stay."""

import pytest
import torch
from thin_supernets import (
    FEATURES,
    KINDS,
    family_of,
    randomize,
)

from crnas_d2 import CRMobileNetV2, CRResNet

DOUBLED = ("stem_out_channels", "res2_out_channels", "width_per_group", "width_multiplier")
WIDE = {
    kind: {key: 2 * value if key in DOUBLED else value for key, value in arguments.items()}
    for kind, arguments in KINDS.items()
}
SEED_CODES = {"resnet": (1, 2, 3, 3), "mobilenetv2": (1, 1, 1, 2, 3, 2, 3, 1, 1, 1)}
EACH = pytest.mark.parametrize("kind", KINDS)


def build(kind, stage_code, widths=KINDS, **options):
    network = CRMobileNetV2 if kind == "mobilenetv2" else CRResNet
    return network(stage_code, **widths[kind], **{"out_features": FEATURES, **options})


def make_seed(kind, widths=KINDS, stage_code=None):
    torch.manual_seed(1)
    return randomize(build(kind, stage_code or SEED_CODES[family_of(kind)], widths)).eval()
