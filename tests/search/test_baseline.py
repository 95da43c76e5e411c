"""The stage code that stands for the baseline under another budget."""

from itertools import product

import pytest

from crnas_d2.search.baseline import scaled_code
from crnas_d2.spaces import get_stage_space

RESNET = get_stage_space("resnet")


def test_a_code_that_fits_is_its_own():
    assert scaled_code((1, 3, 5, 7), RESNET.eligible(16)) == (1, 3, 5, 7)


@pytest.mark.parametrize(
    "code, budget, expected",
    [
        ((3, 4, 6, 3), 33, (3, 4, 23, 3)),  # ResNet50 and ResNet101
        ((3, 4, 23, 3), 16, (3, 4, 6, 3)),
        ((2, 2, 2, 2), 16, (3, 4, 6, 3)),
        ((3, 4, 6, 3), 8, (2, 2, 2, 2)),
    ],
)
def test_published_networks_become_published_ones(code, budget, expected):
    assert scaled_code(code, RESNET.eligible(budget)) == expected


@pytest.mark.parametrize("code, budget", [((1, 3, 5, 7), 33), ((3, 4, 6, 3), 20)])
def test_else_the_nearest_distribution(code, budget):
    """Of a code that is not a published plain network, and under a budget that has none."""
    eligible = RESNET.eligible(budget)
    brute_force = sorted(
        (sum(abs(n * budget - m * sum(code)) for n, m in zip(code, other)), other)
        for other in product(*RESNET.choices)
        if sum(other) == budget
    )
    assert scaled_code(code, eligible) == brute_force[0][1]
