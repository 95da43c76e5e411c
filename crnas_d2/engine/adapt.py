"""Adapts a remapped backbone to the features of its seed network, on images of a training."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable

import torch
from torch import nn

from ..checkpoint.match_features import match_features
from ..checkpoint.match_statistics import match_statistics
from ..checkpoint.remap import find_backbone
from ..checkpoint.remap_report import RemapReport
from ..checkpoint.seed_network import SeedNetwork


def adapt(
    remapped: SeedNetwork,
    report: RemapReport,
    seed: SeedNetwork,
    model: nn.Module,
    batches: Iterable[torch.Tensor],
    steps: int,
) -> tuple[SeedNetwork, list[float]]:
    """Match the norms' statistics on the first batch, then the features on the following ones.

    Anything outside of the backbone, such as res5 in the RoI heads of C4, stays unchanged.

    Args:
        remapped, report: results of :func:`remap_seed` for the seed network.
        seed: the seed network.
        model: the model that it was remapped for, which stays unchanged.
        batches: see :func:`unlabeled_batches`.
        steps: number of steps of :func:`match_features`. With 0, only the statistics are matched.

    Returns:
        The adapted network, and the loss of each step.

    Raises:
        ValueError: as :func:`match_statistics`, or the codes of the seed network are unknown.
    """
    batches = iter(batches)
    images = next(batches)
    original = seed.rebuild().to(images.device)
    backbone = copy.deepcopy(find_backbone(model)).to(images.device).eval()
    backbone.load_state_dict(remapped.weights, strict=False)
    match_statistics(backbone, original, report, images)
    losses = match_features(backbone, original, batches, steps) if steps else []
    state = {name: tensor.cpu() for name, tensor in backbone.state_dict().items()}
    weights = {name: state.get(name, tensor) for name, tensor in remapped.weights.items()}
    return dataclasses.replace(remapped, weights=weights), losses
