"""The message that the ranks exchange in a training step."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.distributed as dist

from detectron2.utils import comm


class StepMessage:
    """Exchanges some numbers of each rank with all others, in one collective per training step.

    Attributes:
        of_ranks: the latest numbers of each rank, by name.
    """

    def __init__(self):
        self._sources: dict[str, Callable[[], float]] = {}
        self.of_ranks: list[dict[str, float]] = []

    def add(self, name: str, source: Callable[[], float]) -> None:
        """Add a number to every message, whose value is queried when it is sent."""
        self._sources[name] = source

    def exchange(self, numbers: Mapping[str, float], device: torch.device | str = "cpu") -> None:
        """Exchange the numbers of all ranks.

        Args:
            numbers: additional numbers of this rank, which have the same names on all ranks.
            device: device on which the ranks can communicate.
        """
        own = {**{name: source() for name, source in self._sources.items()}, **numbers}
        rows = [list(own.values())]
        if comm.get_world_size() > 1:
            row = torch.tensor(rows[0], dtype=torch.float64, device=device)
            told = [torch.empty_like(row) for _ in range(comm.get_world_size())]
            dist.all_gather(told, row)
            rows = torch.stack(told).tolist()
        self.of_ranks = [dict(zip(own, row)) for row in rows]
