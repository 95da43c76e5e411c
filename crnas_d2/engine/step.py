"""Detectron2's two training steps, which also stop a diverged run on every rank."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from detectron2.engine import AMPTrainer, SimpleTrainer
from detectron2.utils import comm

from .hooks import find_supernet


class _StopsWhenDiverged:
    """Detectron2 tells a loss that is not finite on the main rank alone, where the others would
    wait for it; and it does not know of paths."""

    def run_step(self) -> None:
        """
        Raises:
            FloatingPointError: a loss of any rank, or a prediction, is Inf or NaN. The parameters
                are those of the iteration before.
        """
        try:
            super().run_step()
        except FloatingPointError as error:
            supernet = find_supernet(self.model)
            path = f", path {list(supernet.path)}" if supernet else ""
            raise FloatingPointError(f"diverged at iteration {self.iter}{path}: {error}") from error

    def _write_metrics(self, loss_dict: Mapping[str, torch.Tensor], *args, **kwargs) -> None:
        own = {name: loss.item() for name, loss in loss_dict.items()}
        for rank, losses in enumerate(comm.all_gather(own)):
            if not all(map(math.isfinite, losses.values())):
                raise FloatingPointError(f"losses of rank {rank} are {losses}")
        super()._write_metrics(loss_dict, *args, **kwargs)


class Step(_StopsWhenDiverged, SimpleTrainer):
    """:class:`SimpleTrainer` that stops a diverged run."""


class AMPStep(_StopsWhenDiverged, AMPTrainer):
    """:class:`AMPTrainer` that stops a diverged run."""
