"""AP against cost: the Pareto front against a brute force, intervals against scipy."""

import random

import numpy as np
import pytest
from scipy import stats

from crnas_d2.architecture import Architecture
from crnas_d2.procedure.outcome import TrainedNetwork
from crnas_d2.report.pareto import CostedNetwork, draw_pareto, pareto_front, seeds_half_width


def is_beaten(network, others):
    return any(
        other.cost <= network.cost
        and other.ap >= network.ap
        and (other.cost < network.cost or other.ap > network.ap)
        for other in others
    )


@pytest.mark.parametrize("levels", [3, 1000])
def test_front_by_brute_force(levels):
    """With many equal costs and APs, and with hardly any."""
    rng = random.Random(0)
    for count in range(1, 12):
        for _ in range(30):
            networks = [
                CostedNetwork(str(i), "found", rng.randint(1, levels), rng.randint(1, levels), None)
                for i in range(count)
            ]
            front = pareto_front(networks)
            assert set(front) == {n for n in networks if not is_beaten(n, networks)}
            assert [n.cost for n in front] == sorted(n.cost for n in front)


def test_interval_is_that_of_students_t():
    aps = (70.1, 71.4, 69.8, 70.9, 70.0)
    network = TrainedNetwork(
        Architecture((1, 1, 1, 1)), None, None, (1, 2, 3, 4, 5), ("",) * 5, aps
    )
    low, high = stats.t.interval(0.95, 4, np.mean(aps), stats.sem(aps))
    assert seeds_half_width(network) == pytest.approx((high - low) / 2)
    assert (
        seeds_half_width(TrainedNetwork(network.architecture, None, None, (1,), ("",), (70,)))
        is None
    )


@pytest.mark.parametrize("narrow", [False, True])
def test_figure(narrow):
    """All networks where they belong, and a line along the front."""
    networks = [
        CostedNetwork("6", "baseline", 6.0, 60.0, 1.0),
        CostedNetwork("6", "found", 6.0, 61.0, 0.5),
        CostedNetwork("8", "baseline", 8.0, 60.5, None),
        CostedNetwork("8", "found", 7.9, 63.0, 2.0),
    ]
    (axes,) = draw_pareto(networks, "GMACs", "bbox/AP", narrow).axes
    points = {tuple(point) for line in axes.lines for point in line.get_xydata()}
    assert {(n.cost, n.ap) for n in networks} <= points
    assert [(6.0, 61.0), (7.9, 63.0)] in [list(map(tuple, l.get_xydata())) for l in axes.lines]
    assert sorted(text.get_text() for text in axes.texts) == ["6", "6", "8", "8"]
    assert axes.get_xlabel() == "GMACs"
    bars = [segment for bars in axes.collections for segment in bars.get_segments()]
    assert sorted((b[1][1] - b[0][1]) / 2 for b in bars) == pytest.approx([0.5, 1.0, 2.0])


def test_bars_that_are_longer_than_an_ap_can_be_do_not_shrink_the_figure():
    networks = [
        CostedNetwork("6", "baseline", 6.0, 30.0, 68.0),
        CostedNetwork("6", "found", 6.0, 90.0, None),
    ]
    (axes,) = draw_pareto(networks, "GMACs", "bbox/AP").axes
    assert axes.get_ylim() == (-5, 105)
