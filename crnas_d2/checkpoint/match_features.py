"""Trains a remapped network to reproduce the features of the network that its weights come from."""

from __future__ import annotations

import contextlib
import copy
import itertools
import math
from collections.abc import Iterable, Iterator

import torch
from torch import nn

from detectron2.layers import FrozenBatchNorm2d

from ..modeling import CRMobileNetV2, CRResNet

Network = CRResNet | CRMobileNetV2
LEARNING_RATE = 1e-3


def match_features(
    target: Network, seed: Network, batches: Iterable[torch.Tensor], steps: int
) -> list[float]:
    """Train a network until its stages reproduce the outputs of the seed network's stages.

    No labels are needed. The loss is the squared error of the outputs relative to the squares of
    the seed network's, averaged over the stages. Adam minimizes it with a learning rate that warms
    up over the first twentieth of the steps and then decays along a cosine. Both networks normalize
    as in a training: batch norms by the statistics of the batch, frozen norms by their own. Layers
    that a training will freeze are trained here, but their norms are not.

    Args:
        target: the backbone with the weights of :func:`remap_backbone`, whose parameters are
            changed in place. The running statistics of its batch norms become those of the images.
        seed: the network that the weights come from, as a module. It is not changed.
        batches: at least ``steps`` batches of images, each of shape (N, channels, H, W) and
            normalized as the networks expect.
        steps: number of steps.

    Returns:
        The loss before each step.

    Raises:
        ValueError: the output of a stage has different shapes in the two networks.
    """
    seed = copy.deepcopy(seed).requires_grad_(False)
    for name in _stages(target):
        stage = getattr(seed, name).train()
        if any(isinstance(norm, FrozenBatchNorm2d) for norm in getattr(target, name).modules()):
            setattr(seed, name, FrozenBatchNorm2d.convert_frozen_batchnorm(stage))
    optimizer = torch.optim.Adam(target.parameters(), LEARNING_RATE)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _factor(step, steps))
    losses = []
    with _training_all_of(target):
        for images in itertools.islice(batches, steps):
            loss = _relative_error(target, seed, images)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            losses.append(loss.item())
    return losses


def _stages(network: Network) -> list[str]:
    return list(dict.fromkeys(("stem", *network.stage_names)))


def _factor(step: int, steps: int) -> float:
    """Get the factor on the learning rate at a step."""
    return min(1, (step + 1) / max(1, steps // 20)) * (1 + math.cos(math.pi * step / steps)) / 2


def _relative_error(target: Network, seed: Network, images: torch.Tensor) -> torch.Tensor:
    """Compute the mean of the relative errors of the stages, each on the output of the one before."""
    errors, given, expected = [], images, images.clone()
    for name in _stages(target):
        given = getattr(target, name)(given)
        # requires_grad, as otherwise a frozen norm rounds differently, which Adam turns into steps
        expected = getattr(seed, name)(expected.requires_grad_()).detach()
        if given.shape != expected.shape:
            raise ValueError(
                f"stage {name} gives {tuple(given.shape)} in the target, {tuple(expected.shape)} in "
                "the seed network; expected the same shape"
            )
        errors.append((given - expected).square().sum() / expected.square().sum())
    return torch.stack(errors).mean()


@contextlib.contextmanager
def _training_all_of(network: nn.Module) -> Iterator[None]:
    """Put a network in training mode with gradients for all parameters, within a ``with`` block."""
    training = network.training
    frozen = [parameter for parameter in network.parameters() if not parameter.requires_grad]
    network.train().requires_grad_(True)
    try:
        yield
    finally:
        network.train(training)
        for parameter in frozen:
            parameter.requires_grad_(False)
        network.zero_grad()
