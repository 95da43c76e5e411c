"""What the main process of a job decides for all."""

from __future__ import annotations

import functools
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import torch.distributed as dist

from detectron2.utils import comm

T = TypeVar("T")

PATIENCE = timedelta(days=7)  # longer than what one process does for all takes on any data set


def patient_group() -> dist.ProcessGroup | None:
    """All processes of the job, which wait longer for each other than torch's half an hour; None
    where there is one. Every process has to call it."""
    return _make_patient_group() if comm.get_world_size() > 1 else None


@functools.lru_cache
def _make_patient_group() -> dist.ProcessGroup:
    return dist.new_group(backend="gloo", timeout=PATIENCE)


def decided_by_main(decide: Callable[[], T]) -> T:
    """What the main process sees on the disk, as the others may see it later, such as on NFS.

    Every process has to call it. The others wait, however long that takes.

    Args:
        decide: is called on the main process alone. What it gives has to be picklable.
    """
    decision = decide() if comm.is_main_process() else None
    return comm.all_gather(decision, patient_group())[0]
