"""Detectron2's two training steps, with a single exchange of numbers between the ranks."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch

from detectron2.engine import AMPTrainer, SimpleTrainer, TrainerBase
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage

from .hooks import find_supernet
from .step_message import StepMessage


class DivergedError(FloatingPointError):
    """A loss is not finite, and all ranks know it."""


class _TellsItsLosses(TrainerBase):
    """Mixin that exchanges the losses of all ranks in one message.

    Detectron2 gathers losses as pickles, and raises an error for one that is not finite on the main
    process only, for which the others would wait. It also does not know the paths of a supernet.

    Attributes:
        message: message of each step, between its backward pass and the optimizer's step.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.message = StepMessage()

    def run_step(self) -> None:
        """Run a training step.

        Raises:
            DivergedError: a loss of any rank is Inf or NaN. The parameters are those of the
                previous iteration.
            FloatingPointError: the same for a prediction, which possibly only this rank knows.
        """
        try:
            super().run_step()
        except FloatingPointError as error:
            supernet = find_supernet(self.model)
            path = f", path {list(supernet.path)}" if supernet and supernet.path else ""
            raise type(error)(f"diverged at iteration {self.iter}{path}: {error}") from error

    def _write_metrics(
        self, loss_dict: Mapping[str, torch.Tensor], data_time: float, *_, **__
    ) -> None:
        values = torch.stack([loss.detach().double() for loss in loss_dict.values()])
        own = dict(zip(loss_dict, values.tolist()))
        self.message.exchange({"data_time": data_time, **own}, values.device)
        of_ranks = [{name: told[name] for name in own} for told in self.message.of_ranks]
        for rank, losses in enumerate(of_ranks):
            if not all(map(math.isfinite, losses.values())):
                raise DivergedError(f"losses of rank {rank} are {losses}")
        storage = get_event_storage()
        storage.put_scalar("rank_data_time", data_time)
        if comm.is_main_process():
            slowest = max(told["data_time"] for told in self.message.of_ranks)
            means = {name: np.mean([losses[name] for losses in of_ranks]) for name in own}
            storage.put_scalars(data_time=slowest, total_loss=sum(means.values()))
            if len(means) > 1:
                storage.put_scalars(**means)


class Step(_TellsItsLosses, SimpleTrainer):
    """A :class:`SimpleTrainer` in which each rank knows the losses of all."""


class AMPStep(_TellsItsLosses, AMPTrainer):
    """An :class:`AMPTrainer` in which each rank knows the losses of all."""
