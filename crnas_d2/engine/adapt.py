"""A remapped backbone, brought near its seed network on the pictures of a training."""

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
    """Match the statistics of the norms on the first batch, then the features on the following ones.

    What is not in the backbone, such as res5 in the RoI heads of C4, stays as it is.

    Args:
        remapped, report: what :func:`remap_seed` made of the seed network.
        seed: what it was made of.
        model: for which it was made. It stays as it is.
        batches: see :func:`unlabelled_batches`.
        steps: of :func:`match_features`; with 0 the statistics alone are matched.

    Returns:
        The remapped network, adapted; and the loss of each step.

    Raises:
        ValueError: as :func:`match_statistics`, and where the codes of the seed network are not known.
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
