"""A remapped network learns to give the features of the network that its weights come from."""

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
    """Train a network until its stages give what the same stages of the seed network give.

    No labels are needed. The loss is the mean over the stages of the squared error of their outputs,
    relative to the squares of the seed network's; Adam minimises it, with a learning rate that rises
    over the first twentieth of the steps and then falls like a cosine. Both networks normalise as a
    training does: batch norms by the statistics of the batch, frozen norms by their own. The layers
    that a training will freeze are trained here; their norms are not.

    Args:
        target: the backbone with the weights of :func:`remap_backbone`, whose parameters are
            changed in place. The running statistics of its batch norms become those of the images.
        seed: the network that they come from, as a module. It stays as it is.
        batches: of ``steps`` or more times images, (N, channels, H, W), normalised as the networks
            expect.
        steps: of Adam.

    Returns:
        The loss before each step.

    Raises:
        ValueError: a stage has outputs of another shape in the two networks.
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
    """Of the learning rate."""
    return min(1, (step + 1) / max(1, steps // 20)) * (1 + math.cos(math.pi * step / steps)) / 2


def _relative_error(target: Network, seed: Network, images: torch.Tensor) -> torch.Tensor:
    """Of the outputs of the stages, the mean. Each stage gets what the one before it gives."""
    errors, given, expected = [], images, images.clone()
    for name in _stages(target):
        given = getattr(target, name)(given)
        # requires_grad: else a frozen norm rounds in another way, and Adam makes steps of that
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
    """Within it, the network is in training mode, and all of its parameters have gradients."""
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
