"""Matches the statistics of a remapped network's norms to the activations of its seed network."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from .remap_report import RemapReport


def match_statistics(
    target: nn.Module, seed: nn.Module, report: RemapReport, images: torch.Tensor
) -> None:
    """Give each channel after a norm the mean and variance that it has in the seed network.

    Dropped, repeated or dilated blocks change the input of the layers behind them, for which the
    statistics of their norms no longer fit. These are set anew, layer by layer in one forward pass,
    so that on some images the norms' outputs have the mean and variance of the seed network's
    (REPAIR; Jordan et al., 2023). No labels are needed, and the images do not have to be those of
    the seed's training: unlike statistics that are simply recomputed on them, these leave an
    unchanged network as it is. A batch norm in training mode does something similar by itself; this
    is for frozen norms, and for evaluation before any training.

    Args:
        target: the backbone with the weights of :func:`remap_backbone`. The running means and
            variances of its norms are changed in place.
        seed: the network that the weights come from, as a module in evaluation mode.
        report: the report of :func:`remap_backbone`.
        images: images of shape (N, channels, H, W), normalized as the networks expect.

    Raises:
        ValueError: a network has no norm with running statistics, or the target is a supernet or
            has fewer channels.
    """
    sources = {
        name.removesuffix(".running_mean"): origin.source.removesuffix(".running_mean")
        for name, origin in report.origins.items()
        if name.endswith(".running_mean") and origin.source is not None
    }
    if not sources:
        raise ValueError(
            "there is no norm with running statistics that comes from the seed network"
        )
    if any(".ops." in name for name in report.origins):
        raise ValueError("the target is a supernet; expected one network, whose norms see one path")
    if any(origin.is_cut for origin in report.origins.values()):
        raise ValueError("the target has fewer channels than the seed network; expected as many")
    expected: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def keep(name: str, norm: Any, x: torch.Tensor) -> None:
        variance, mean = torch.var_mean(x, (0, 2, 3), correction=0)
        scale = (norm.running_var + norm.eps).rsqrt()
        expected[name] = (mean - norm.running_mean) * scale, variance.sqrt() * scale

    def match(name: str, norm: Any, x: torch.Tensor) -> None:
        if name not in sources:
            return
        mean, deviation = expected[sources[name]]
        variance, own_mean = torch.var_mean(x, (0, 2, 3), correction=0)
        alive = (deviation > 0) & (variance > 0)
        matched = torch.where(alive, variance / deviation.square(), norm.running_var + norm.eps)
        norm.running_var.copy_((matched - norm.eps).clamp(min=0))
        norm.running_mean.copy_(own_mean - mean * (norm.running_var + norm.eps).sqrt())

    with torch.no_grad():
        with _before_each_norm(seed, keep):
            seed(images)
        with _before_each_norm(target, match):
            target(images)


@contextlib.contextmanager
def _before_each_norm(
    network: nn.Module, do: Callable[[str, Any, torch.Tensor], None]
) -> Iterator[None]:
    """Call ``do`` with the name, module and input of each norm that runs, within a ``with`` block."""
    hooks = [
        module.register_forward_pre_hook(lambda norm, inputs, name=name: do(name, norm, inputs[0]))
        for name, module in network.named_modules()
        if hasattr(module, "running_mean")
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
