"""How long a job will take from here, by what it has taken so far."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

BACKWARD_COST = 3.0  # of a pass forward and backward, in passes forward


@dataclass(frozen=True)
class Work:
    """What a step has to do, in images that pass through its network.

    Attributes:
        forward: how many pass forward alone, in a search.
        backward: how many pass forward and backward, in a training.
        pixels: of one image, about.
    """

    forward: float = 0
    backward: float = 0
    pixels: float = 1.0


class Forecast:
    """Seconds that are left of a step and of the whole job.

    The two kinds of passes are timed apart. A step that has not run is expected to take as long
    for a pixel as the newest one that has. As long as one kind is not known, a pass forward and
    backward counts as :data:`BACKWARD_COST` passes forward.

    Args:
        clock: gives the time, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        self._clock = clock
        self._rates: dict[bool, float] = {}  # seconds for a pixel, by whether it goes backward too
        self.begin(1.0)

    def begin(self, pixels: float, later: Sequence[Work] = ()) -> None:
        """
        Args:
            pixels: of an image of the step that begins.
            later: what the steps after it have to do.
        """
        self._pixels = pixels
        self._later = later
        self._left = {False: 0.0, True: 0.0}  # images
        self._timed = {False: (0.0, 0), True: (0.0, 0)}  # seconds, and images that passed in them
        self._last: float | None = None

    def expect(self, images: float, backward: bool) -> None:
        """
        Args:
            images: that have still to pass in this step, in this direction.
        """
        self._left[backward] = images

    def passed(self, images: int, backward: bool) -> None:
        """Time them. The first ones of a step are not, as they have waited for its start."""
        now = self._clock()
        if self._last is not None:
            seconds, timed = self._timed[backward]
            self._timed[backward] = seconds, timed = seconds + now - self._last, timed + images
            self._rates[backward] = seconds / timed / self._pixels
        self._last = now
        self._left[backward] = max(0.0, self._left[backward] - images)

    def images_per_second(self, backward: bool) -> float | None:
        """Of this step; None before two mini-batches have passed."""
        seconds, images = self._timed[backward]
        return images / seconds if seconds else None

    def step_left(self) -> float | None:
        """Seconds; None before anything is known."""
        return self._expected([self._now])

    def all_left(self) -> float | None:
        """Seconds of this step and of all that come after it; None before anything is known."""
        return self._expected([self._now, *self._later])

    @property
    def _now(self) -> Work:
        """What is left of this step."""
        return Work(self._left[False], self._left[True], self._pixels)

    def _expected(self, works: Sequence[Work]) -> float | None:
        if not self._rates:
            return None
        forward, backward = self._rates.get(False), self._rates.get(True)
        if forward is None:
            forward = backward / BACKWARD_COST
        if backward is None:
            backward = forward * BACKWARD_COST
        return sum((w.forward * forward + w.backward * backward) * w.pixels for w in works)
