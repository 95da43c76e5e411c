"""The result of one architecture in the search."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from ..architecture import Code

FLOAT32 = np.dtype("<f4")


class Resampled(NamedTuple):
    """A metric on R resamples of the images, which are the same for all architectures.

    Attributes:
        metric: name of the metric.
        content: float32 values of shape (R,) in percent, as little-endian bytes. NaN for a resample
            without objects.
    """

    metric: str
    content: bytes

    @classmethod
    def of(cls, metric: str, values: np.ndarray) -> Resampled:
        """Encode the values of a metric.

        Args:
            metric: name of the metric.
            values: values of shape (R,), in percent.
        """
        return cls(metric, values.astype(FLOAT32).tobytes())

    @property
    def values(self) -> np.ndarray:
        """The values as float32 of shape (R,)."""
        return np.frombuffer(self.content, FLOAT32)


@dataclass(frozen=True)
class Trial:
    """The result of one architecture.

    Args:
        code: a path of the supernet or, in the greedy search, a prefix of one.
        status: "done"; "failed", which has a ``reason`` and no metrics and is never ranked; or
            "dropped" in successive halving, with the metrics on the images that it was evaluated on.
        metrics: metrics in percent by names such as "bbox/AP" and "segm/AP50".
        images: number of images of archval that it was evaluated on.
        reason: why it failed.
        seconds: duration of the evaluation.
        resampled: one of the metrics on resampled images. None if it is unknown.
    """

    code: Code
    status: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    images: int = 0
    reason: str = ""
    seconds: float = field(default=0.0, compare=False)
    resampled: Resampled | None = None
