"""Norms for backbones whose widths Detectron2's own norms do not fit."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import nn

Norm = str | Callable[[int], nn.Module]


def fit_norm(norm: Norm) -> Norm:
    """Make a norm fit layers of any width.

    Detectron2's "GN" has 32 groups and so needs channels in multiples of 32, which thin networks
    and MobileNetV2 do not have. Here such layers get the largest power of two that divides their
    channels as the number of groups. All other norms are Detectron2's.

    Args:
        norm: anything that :func:`detectron2.layers.get_norm` takes.
    """
    return _group_norm if norm == "GN" else norm


def _group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(32, channels), channels)
