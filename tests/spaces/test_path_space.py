"""What holds for the paths of any space: membership, and uniform sampling from a stable stream."""

from collections import Counter
from itertools import permutations, product
from random import Random

import numpy as np
import pytest

from crnas_d2 import ARCHITECTURES
from crnas_d2.spaces import get_operation_space, get_stage_space

SPACES = {
    "stages of ResNet": get_stage_space("resnet"),
    "stages of MobileNetV2": get_stage_space("mobilenetv2"),
    "operations of ResNet50": get_operation_space(ARCHITECTURES["SCR-ResNet50"]),
    "operations of MobileNetV2": get_operation_space(ARCHITECTURES["SCR-MobileNetV2"]),
    "own stages": get_stage_space("resnet", [[1, 2], [3], [1, 2, 4], [2, 3]]),
}
# What a draw of chi-square exceeds with probability 1e-4, by degrees of freedom.
CHI_SQUARE = {1: 15.14, 2: 18.42, 4: 23.51, 5: 25.74, 8: 31.83, 9: 33.72, 23: 57.07}
CHI_SQUARE |= {24: 58.61, 35: 74.93, 99: 160.06}
DRAWS = 9000


def chi_square(draws, cells):
    counts = Counter(draws)
    assert set(counts) <= set(cells)
    expected = len(draws) / len(cells)
    return sum((counts[cell] - expected) ** 2 for cell in cells) / expected


@pytest.fixture(scope="module", params=SPACES)
def space_and_draws(request):
    space, rng = SPACES[request.param], Random(request.param)
    return space, [space.sample(rng) for _ in range(DRAWS)]


def test_samples_are_paths(space_and_draws):
    space, draws = space_and_draws
    assert all(type(path) is tuple and path in space for path in draws)


def test_every_unit_is_sampled_uniformly(space_and_draws):
    space, draws = space_and_draws
    for unit in space.units:
        statistic = chi_square([path[unit.index] for path in draws], unit.choices)
        assert statistic < CHI_SQUARE[len(unit.choices) - 1], unit


@pytest.mark.parametrize("name", ["stages of ResNet", "stages of MobileNetV2"])
def test_neighboring_units_are_independent(name):
    space, rng = SPACES[name], Random(name)
    draws = [space.sample(rng) for _ in range(DRAWS)]
    for a, b in zip(space.units, space.units[1:]):
        cells = [(x, y) for x in a.choices for y in b.choices]
        statistic = chi_square([(path[a.index], path[b.index]) for path in draws], cells)
        assert statistic < CHI_SQUARE[len(cells) - 1], (a, b)


def test_all_paths_of_a_small_space_are_sampled_alike():
    space, rng = get_stage_space("resnet", [[1, 2, 4], [3], [1, 2, 3], [2]]), Random(0)
    statistic = chi_square([space.sample(rng) for _ in range(DRAWS)], list(space))
    assert statistic < CHI_SQUARE[space.size - 1]


def test_chi_square_finds_a_skewed_sampler():
    """Paths drawn from the eligible codes alone are not uniform per unit."""
    space, rng = SPACES["stages of ResNet"], Random(0)
    eligible = space.eligible(33)
    draws = [rng.choice(eligible) for _ in range(DRAWS)]
    for unit in space.units:
        assert chi_square([path[unit.index] for path in draws], unit.choices) > CHI_SQUARE[9]


@pytest.mark.parametrize(
    "name, paths",
    [
        ("stages of ResNet", [(9, 8, 9, 4), (6, 5, 17, 6), (5, 6, 23, 9)]),
        ("stages of MobileNetV2", [(1, 1, 5, 4, 5, 3, 4, 1, 1, 1), (1, 1, 3, 4, 4, 4, 4, 1, 1, 1)]),
        ("operations of ResNet50", [(2, 2, 1, 0, 1, 1, 2, 0, 1, 1, 2, 1, 0, 2, 1, 0)]),
    ],
)
def test_a_seed_gives_these_paths_everywhere(name, paths):
    rng = Random(0)
    assert [SPACES[name].sample(rng) for _ in paths] == paths


def test_a_sample_takes_one_number_for_each_unit():
    for space in SPACES.values():
        rng, other = Random(7), Random(7)
        path = space.sample(rng)
        numbers = [other.random() for _ in space.units]
        assert rng.getstate() == other.getstate()
        for unit, number in zip(space.units, numbers):
            rank = unit.choices.index(path[unit.index])
            assert rank <= number * len(unit.choices) < rank + 1


def test_the_largest_random_number_gives_the_last_choice():
    class AlmostOne(Random):
        def random(self):
            return 1 - 2**-53

    for space in SPACES.values():
        assert space.sample(AlmostOne()) == tuple(choices[-1] for choices in space.choices)


def cycles_of(space, iterations, seed=0):
    return [space.sample_in_cycles(seed, iteration) for iteration in range(iterations)]


@pytest.mark.parametrize("name", SPACES)
def test_a_cycle_has_every_choice_once(name):
    """Whatever the numbers of choices of the other units."""
    space = SPACES[name]
    paths = cycles_of(space, 600)
    assert all(type(path) is tuple and path in space for path in paths)
    for index, choices in enumerate(space.choices):
        drawn, k = [path[index] for path in paths], len(choices)
        for start in range(0, len(drawn) // k * k, k):
            assert sorted(drawn[start : start + k]) == list(choices)


def test_the_orders_of_a_cycle_are_uniform():
    """All 3! and 4! of them, whatever that of the cycle before and of the other units."""
    space = get_stage_space("resnet", [[1, 2, 4], [3], [1, 2, 3, 5], [2, 4, 6]])
    paths = cycles_of(space, 6000)
    by_unit = {
        unit.index: [
            tuple(path[unit.index] for path in paths[start : start + len(unit.choices)])
            for start in range(0, len(paths), len(unit.choices))
        ]
        for unit in space.units
    }
    for unit in space.units:
        orders = list(permutations(unit.choices))
        assert chi_square(by_unit[unit.index], orders) < CHI_SQUARE[len(orders) - 1]
    orders = list(permutations(range(3)))
    ranks = {i: [tuple(map(sorted(o).index, o)) for o in by_unit[i]] for i in (0, 3)}
    cells = list(product(orders, orders))
    assert chi_square(list(zip(ranks[0], ranks[3])), cells) < CHI_SQUARE[35]
    assert chi_square(list(zip(ranks[0][::2], ranks[0][1::2])), cells) < CHI_SQUARE[35]


def test_paths_in_cycles_are_uniform_over_the_space():
    space = get_stage_space("resnet", [[1, 2, 5], [1, 3], [2, 4], [1, 2, 3]])
    draws = [space.sample_in_cycles(seed, 7) for seed in range(DRAWS)]
    assert chi_square(draws, list(space)) < CHI_SQUARE[35]


def test_a_seed_gives_these_cycles_everywhere():
    space = get_stage_space("resnet", [[1, 2, 3], [1, 2, 3, 4], [2, 3], [5]])
    paths = [(3, 4, 2, 5), (2, 1, 3, 5), (1, 2, 2, 5), (1, 3, 3, 5), (3, 4, 3, 5), (2, 2, 2, 5)]
    assert cycles_of(space, 6) == paths
    assert cycles_of(space, 6) != cycles_of(space, 6, seed=1)


@pytest.mark.parametrize(
    "path, member",
    [
        ((1, 3, 5, 7), True),
        ([1, 3, 5, 7], True),
        (tuple(np.array([1, 3, 5, 7])), True),
        ((1, 3, 5), False),
        ((1, 3, 5, 7, 1), False),
        ((0, 3, 5, 7), False),
        ((11, 3, 5, 7), False),
        ((1, 3, 5, 5), False),
        ((), False),
        ("1357", False),
        (("1", "3", "5", "7"), False),
        (16, False),
        (None, False),
    ],
)
def test_membership(path, member):
    assert (path in SPACES["stages of ResNet"]) is member
