"""The operation space: one choice block for each block that the paper searches."""

import copy
import pickle
from itertools import islice, product

import numpy as np
import pytest

from crnas_d2 import ARCHITECTURES, Architecture
from crnas_d2.spaces import ChoiceUnit, OperationSpace, get_operation_space, get_stage_space

# Block counts of Table 5; MobileNetV2 has 20 entries, of which stem, c1280 and pool are fixed.
CHOICE_BLOCKS = {
    "ResNet18": 8,
    "ResNet50": 16,
    "ResNet101": 33,
    "ResNeXt50": 16,
    "ResNeXt101": 33,
    "MobileNetV2": 17,
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_space_of_a_published_network(name):
    space = get_operation_space(ARCHITECTURES[name])
    blocks = CHOICE_BLOCKS[name.split("-")[-1]]
    assert space.size == 3**blocks
    first = 1 if "MobileNetV2" in name else 0
    assert space.units == tuple(ChoiceUnit(first + i, (0, 1, 2)) for i in range(blocks))
    assert len(space.choices) == len(ARCHITECTURES[name].operation_code)
    assert ARCHITECTURES[name].operation_code in space
    assert (0,) * len(space.choices) in space


def test_space_of_resnet50_is_the_number_in_the_paper():
    assert round(get_operation_space(ARCHITECTURES["ResNet50"]).size / 1e7) == 4  # section 3.2.2


def test_fixed_entries_of_mobilenetv2():
    space = get_operation_space(ARCHITECTURES["SCR-MobileNetV2"])
    code = ARCHITECTURES["CR-MobileNetV2"].operation_code
    assert [i for i, choices in enumerate(space.choices) if choices == (0,)] == [0, 18, 19]
    for i in (0, 18, 19):
        assert (*code[:i], 1, *code[i + 1 :]) not in space


def test_iteration_in_lexicographic_order():
    small = get_operation_space(Architecture((1, 1, 2, 1)))
    assert list(small) == list(product((0, 1, 2), repeat=5)) == sorted(set(small))
    large = get_operation_space(ARCHITECTURES["ResNet101"])
    assert list(islice(large, 4)) == [
        (0,) * 33,
        (0,) * 32 + (1,),
        (0,) * 32 + (2,),
        (0,) * 31 + (1, 0),
    ]


def test_every_path_is_an_architecture():
    for stage_code in islice(get_stage_space("resnet"), 2):
        space = get_operation_space(Architecture(stage_code))
        codes = {Architecture(stage_code, path).operation_code for path in space}
        assert codes == set(space) and len(codes) == 3 ** sum(stage_code)


def test_own_operations():
    space = get_operation_space(ARCHITECTURES["SCR-ResNet18"], [0, 2])
    assert space.size == 2**8 and set().union(*space) == {0, 2}
    assert ARCHITECTURES["CR-ResNet18"].operation_code not in space
    assert (0, 0, 2, 0, 2, 0, 2, 2) in space
    mobile = get_operation_space(ARCHITECTURES["MobileNetV2"], [1, 2])
    assert next(iter(mobile)) == (0, *[1] * 17, 0, 0)


def test_value_semantics():
    space = get_operation_space(ARCHITECTURES["CR-ResNet50"])
    assert space == get_operation_space(ARCHITECTURES["SCR-ResNet50"])
    assert space == OperationSpace([1, 3, 5, 7], list(np.arange(3)))
    assert space != get_operation_space(ARCHITECTURES["ResNet50"])
    assert space != get_operation_space(ARCHITECTURES["CR-ResNet50"], [0, 1])
    assert len(space.choices) == 16
    assert pickle.loads(pickle.dumps(space)) == copy.deepcopy(space) == space
    assert hash(space) == hash(copy.deepcopy(space))
    for name in ("stage_code", "choices"):
        with pytest.raises(AttributeError):
            setattr(space, name, ())


@pytest.mark.parametrize(
    "operations, words",
    [
        ([], ["operations are []", "one or more integers"]),
        ([0, 1, 3], ["operations are (0, 1, 3)", "none above 2", "dilation 3"]),
        ([-1, 0], ["operations are [-1, 0]", "at least 0"]),
        ([0, 2, 1], ["operations are [0, 2, 1]", "increasing order"]),
        ([0, 0], ["operations are [0, 0]", "each one once"]),
        ([False, True], ["operations are [False, True]", "integers"]),
        ("012", ["operations are '012'", "integers"]),
        (3, ["operations are 3", "one or more integers"]),
    ],
)
def test_bad_operations(operations, words):
    with pytest.raises(ValueError) as error:
        get_operation_space(ARCHITECTURES["ResNet18"], operations)
    for word in words:
        assert word in str(error.value)


def test_bad_architecture():
    with pytest.raises(
        ValueError, match=r"architecture is \[1, 3, 5, 7\]; expected an Architecture"
    ):
        get_operation_space([1, 3, 5, 7])
    with pytest.raises(ValueError, match="res3 has 0 blocks"):
        OperationSpace((1, 0, 5, 7))
