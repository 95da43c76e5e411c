"""Statistics of the norms on a path: those that training leaves mix what all paths gave."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import nn

from detectron2.utils import comm

from ..modeling.supernet import Supernet, active_modules
from ..architecture import Code

Statistics = dict[nn.Module, tuple[torch.Tensor, torch.Tensor]]  # mean and variance of a norm


def recalibrate(
    backbone: nn.Module,
    supernet: Supernet,
    paths: Sequence[Code],
    batches: Iterable[tuple[int, torch.Tensor]],
) -> list[Statistics]:
    """Mean and variance of every BN that a path runs, over some batches, for each path.

    These are the population statistics of :func:`fvcore.nn.precise_bn.update_bn_stats`, of the
    norms on the path alone. The norms of the detector's heads, where it has any, are not among
    them. All other modules have to be in evaluation mode.

    Args:
        backbone: the supernet, or what is built upon it, such as its FPN.
        supernet: inside the backbone. It is left at the last path, its statistics as they were.
        paths: in lexicographic order, which shares the most work.
        batches: of this process, each with its number among those of all processes. The result
            does not depend on how many processes there are.

    Returns:
        For each path. Norms that two neighbouring paths share up to where they part have the
        very same tensors in both.
    """
    norms = [[] for _ in paths]
    samples = [{} for _ in paths]  # by number of batch, the moments of those norms in a row
    with keeping_statistics(backbone), _measuring(backbone) as sizes, supernet.sharing_prefixes():
        for number, images in batches:
            for index, path in enumerate(paths):
                supernet.set_path(path)
                backbone(images)
                norms[index] = active_norms(backbone)
                samples[index][number] = torch.cat([_moments(n, sizes[n]) for n in norms[index]])
    results = []
    for index, path in enumerate(paths):
        parts = comm.all_gather({n: sample.cpu() for n, sample in samples[index].items()})
        if not norms[index]:  # a process without a batch
            supernet.set_path(path)
            norms[index] = active_norms(backbone)
        merged = {number: sample for part in parts for number, sample in part.items()}
        rows = torch.stack([merged[number] for number in sorted(merged)])
        results.append(_population(norms[index], rows))
    for previous, result in zip(results, results[1:]):
        for norm, (mean, variance) in result.items():
            if norm in previous and _equal(previous[norm], (mean, variance)):
                result[norm] = previous[norm]
    return results


def active_norms(module: nn.Module) -> list[nn.Module]:
    """The BN layers that the chosen path runs, in order of their names."""
    return [m for m in active_modules(module) if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def use_statistics(statistics: Statistics) -> None:
    """Let the norms work with these. :func:`keeping_statistics` undoes it."""
    for norm, (mean, variance) in statistics.items():
        norm.running_mean = mean
        norm.running_var = variance


@contextlib.contextmanager
def keeping_statistics(module: nn.Module) -> Iterator[None]:
    """At its end, every norm has the statistics that it had before, untouched."""
    kept = {
        norm: (norm.running_mean, norm.running_var, norm.num_batches_tracked)
        for norm in module.modules()
        if isinstance(norm, nn.modules.batchnorm._BatchNorm)
    }
    try:
        yield
    finally:
        for norm, (mean, variance, tracked) in kept.items():
            norm.running_mean, norm.running_var, norm.num_batches_tracked = mean, variance, tracked


@contextlib.contextmanager
def _measuring(module: nn.Module) -> Iterator[dict[nn.Module, int]]:
    """Within it, every norm takes the statistics of its batch and keeps them.

    Yields:
        how many values each norm has seen in a channel of its last batch.
    """
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    before = [(norm.training, norm.momentum) for norm in norms]
    sizes = {}

    def measure(norm: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        sizes[norm] = inputs[0].numel() // inputs[0].shape[1]

    hooks = [norm.register_forward_pre_hook(measure) for norm in norms]
    try:
        for norm in norms:
            norm.train()
            norm.momentum = 1.0
            norm.running_mean = torch.zeros_like(norm.running_mean)
            norm.running_var = torch.zeros_like(norm.running_var)
            norm.num_batches_tracked = torch.zeros_like(norm.num_batches_tracked)
        yield sizes
    finally:
        for hook in hooks:
            hook.remove()
        for norm, (training, momentum) in zip(norms, before):
            norm.train(training)
            norm.momentum = momentum


def _moments(norm: nn.Module, size: int) -> torch.Tensor:
    return torch.cat([norm.running_mean.new_tensor([size]), norm.running_mean, norm.running_var])


def _population(norms: Sequence[nn.Module], rows: torch.Tensor) -> Statistics:
    """
    Args:
        rows: (batches, sum of 1 + 2 * channels over the norms).
    """
    statistics, start = {}, 0
    for norm in norms:
        channels = norm.num_features
        size, mean, variance = (
            rows[:, start : start + 1 + 2 * channels].double().split([1, channels, channels], 1)
        )
        start += 1 + 2 * channels
        share = size / size.sum()
        population_mean = (share * mean).sum(0)
        squares = (share * (mean.square() + variance * (size - 1) / size)).sum(0)
        statistics[norm] = (
            population_mean.to(norm.running_mean),
            (squares - population_mean.square()).to(norm.running_var),
        )
    return statistics


def _equal(a: tuple[torch.Tensor, ...], b: tuple[torch.Tensor, ...]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b))
