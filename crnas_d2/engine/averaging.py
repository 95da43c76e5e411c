"""An exponential moving average of the weights, to be tested and saved instead of the last ones."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from detectron2.engine import HookBase

Tensors = list[torch.Tensor] | tuple[torch.Tensor, ...]


class WeightAveraging(HookBase):
    """Keeps an exponential moving average of a model in training. After step n + 1 it is

        average = d * average + (1 - d) * model, with d = min(decay, (1 + n) / (10 + n)),

    and after the first one it is the model itself. The smaller d in the first steps, as in
    TensorFlow's ``ExponentialMovingAverage``, keeps the initial weights, which may be random, out
    of the average of a short training.

    The statistics of norms are averaged in the same way, as they belong to the weights of the same
    steps. Counters are copied. In a supernet, every step counts for all parameters, including those
    off its path, which have not changed. So the average of each path is over the same steps and
    learning rates, however often it was trained.

    The average is the same on all ranks, as the model is.

    Attributes:
        network: the network with the averaged weights.
    """

    def __init__(self, model: nn.Module, decay: float):
        """
        Args:
            model: the model, not wrapped for distributed training.
            decay: decay from 0 to below 1.
        """
        self._model = model
        self._decay = decay
        self._average = AveragedModel(model, multi_avg_fn=self._update, use_buffers=True)

    @property
    def network(self) -> nn.Module:
        return self._average.module

    def after_step(self) -> None:
        self._average.update_parameters(self._model)

    def _update(self, averages: Tensors, tensors: Tensors, steps: torch.Tensor | int) -> None:
        """Update tensors of the same type."""
        if averages[0].is_floating_point():
            decay = min(self._decay, (1 + int(steps)) / (10 + int(steps)))
            get_ema_multi_avg_fn(decay)(averages, tensors, steps)
        else:
            for average, tensor in zip(averages, tensors):
                average.copy_(tensor)

    def state_dict(self) -> dict[str, int]:
        return {"steps": int(self._average.n_averaged)}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self._average.n_averaged.fill_(state_dict["steps"])
