"""Statistics of the norms on a single path, as training mixes those of all paths."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from detectron2.layers import FrozenBatchNorm2d
from detectron2.structures import ImageList
from detectron2.utils import comm

from ..architecture import Code
from ..modeling.supernet import Supernet, active_modules

Statistics = dict[_BatchNorm, tuple[torch.Tensor, torch.Tensor]]  # mean and variance of each norm


def recalibrate(
    backbone: nn.Module, supernet: Supernet, paths: Sequence[Code], batches: Iterable[ImageList]
) -> list[Statistics]:
    """Compute the mean and variance of every BN on each path over some batches.

    These are the population statistics of :func:`fvcore.nn.precise_bn.update_bn_stats`, restricted
    to the norms on the path and to the pixels of the images: each image in a batch has the features
    that it would have without the zeros that pad it to the size of the others. The norms of the
    detector's heads, if it has any, are not included. All modules have to be in evaluation mode.

    Args:
        backbone: the supernet, or a module built upon it, such as its FPN.
        supernet: the supernet inside the backbone. It is left at the last path, with its statistics
            unchanged.
        paths: paths in lexicographic order, which shares the most work.
        batches: batches of this rank. The result does not depend on the number of ranks.

    Returns:
        The statistics of each path. Norms that two neighboring paths share up to their divergence
        have the same tensor objects in both.
    """
    norms, sums = [], []
    for path in paths:
        supernet.set_path(path)
        norms.append(active_norms(backbone))
        sums.append(_Sum(sum(1 + 2 * norm.num_features for norm in norms[-1])))
    # A neck without norms does not have to run.
    inner = set(supernet.modules())
    network = supernet if all(inner.issuperset(each) for each in norms) else backbone
    with keeping_statistics(backbone), _Measurement(backbone) as measurement:
        for images in batches:
            measurement.images = images
            with supernet.sharing_prefixes():
                for path, own_norms, total in zip(paths, norms, sums):
                    supernet.set_path(path)
                    network(images.tensor)
                    total.add(torch.cat([measurement.moments[norm] for norm in own_norms]).cpu())
    results = []
    for own_norms, own in zip(norms, sums):
        total = _Sum(len(own.value))
        for part in comm.all_gather((own.value, own.rest)):
            for addend in part:
                total.add(addend)
        results.append(_population(own_norms, total.value + total.rest))
    for previous, result in zip(results, results[1:]):
        for norm, (mean, variance) in result.items():
            if norm in previous and _equal(previous[norm], (mean, variance)):
                result[norm] = previous[norm]
    return results


def active_norms(module: nn.Module) -> list[_BatchNorm]:
    """List the BN layers that the chosen path runs, in the order of their names."""
    return [m for m in active_modules(module) if isinstance(m, _BatchNorm)]


def use_statistics(statistics: Statistics) -> None:
    """Set the statistics of the norms. :func:`keeping_statistics` restores the previous ones."""
    for norm, (mean, variance) in statistics.items():
        norm.running_mean = mean
        norm.running_var = variance


@contextlib.contextmanager
def keeping_statistics(module: nn.Module) -> Iterator[None]:
    """Restore the statistics of every norm at the end of a ``with`` block."""
    kept = {
        norm: (norm.running_mean, norm.running_var, norm.num_batches_tracked)
        for norm in module.modules()
        if isinstance(norm, _BatchNorm)
    }
    try:
        yield
    finally:
        for norm, (mean, variance, tracked) in kept.items():
            norm.running_mean, norm.running_var, norm.num_batches_tracked = mean, variance, tracked


class _Measurement(contextlib.ExitStack):
    """Within it, every norm uses the statistics of its batch, without the padding of the images.

    Features are set to zero where there is no image, as the padding of a convolution is.

    Attributes:
        images: the next batch, which has to be set.
        moments: for each norm's last batch, float64 of shape (1 + 2 * channels,): the number of
            values in a channel, their sums, and the sums of their squares.
    """

    def __init__(self, module: nn.Module):
        super().__init__()
        self.images: ImageList
        self.moments: dict[_BatchNorm, torch.Tensor] = {}
        for part in module.modules():
            if isinstance(part, nn.Conv2d):  # no norm follows a pooling
                self.enter_context(part.register_forward_pre_hook(lambda _, x: self._clear(x[0])))
            elif isinstance(part, FrozenBatchNorm2d):  # before the pooling of a stem
                self.enter_context(part.register_forward_hook(lambda _, __, x: self._clear(x)))
            elif isinstance(part, _BatchNorm):
                part.running_mean = torch.zeros_like(part.get_buffer("running_mean"))
                part.running_var = torch.zeros_like(part.get_buffer("running_var"))
                self.enter_context(part.register_forward_pre_hook(self._measure))
                self.enter_context(part.register_forward_hook(lambda _, __, x: self._clear(x)))

    def _sizes(self, features: torch.Tensor) -> list[tuple[int, ...]]:
        """Get the height and width of each image in a feature map."""
        scales = list(zip(features.shape[-2:], self.images.tensor.shape[-2:]))
        return [
            tuple(-(-length * part // whole) for length, (part, whole) in zip(size, scales))
            for size in self.images.image_sizes
        ]

    def _measure(self, norm: _BatchNorm, inputs: tuple[torch.Tensor]) -> None:
        images = [image[:, :h, :w] for image, (h, w) in zip(inputs[0], self._sizes(inputs[0]))]
        moments = (torch.var_mean(image, (1, 2), correction=0) for image in images)
        variances, means = (torch.stack(column).double() for column in zip(*moments))
        counts = means.new_tensor([image[0].numel() for image in images])
        count, sums, squares = counts.sum(), counts @ means, counts @ (variances + means.square())
        norm.get_buffer("running_mean").copy_(sums / count)
        norm.get_buffer("running_var").copy_(squares / count - (sums / count).square())
        self.moments[norm] = torch.cat([count[None], sums, squares])

    def _clear(self, features: torch.Tensor) -> None:
        for image, (h, w) in zip(features, self._sizes(features)):
            image[:, h:] = 0
            image[:, :, w:] = 0


class _Sum:
    """A sum of float64 vectors with doubled precision, so that their order does not matter."""

    def __init__(self, length: int):
        self.value = torch.zeros(length, dtype=torch.float64)
        self.rest = torch.zeros(length, dtype=torch.float64)

    def add(self, addend: torch.Tensor) -> None:
        value = self.value + addend
        taken = value - self.value
        self.rest += (self.value - (value - taken)) + (addend - taken)
        self.value = value


def _population(norms: Sequence[_BatchNorm], sums: torch.Tensor) -> Statistics:
    """Compute the population statistics from sums.

    Args:
        norms: the norms.
        sums: concatenated sums of all norms, each of shape (1 + 2 * channels,), see
            :class:`_Measurement`.
    """
    statistics, start = {}, 0
    for norm in norms:
        channels = norm.num_features
        count, mean, squares = sums[start : start + 1 + 2 * channels].split([1, channels, channels])
        start += 1 + 2 * channels
        mean = mean / count
        variance = squares / count - mean.square()
        statistics[norm] = (
            mean.to(norm.get_buffer("running_mean")),
            variance.to(norm.get_buffer("running_var")),
        )
    return statistics


def _equal(a: tuple[torch.Tensor, ...], b: tuple[torch.Tensor, ...]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b))
