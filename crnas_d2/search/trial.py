"""What one architecture reached in the search."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from ..architecture import Code

FLOAT32 = np.dtype("<f4")


class Resampled(NamedTuple):
    """A metric in R resamples of the images, the same ones for all architectures.

    Attributes:
        metric: its name.
        content: (R,) float32 in percent, as bytes with the lowest first. NaN in a resample
            without objects.
    """

    metric: str
    content: bytes

    @classmethod
    def of(cls, metric: str, values: np.ndarray) -> Resampled:
        """
        Args:
            values: (R,), in percent.
        """
        return cls(metric, values.astype(FLOAT32).tobytes())

    @property
    def values(self) -> np.ndarray:
        """(R,) float32."""
        return np.frombuffer(self.content, FLOAT32)


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
        resampled: one of the metrics on other images of the same kind; None where it is not known.
    """

    code: Code
    status: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    images: int = 0
    reason: str = ""
    seconds: float = field(default=0.0, compare=False)
    resampled: Resampled | None = None
