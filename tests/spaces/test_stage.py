"""The stage space against the paper's choice sets, enumerated here, and budgets in three units."""

import copy
import pickle
import random
import subprocess
import sys
from decimal import Decimal
from fractions import Fraction
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hanging import HANGS_S
from paper_spaces import M, T

import crnas_d2
from crnas_d2 import ARCHITECTURES
from crnas_d2.spaces import ChoiceUnit, StageSpace, get_stage_space

CHOICES = {"resnet": T, "mobilenetv2": [[1], [1], *M, [1], [1], [1]]}

# Multiply-adds at 800x1088 of MobileNetV2's blocks after the first one of a stage, from their
# shapes: 1x1 to 6 times the channels, 3x3 depthwise, 1x1 back.
CHANNELS_AND_PIXELS = [(24, 54400), (32, 13600), (64, 3400), (96, 3400), (160, 850)]
LATER_BLOCK = [(12 * c * c + 54 * c) * pixels for c, pixels in CHANNELS_AND_PIXELS]
MOBILENETV2_MACS = 5_195_000_000


def mobilenetv2_macs(stage_code):
    baseline = ARCHITECTURES["MobileNetV2"].stage_code[2:7]
    extra = [n - n0 for n, n0 in zip(stage_code[2:7], baseline, strict=True)]
    return MOBILENETV2_MACS + sum(n * macs for n, macs in zip(extra, LATER_BLOCK, strict=True))


@pytest.mark.parametrize("family, size", [("resnet", 10_000), ("mobilenetv2", 3_125)])
def test_space_of_the_paper(family, size):
    space = get_stage_space(family)
    assert space.size == size
    assert list(space) == list(product(*CHOICES[family])) == sorted(set(space))
    assert space.units == tuple(
        ChoiceUnit(index, tuple(choices))
        for index, choices in enumerate(CHOICES[family])
        if len(choices) > 1
    )


@pytest.mark.parametrize("blocks, number", [(8, 9), (16, 153), (33, 374)])
def test_eligible_codes_of_the_resnet_series(blocks, number):
    eligible = get_stage_space("resnet").eligible(blocks)
    assert len(eligible) == number
    assert eligible == [code for code in product(*T) if sum(code) == blocks]


@pytest.mark.parametrize("tolerance, number", [(0, 43), (0.5, 212)])
def test_eligible_codes_of_mobilenetv2(tolerance, number):
    eligible = get_stage_space("mobilenetv2").eligible(16, tolerance)
    assert len(eligible) == number
    quarters = np.array([6, 4, 4, 3, 5])  # 4 times [1.5, 1, 1, 0.75, 1.25]
    assert eligible == [
        (1, 1, *m, 1, 1, 1) for m in product(*M) if abs(quarters @ m - 64) <= 4 * tolerance
    ]


@pytest.mark.parametrize(
    "network, family, budget",
    [
        ("ResNet18", "resnet", 8),
        ("ResNet50", "resnet", 16),
        ("ResNet101", "resnet", 33),
        ("ResNeXt50", "resnet", 16),
        ("MobileNetV2", "mobilenetv2", 16),
    ],
)
def test_published_codes_are_eligible(network, family, budget):
    eligible = get_stage_space(family).eligible(budget)
    assert ARCHITECTURES[network].stage_code in eligible
    assert ARCHITECTURES[f"SCR-{network}"].stage_code in eligible


def test_published_code_of_resnext101_is_not_in_the_published_space():
    space = get_stage_space("resnet")
    code = ARCHITECTURES["SCR-ResNeXt101"].stage_code
    assert code == (3, 4, 15, 11) and code not in space
    assert space.cost(code) == 33
    # The one stage that is at fault can be widened by the config.
    wider = get_stage_space("resnet", [T[0], T[1], sorted([*T[2], 15]), T[3]])
    assert code in wider.eligible(33) and wider.size == 11_000


def test_cost():
    assert get_stage_space("resnet").cost((3, 4, 23, 3)) == 33
    space = get_stage_space("mobilenetv2")
    assert space.cost(ARCHITECTURES["MobileNetV2"].stage_code) == 16
    assert space.cost((1, 1, 1, 1, 3, 2, 3, 1, 1, 1)) == Fraction("10.75")


def test_block_budget_of_mobilenetv2():
    space = get_stage_space("mobilenetv2")
    assert space.eligible(20, cost=sum) == [code for code in space if sum(code) == 20]
    assert ARCHITECTURES["SCR-MobileNetV2"].stage_code in space.eligible(20, cost=sum)


@pytest.mark.parametrize("percent", [0, 1, 5, 6])
def test_multiply_add_budget_within_a_relative_tolerance(percent):
    space = get_stage_space("mobilenetv2")
    tolerance = percent / 100 * MOBILENETV2_MACS
    eligible = space.eligible(MOBILENETV2_MACS, tolerance, cost=mobilenetv2_macs)
    expected = [
        code
        for code in product(*CHOICES["mobilenetv2"])
        if 100 * abs(mobilenetv2_macs(code) - MOBILENETV2_MACS) <= percent * MOBILENETV2_MACS
    ]
    assert eligible == expected
    assert (1, 1, 2, 3, 4, 3, 3, 1, 1, 1) in eligible
    # The published reallocation has the same weighted cost and 5.6 % more multiply-adds.
    assert ((1, 1, 2, 2, 3, 4, 4, 1, 1, 1) in eligible) == (percent == 6)


def test_multiply_add_budget_of_resnet_is_its_block_budget():
    first = [4_011_000_000, 6_462_000_000, 6_462_000_000, 6_462_000_000]  # of each stage

    def macs(code):
        return sum(first) + 3_788_000_000 * (sum(code) - 4)

    space = get_stage_space("resnet")
    assert space.eligible(macs((3, 4, 6, 3)), cost=macs) == space.eligible(16)


def test_no_code_fits_an_impossible_budget():
    space = get_stage_space("resnet")
    for budget in (-1, 5, 16.5, 61):
        assert space.eligible(budget) == []
    assert space.eligible(6) == [(1, 1, 2, 2)] and space.eligible(60) == [(10, 10, 23, 17)]


@pytest.mark.parametrize("number", [float, np.float64, np.float32, Fraction])
def test_decimals_are_exact(number):
    # In binary floating point 3 * 0.1 is above 0.3, and 0.1 as np.float32 is above 0.1.
    weights = [number("0.1") if number is Fraction else number(0.1)] * 4
    budget = number("0.7") if number is Fraction else number(0.7)
    choices = [[1, 2, 3]] * 4
    space = get_stage_space("resnet", choices, weights)
    assert space.eligible(budget) == [code for code in product(*choices) if sum(code) == 7]
    assert space.eligible(budget, weights[0]) == [
        code for code in product(*choices) if 6 <= sum(code) <= 8
    ]


def test_own_choices_and_weights():
    space = get_stage_space("resnet", [[1, 2], range(1, 4), [3], [1, 4]], [2, 1, 1, 0.5])
    assert list(space) == list(product([1, 2], [1, 2, 3], [3], [1, 4]))
    assert space.units == (
        ChoiceUnit(0, (1, 2)),
        ChoiceUnit(1, (1, 2, 3)),
        ChoiceUnit(3, (1, 4)),
    )
    # The blocks of a stage without choice count with its weight.
    assert space.eligible(8) == [(1, 1, 3, 4)]
    assert space.eligible(7.5) == [(1, 2, 3, 1)]
    one = get_stage_space("resnet", [[3], [4], [6], [3]])
    assert one.units == () and one.size == 1
    assert one.sample(random.Random(0)) == (3, 4, 6, 3) and one.eligible(16) == [(3, 4, 6, 3)]
    choices = [[1], [1, 2], [2, 3], [2], [3], [2], [2], [1, 2], [1], [1]]
    own = get_stage_space("mobilenetv2", choices, [0, 1, 1.5, 1, 1, 0.75, 1.25, 2, 0, 0])
    assert own.size == 8
    assert own.eligible(15) == [(1, 1, 2, 2, 3, 2, 2, 1, 1, 1)]


def test_value_semantics():
    choices = [list(choices) for choices in T]
    space = StageSpace("resnet", choices, [1, 1, 1, 1.0])
    choices[0][0] = 9
    assert space == get_stage_space("resnet") != get_stage_space("mobilenetv2")
    assert hash(space) == hash(get_stage_space("resnet"))
    assert pickle.loads(pickle.dumps(space)) == copy.deepcopy(space) == space
    assert {type(n) for choices in space.choices for n in choices} == {int}
    with pytest.raises(AttributeError):
        space.weights = (2, 2, 2, 2)
    numpy_ints = get_stage_space("resnet", [list(np.array(choices)) for choices in T])
    assert numpy_ints == space
    assert {type(n) for n in numpy_ints.sample(random.Random(0))} == {int}


@pytest.mark.parametrize(
    "family, choices, weights, words",
    [
        ("vgg", (), (), ["family is 'vgg'", "'mobilenetv2', 'resnet'"]),
        # number of stages
        ("resnet", T[:3], (), ["3 choice sets", "expected 4", "res2, res3, res4, res5"]),
        ("mobilenetv2", M, (), ["5 choice sets", "expected 10", "stem, c16, c24"]),
        ("resnet", T, [1, 1, 1], ["3 weights: [1, 1, 1]", "expected 4"]),
        ("resnet", 8, (), ["choice sets are 8", "one for each stage of resnet"]),
        ("resnet", "1234", (), ["choice sets are '1234'", "one for each stage"]),
        ("resnet", (), 1.5, ["weights are 1.5", "one for each stage"]),
        # a choice set
        (
            "resnet",
            [T[0], [], *T[2:]],
            (),
            ["choices of stage res3 are []", "one or more integers"],
        ),
        ("resnet", [T[0], [0, 1], *T[2:]], (), ["stage res3 are [0, 1]", "at least 1"]),
        ("resnet", [T[0], [-2, 1], *T[2:]], (), ["stage res3 are [-2, 1]", "at least 1"]),
        ("resnet", [*T[:3], [3, 2]], (), ["stage res5 are [3, 2]", "increasing order"]),
        ("resnet", [*T[:3], [2, 2, 3]], (), ["stage res5 are [2, 2, 3]", "each one once"]),
        ("resnet", [[1, 2.0], *T[1:]], (), ["stage res2 are [1, 2.0]", "integers"]),
        ("resnet", [[True, 2], *T[1:]], (), ["stage res2 are [True, 2]", "integers"]),
        ("resnet", [[1, None], *T[1:]], (), ["stage res2 are [1, None]", "integers"]),
        ("resnet", ["123", *T[1:]], (), ["stage res2 are '123'", "integers"]),
        ("resnet", [3, 4, 6, 3], (), ["stage res2 are 3", "one or more integers"]),
        ("resnet", [{1, 2}, *T[1:]], (), ["stage res2 are {1, 2}", "one or more integers"]),
        (
            "mobilenetv2",
            [[1, 2], [1], *M, [1], [1], [1]],
            (),
            ["stage stem are [1, 2]", "expected [1]", "single layer of mobilenetv2"],
        ),
        ("mobilenetv2", [[1], [1], *M, [1], [1], [2]], (), ["stage pool are [2]", "expected [1]"]),
        # a weight
        ("resnet", T, [1, 1, -1, 1], ["weight of stage res4 is -1", "expected a positive number"]),
        ("resnet", T, [1, 0, 1, 1], ["weight of stage res3 is 0", "choices [1, 2, 3"]),
        ("resnet", T, [1, "1", 1, 1], ["weight of stage res3 is '1'", "finite number"]),
        ("resnet", T, [1, True, 1, 1], ["weight of stage res3 is True", "finite number"]),
        ("resnet", T, [1, float("nan"), 1, 1], ["weight of stage res3 is nan", "finite number"]),
        ("resnet", T, [1, 1, 1, float("inf")], ["weight of stage res5 is inf", "finite number"]),
        # The paper gives no weight for the blocks that it does not search.
        (
            "mobilenetv2",
            [[1], [1, 2], *M, [1], [1], [1]],
            (),
            ["weight of stage c16 is 0", "choices [1, 2]", "expected a positive number"],
        ),
    ],
)
def test_bad_space(family, choices, weights, words):
    with pytest.raises(ValueError) as error:
        get_stage_space(family, choices, weights)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    "budget, tolerance, cost, words",
    [
        (float("nan"), 0, None, ["budget is nan", "finite number"]),
        ("16", 0, None, ["budget is '16'", "finite number"]),
        (None, 0, None, ["budget is None", "finite number"]),
        (Decimal("16"), 0, None, ["budget is Decimal('16')", "finite number"]),
        (16, float("inf"), None, ["tolerance is inf", "finite number"]),
        (16, -0.5, None, ["tolerance is -1/2", "0 or more"]),
        (16, 0, lambda code: float("nan"), ["cost of stage code [1, 1, 2, 2] is nan", "finite"]),
        (16, 0, {(1, 1, 2, 2): 6}.get, ["cost of stage code [1, 1, 2, 3] is None", "finite"]),
    ],
)
def test_bad_budget(budget, tolerance, cost, words):
    with pytest.raises(ValueError) as error:
        get_stage_space("resnet").eligible(budget, tolerance, cost)
    for word in words:
        assert word in str(error.value)


def test_weights_of_different_denominators_add_up_exactly():
    choices, weights = [[1, 3], [1, 2], [2, 7], [2, 4]], [0.1, 0.25, 2.125, 1 / 3]
    space = get_stage_space("resnet", choices, weights)
    exact = [Fraction(str(weight)) for weight in weights]
    costs = {code: sum(n * w for n, w in zip(code, exact)) for code in product(*choices)}
    assert {code: space.cost(code) for code in space} == costs
    for cost in costs.values():
        expected = [code for code, other in costs.items() if abs(other - cost) <= 0.5]
        assert space.eligible(cost, 0.5) == expected
    with pytest.raises(ValueError):
        space.cost((1, 1, 2))


def test_spaces_need_neither_torch_nor_detectron2():
    """The package around them imports both, so it is stood in for by an empty one."""
    program = f"""
import sys, types
sys.modules["torch"] = sys.modules["detectron2"] = None
package = sys.modules["crnas_d2"] = types.ModuleType("crnas_d2")
package.__path__ = [{str(Path(crnas_d2.__file__).parent)!r}]
from crnas_d2.spaces import get_operation_space, get_stage_space
from crnas_d2.architecture import Architecture
print(len(get_stage_space("resnet").eligible(16)), get_operation_space(Architecture((1, 1, 1, 1))).size)
print(sorted(name for name in sys.modules if name.startswith("crnas_d2.") and name.count(".") == 1))
"""
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=HANGS_S, check=True
    )
    assert result.stdout.splitlines() == [
        "153 81",
        "['crnas_d2.architecture', 'crnas_d2.spaces']",
    ]
