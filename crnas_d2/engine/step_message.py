"""What the ranks tell each other in a training step."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.distributed as dist

from detectron2.utils import comm


class StepMessage:
    """The numbers that each rank tells all others in a training step, in one collective.

    Attributes:
        of_ranks: what each rank has told last, by name.
    """

    def __init__(self):
        self._sources: dict[str, Callable[[], float]] = {}
        self.of_ranks: list[dict[str, float]] = []

    def add(self, name: str, source: Callable[[], float]) -> None:
        """Let every message have a number, which is asked for when it is sent."""
        self._sources[name] = source

    def exchange(self, numbers: Mapping[str, float], device: torch.device | str = "cpu") -> None:
        """
        Args:
            numbers: of this rank, in addition; with the same names on all ranks.
            device: on which the ranks can tell them.
        """
        own = {**{name: source() for name, source in self._sources.items()}, **numbers}
        rows = [list(own.values())]
        if comm.get_world_size() > 1:
            row = torch.tensor(rows[0], dtype=torch.float64, device=device)
            told = [torch.empty_like(row) for _ in range(comm.get_world_size())]
            dist.all_gather(told, row)
            rows = torch.stack(told).tolist()
        self.of_ranks = [dict(zip(own, row)) for row in rows]
