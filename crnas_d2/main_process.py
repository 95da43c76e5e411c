"""What the main process of a job decides for all."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from detectron2.utils import comm

T = TypeVar("T")


def decided_by_main(decide: Callable[[], T]) -> T:
    """What the main process sees on the disk, as the others may see it later, such as on NFS.

    Every process has to call it.

    Args:
        decide: is called on the main process alone. What it gives has to be picklable.
    """
    return comm.all_gather(decide() if comm.is_main_process() else None)[0]
