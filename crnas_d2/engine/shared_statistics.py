"""Running statistics of norms that are the same on all ranks."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from detectron2.engine import HookBase, hooks
from detectron2.modeling import RetinaNet

from ..modeling.supernet import active_modules


class SharedStatistics(HookBase):
    """Combines the running statistics of BN over the ranks after every step.

    Each rank updates them from its own share of the images. Then every rank gets those of the
    mixture of all W ranks in equal parts instead:

        mean = sum_r mean_r / W
        var = sum_r (var_r + mean_r^2) / W - mean^2

    By the law of total variance (Blitzstein and Hwang, Introduction to Probability, section 9.5),
    the latter is the mean of the variances within the ranks plus the variance of their means. So
    there is a single network at any time, which is tested, saved and resumed, whenever that
    happens.

    Norms off a supernet's path are left unchanged to the last bit, and so is SyncBN, which is the
    same on all ranks anyway. A norm that only some ranks have run in a step counts that step on all
    ranks.
    """

    def __init__(self, model: nn.Module):
        self._model = model

    def after_step(self) -> None:
        norms: list[Any] = [m for m in active_modules(self._model) if _has_statistics_of_its_own(m)]
        if not norms:
            return
        mean = torch.cat([norm.running_mean for norm in norms]).double()
        variance = torch.cat([norm.running_var for norm in norms]).double()
        steps = torch.stack([norm.num_batches_tracked for norm in norms]).double()
        moments = torch.cat([mean, variance + mean.square(), steps])
        dist.all_reduce(moments)
        moments /= dist.get_world_size()
        mean, squares, steps = moments.split([len(mean), len(mean), len(norms)])
        variance = (squares - mean.square()).clamp(min=0)  # it may be slightly negative by rounding
        channels = [norm.num_features for norm in norms]
        for norm, norm_mean, norm_variance, norm_steps in zip(
            norms, mean.split(channels), variance.split(channels), steps.ceil()
        ):
            norm.running_mean.copy_(norm_mean)
            norm.running_var.copy_(norm_variance)
            norm.num_batches_tracked.copy_(norm_steps)


def _has_statistics_of_its_own(module: nn.Module) -> bool:
    return (
        isinstance(module, nn.modules.batchnorm._BatchNorm)
        and not isinstance(module, nn.SyncBatchNorm)
        and module.training
        and module.running_mean is not None
    )


class PreciseBN(hooks.PreciseBN):
    """Detectron2's PreciseBN with the same images each time, so that a resumed run has them too.

    The statistics of each rank are from its own images; :class:`SharedStatistics`, which runs after
    it, combines them. The loss normalizer of a RetinaNet, which each forward pass updates, is
    restored to that of the training.
    """

    def update_stats(self) -> None:
        self._data_iter = None
        retinanets = [m for m in self._model.modules() if isinstance(m, RetinaNet)]
        normalizers = [retinanet.loss_normalizer for retinanet in retinanets]
        super().update_stats()
        for retinanet, normalizer in zip(retinanets, normalizers):
            retinanet.loss_normalizer = normalizer
