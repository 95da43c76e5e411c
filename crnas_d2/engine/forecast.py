"""An estimate of the remaining time of a job from its time so far."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

BACKWARD_COST = 3.0  # cost of a forward and backward pass, in forward passes


@dataclass(frozen=True)
class Work:
    """The work of a step, in images that pass through its network.

    Attributes:
        forward: number of images with only a forward pass, in a search.
        backward: number of images with a forward and a backward pass, in a training.
        pixels: approximate number of pixels of an image.
    """

    forward: float = 0
    backward: float = 0
    pixels: float = 1.0


class Forecast:
    """Estimates the remaining seconds of a step and of the whole job.

    The two kinds of passes are timed separately. A future step is expected to take as long for a
    pixel as the latest one so far. Until both kinds have been timed, a forward and backward pass
    counts as :data:`BACKWARD_COST` forward passes.

    Args:
        clock: returns the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        self._clock = clock
        # seconds for a pixel, by whether there is a backward pass
        self._rates: dict[bool, float] = {}
        self.begin(1.0)

    def begin(self, pixels: float, later: Sequence[Work] = ()) -> None:
        """Begin a step.

        Args:
            pixels: pixels of an image in this step.
            later: work of the steps after it.
        """
        self._pixels = pixels
        self._later = later
        self._left = {False: 0.0, True: 0.0}  # number of images
        # seconds, and number of images that passed in them
        self._timed = {False: (0.0, 0), True: (0.0, 0)}
        self._last: float | None = None

    def expect(self, images: float, backward: bool) -> None:
        """Set the remaining work of the step.

        Args:
            images: number of images that have still to pass.
            backward: whether they have a backward pass.
        """
        self._left[backward] = images

    def passed(self, images: int, backward: bool) -> None:
        """Time images that have passed, except the first ones of a step, which include its start."""
        now = self._clock()
        if self._last is not None:
            seconds, timed = self._timed[backward]
            self._timed[backward] = seconds, timed = seconds + now - self._last, timed + images
            self._rates[backward] = seconds / timed / self._pixels
        self._last = now
        self._left[backward] = max(0.0, self._left[backward] - images)

    def images_per_second(self, backward: bool) -> float | None:
        """Get the throughput of this step. None before two mini-batches have passed."""
        seconds, images = self._timed[backward]
        return images / seconds if seconds else None

    def step_left(self) -> float | None:
        """Get the remaining seconds of this step. None before anything is known."""
        return self._expected([self._now])

    def all_left(self) -> float | None:
        """Get the remaining seconds of this step and all later ones. None before anything is known."""
        return self._expected([self._now, *self._later])

    @property
    def _now(self) -> Work:
        """The remaining work of this step."""
        return Work(self._left[False], self._left[True], self._pixels)

    def _expected(self, works: Sequence[Work]) -> float | None:
        rates = self._rates
        if not rates:
            return None
        forward = rates[False] if False in rates else rates[True] / BACKWARD_COST
        backward = rates[True] if True in rates else rates[False] * BACKWARD_COST
        return sum((w.forward * forward + w.backward * backward) * w.pixels for w in works)
