"""Times that are left, of a job whose passes take known times."""

import pytest

from crnas_d2.engine.forecast import Forecast, Work


class Clock:
    """Time that passes when told to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def run(forecast, clock, images, seconds, backward, count=3):
    """Mini-batches that take equal times."""
    for _ in range(count):
        clock.now += seconds
        forecast.passed(images, backward)


def test_a_training(clock):
    """Whatever comes before its first mini-batch has ended is not its time."""
    forecast = Forecast(clock)
    forecast.begin(pixels=100.0)
    assert forecast.step_left() is forecast.images_per_second(True) is None
    clock.now += 1000
    run(forecast, clock, images=4, seconds=2.0, backward=True)
    forecast.expect(40, backward=True)
    assert forecast.images_per_second(True) == pytest.approx(2.0)
    assert forecast.step_left() == forecast.all_left() == pytest.approx(20.0)
    run(forecast, clock, images=4, seconds=2.0, backward=True, count=1)
    assert forecast.step_left() == pytest.approx(18.0)


def test_the_two_kinds_of_passes_are_timed_apart(clock):
    forecast = Forecast(clock)
    forecast.begin(pixels=100.0, later=[Work(forward=10, pixels=50.0), Work(backward=7)])
    run(forecast, clock, images=1, seconds=2.0, backward=True)
    run(forecast, clock, images=1, seconds=0.5, backward=False)
    forecast.expect(8, backward=True)
    forecast.expect(6, backward=False)
    assert forecast.step_left() == pytest.approx(8 * 2.0 + 6 * 0.5)
    # Of half and of a hundredth of the pixels.
    assert forecast.all_left() == pytest.approx(8 * 2.0 + 6 * 0.5 + 10 * 0.25 + 7 * 0.02)


@pytest.mark.parametrize("backward, later", [(True, 1.0), (False, 9.0)])
def test_a_kind_that_no_step_has_run(clock, backward, later):
    """Forward and backward take three times forward."""
    forecast = Forecast(clock)
    other = Work(forward=1, pixels=10.0) if backward else Work(backward=1, pixels=10.0)
    forecast.begin(pixels=10.0, later=[other])
    run(forecast, clock, images=1, seconds=3.0, backward=backward)
    assert forecast.all_left() == pytest.approx(later)


def test_the_newest_step_tells_of_those_to_come(clock):
    forecast = Forecast(clock)
    forecast.begin(pixels=1.0)
    run(forecast, clock, images=1, seconds=5.0, backward=True)
    forecast.begin(pixels=1.0, later=[Work(backward=10)])
    assert forecast.all_left() == pytest.approx(50.0)
    assert forecast.images_per_second(True) is None
    run(forecast, clock, images=1, seconds=1.0, backward=True)
    assert forecast.all_left() == pytest.approx(10.0)
