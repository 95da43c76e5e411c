"""Successive halving (Jamieson and Talwalkar, arXiv 1502.07943), with images as the resource."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..architecture import Code
from .ranking import rank


def rungs(batches: int, first: int, factor: int) -> list[range]:
    """Get the mini-batches of each rung, evenly spread over all. The last rung has all of them.

    Args:
        batches: total number of mini-batches.
        first: minimum number of mini-batches in the first rung.
        factor: factor by which their number grows from rung to rung.
    """
    strides = [1]
    while math.ceil(batches / (strides[-1] * factor)) >= first and strides[-1] < batches:
        strides.append(strides[-1] * factor)
    return [range(0, batches, stride) for stride in reversed(strides)]


def keep_best(codes: Sequence[Code], scores: Sequence[float | None], factor: int) -> list[Code]:
    """Keep one in ``factor`` architectures, rounded up, by score. The result is sorted by code.

    Args:
        codes, scores: as in :func:`crnas_d2.search.ranking.rank`. Failed ones are not kept.
    """
    kept = rank(codes, scores).scored[: math.ceil(len(codes) / factor)]
    return sorted(code for code, _ in kept)
