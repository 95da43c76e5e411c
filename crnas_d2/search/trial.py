"""What one architecture reached in the search."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..architecture import Code


@dataclass(frozen=True)
class Trial:
    """The result of one architecture.

    Args:
        code: a path of the supernet or, in the greedy search, its first entries.
        status: "done"; "failed", which has a ``reason`` and no metrics and is never ranked; or
            "dropped" by the race, with the metrics on the images that it saw.
        metrics: in percent, by names such as "bbox/AP" and "segm/AP50".
        images: of archval that it was evaluated on.
        reason: why it failed.
        seconds: that it took.
    """

    code: Code
    status: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    images: int = 0
    reason: str = ""
    seconds: float = field(default=0.0, compare=False)
