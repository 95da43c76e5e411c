"""Decisions that the main process of a job makes for all of its processes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar, cast

import torch.distributed as dist

from detectron2.utils import comm

T = TypeVar("T")

PATIENCE = timedelta(days=7)  # longer than any work that one process does for all of them


def patient_group() -> dist.ProcessGroup | None:
    """Get a process group of all ranks with a longer timeout than torch's half an hour.

    It is None if the job has a single process. Every rank has to call this function.
    """
    return _make_patient_group() if comm.get_world_size() > 1 else None


@functools.lru_cache
def _make_patient_group() -> dist.ProcessGroup:
    return cast("dist.ProcessGroup", dist.new_group(backend="gloo", timeout=PATIENCE))


def decided_by_main(decide: Callable[[], T]) -> T:
    """Compute a value on the main process and broadcast it to all ranks.

    This is for what depends on the disk, which other ranks may see later, as on NFS. Every rank has
    to call this function. The others wait for the main process up to :data:`PATIENCE`.

    Args:
        decide: computes the value. It is called on the main process alone, and its result has to be
            picklable.
    """
    decision = decide() if comm.is_main_process() else None
    return comm.all_gather(decision, patient_group())[0]
