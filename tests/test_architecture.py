"""The published codes, and what makes an architecture."""

import copy
import json
import pickle
import re
from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from crnas_d2 import ARCHITECTURES, Architecture
from crnas_d2.architecture import FAMILIES, get_family

# The text of Tables 5 and 6 of the paper, as printed.
TABLE_5_COLUMNS = ["MobileNetV2", "ResNet18", "ResNet50", "ResNet101", "ResNeXt50", "ResNeXt101"]
TABLE_5 = {
    "": "[1,1,2,3,4,3,3,1,1,1] [2,2,2,2] [3,4,6,3] [3,4,23,3] [3,4,6,3] [3,4,23,3]",
    "SCR-": "[1,1,2,2,3,4,4,1,1,1] [1,1,2,4] [1,3,5,7] [2,3,17,11] [2,2,6,6] [3,4,15,11]",
}
TABLE_6 = """
CR-MobileNetV2 [1,1,2,2,3,4,4,1,1,1] [0, 1, 0, 1, 0, 2, 0, 1, 1, 0, 0, 1, 1, 0, 1, 1, 0, 2, 0, 0]
CR-ResNet18 [1,1,2,4] [0, 0, 1, 0, 1, 0, 2, 1]
CR-ResNet50 [1,3,5,7] [0, 0, 1, 0, 0, 0, 1, 2, 0, 0, 1, 0, 2, 1, 1, 2]
CR-ResNet101 [2,3,17,11] [0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 2, 0, 0, 0, 1 , 0, 1, 0, 1, 0, 1, 1, 0, 0, 1, 0, 1, 2, 0, 1, 1]
"""
MOBILENETV2 = (1, 1, 2, 3, 4, 3, 3, 1, 1, 1)


def read_codes(text):
    return [tuple(json.loads(code)) for code in re.findall(r"\[.*?\]", text)]


def published():
    codes = {}
    for prefix, row in TABLE_5.items():
        for network, stage_code in zip(TABLE_5_COLUMNS, read_codes(row), strict=True):
            codes[prefix + network] = (stage_code, (0,) * sum(stage_code))
    for row in TABLE_6.strip().splitlines():
        codes[row.split()[0]] = tuple(read_codes(row))
    return codes


def test_architectures_are_the_published_ones():
    codes = {name: (a.stage_code, a.operation_code) for name, a in ARCHITECTURES.items()}
    assert codes == published()
    assert len(codes) == 16


@pytest.mark.parametrize(
    "network, blocks",
    [
        ("ResNet18", 8),
        ("ResNet50", 16),
        ("ResNeXt50", 16),
        ("ResNet101", 33),
        ("ResNeXt101", 33),
        ("MobileNetV2", 20),
    ],
)
def test_published_reallocations_keep_the_number_of_blocks(network, blocks):
    variants = [a for name, a in ARCHITECTURES.items() if name.split("-")[-1] == network]
    assert len(variants) == (2 if network.startswith("ResNeXt") else 3)
    assert {sum(a.stage_code) for a in variants} == {blocks}
    assert {len(a.operation_code) for a in variants} == {blocks}


def test_published_mobilenetv2_reallocation_keeps_the_weighted_cost():
    costs = np.array([1.5, 1, 1, 0.75, 1.25])  # appendix A.2
    for name in ("MobileNetV2", "SCR-MobileNetV2", "CR-MobileNetV2"):
        assert costs @ ARCHITECTURES[name].stage_code[2:7] == 16


def test_spatial_reallocation_keeps_the_stage_code():
    for name in ("ResNet18", "ResNet50", "ResNet101", "MobileNetV2"):
        assert ARCHITECTURES[f"CR-{name}"].stage_code == ARCHITECTURES[f"SCR-{name}"].stage_code


def test_dilations_of_each_stage():
    assert ARCHITECTURES["CR-ResNet50"].operations == (
        (0,),
        (0, 1, 0),
        (0, 0, 1, 2, 0),
        (0, 1, 0, 2, 1, 1, 2),
    )
    assert ARCHITECTURES["CR-ResNet50"].dilations[-1] == (1, 2, 1, 3, 2, 2, 3)
    # The first block of res5, which has the stride, is dilated.
    assert ARCHITECTURES["CR-ResNet101"].dilations[-1][0] == 2
    stages = FAMILIES["mobilenetv2"].stages
    assert dict(zip(stages, ARCHITECTURES["CR-MobileNetV2"].dilations, strict=True)) == {
        "stem": (1,),
        "c16": (2,),
        "c24": (1, 2),
        "c32": (1, 3),
        "c64": (1, 2, 2),
        "c96": (1, 1, 2, 2),
        "c160": (1, 2, 2, 1),
        "c320": (3,),
        "c1280": (1,),
        "pool": (1,),
    }


def test_empty_operation_code_is_all_zeros():
    assert Architecture([1, 2, 3, 4]).operation_code == (0,) * 10
    assert Architecture([1, 2, 3, 4], []) == Architecture([1, 2, 3, 4], [0] * 10)
    assert Architecture([1, 2, 3, 4]).dilations == ((1,), (1,) * 2, (1,) * 3, (1,) * 4)


def test_any_positive_stage_code_is_an_architecture():
    # 15 blocks of res4 are published, although the paper's choices for that stage lack them.
    assert ARCHITECTURES["SCR-ResNeXt101"].stage_code[2] == 15
    assert len(Architecture((1, 40, 1, 7), [2] * 49).operation_code) == 49
    assert Architecture((1, 9, 1, 1, 1, 1, 1, 8, 1, 1)).family == "mobilenetv2"


def test_value_semantics():
    stage_code, operation_code = [1, 1, 2, 4], [0, 0, 1, 0, 1, 0, 2, 1]
    architecture = Architecture(stage_code, operation_code)
    stage_code[0], operation_code[0] = 9, 9
    assert architecture == ARCHITECTURES["CR-ResNet18"] != ARCHITECTURES["SCR-ResNet18"]
    assert hash(architecture) == hash(ARCHITECTURES["CR-ResNet18"])
    assert len({*ARCHITECTURES.values(), architecture}) == 14  # ResNeXt's baselines are ResNet's
    assert pickle.loads(pickle.dumps(architecture)) == copy.deepcopy(architecture) == architecture
    assert architecture.family == "resnet"


def test_immutability():
    architecture = ARCHITECTURES["CR-ResNet18"]
    for name in ("stage_code", "operation_code", "family", "note"):
        with pytest.raises(FrozenInstanceError):
            setattr(architecture, name, (1, 1, 1, 1))
    with pytest.raises(TypeError):
        architecture.stage_code[0] = 2
    with pytest.raises(TypeError):
        ARCHITECTURES["ResNet18"] = architecture
    with pytest.raises(TypeError):
        FAMILIES["resnet"] = get_family("mobilenetv2")


def test_numpy_integers_become_ints():
    architecture = Architecture(list(np.array([1, 1, 1, 1])), tuple(np.array([0, 1, 2, 0])))
    assert architecture == Architecture((1, 1, 1, 1), (0, 1, 2, 0))
    assert {type(n) for n in architecture.stage_code + architecture.operation_code} == {int}


@pytest.mark.parametrize(
    "stage_code, operation_code, words",
    [
        # lengths
        ([3, 4, 6], [], ["stage code [3, 4, 6] has 3", "4 (resnet)", "10 (mobilenetv2)"]),
        ([3, 4, 6, 3, 1], [], ["stage code [3, 4, 6, 3, 1] has 5", "expected 4"]),
        ([], [], ["stage code [] has 0 entries"]),
        ([1, 1, 2, 4], [0] * 7, ["[0, 0, 0, 0, 0, 0, 0] has 7", "expected 8", "[1, 1, 2, 4]"]),
        (MOBILENETV2, [0] * 21, ["has 21", "expected 20", "[1, 1, 2, 3, 4, 3, 3, 1, 1, 1]"]),
        # values of a stage code
        ([3, 0, 6, 3], [], ["[3, 0, 6, 3]", "res3 has 0 blocks", "at least 1"]),
        ([3, 4, 6, -1], [], ["[3, 4, 6, -1]", "res5 has -1 blocks", "at least 1"]),
        ([2, *MOBILENETV2[1:]], [], ["stem has 2", "expected 1"]),
        ([*MOBILENETV2[:8], 3, 1], [], ["c1280 has 3", "expected 1"]),
        ([*MOBILENETV2[:9], 2], [], ["pool has 2", "expected 1"]),
        # values of an operation code
        ([1, 1, 1, 1], [0, 0, 3, 0], ["[0, 0, 3, 0]", "entry 3 in stage res4", "0..2"]),
        ([1, 1, 1, 1], [0, -1, 0, 0], ["[0, -1, 0, 0]", "entry -1 in stage res3", "0..2"]),
        (MOBILENETV2, [1] + [0] * 19, ["entry 1 at stem", "expected 0"]),
        (MOBILENETV2, [0] * 18 + [2, 0], ["entry 2 at c1280", "expected 0"]),
        (MOBILENETV2, [0] * 19 + [1], ["entry 1 at pool", "expected 0"]),
        # types
        ([3, 4, True, 3], [], ["stage code [3, 4, True, 3]", "entry True", "integer"]),
        ([3, 4.0, 6, 3], [], ["stage code [3, 4.0, 6, 3]", "entry 4.0", "integer"]),
        ([3, "4", 6, 3], [], ["stage code [3, '4', 6, 3]", "entry '4'", "integer"]),
        ([3, None, 6, 3], [], ["entry None", "integer"]),
        ([1, 1, 1, 1], [0, 0, False, 0], ["operation code", "entry False", "integer"]),
        ([1, 1, 1, 1], [0, 0.5, 0, 0], ["operation code", "entry 0.5", "integer"]),
        ([1, 1, 1, 1], [0, 0, "1", 0], ["operation code", "entry '1'", "integer"]),
        ("3463", [], ["stage code is '3463'", "list of integers"]),
        (4, [], ["stage code is 4", "list of integers"]),
        (None, [], ["stage code is None", "list of integers"]),
        ([1, 1, 1, 1], "0000", ["operation code is '0000'", "list of integers"]),
        ([1, 1, 1, 1], {0: 1}, ["operation code is {0: 1}", "list of integers"]),
    ],
)
def test_bad_code(stage_code, operation_code, words):
    with pytest.raises(ValueError) as error:
        Architecture(stage_code, operation_code)
    for word in words:
        assert word in str(error.value)


def test_of_family():
    assert Architecture.of_family("resnet", [1, 3, 5, 7]) == ARCHITECTURES["SCR-ResNet50"]
    code = ARCHITECTURES["CR-MobileNetV2"]
    assert Architecture.of_family("mobilenetv2", code.stage_code, code.operation_code) == code


@pytest.mark.parametrize(
    "family, stage_code, words",
    [
        ("vgg", [1, 1, 1, 1], ["family is 'vgg'", "'mobilenetv2', 'resnet'"]),
        (["resnet"], [1, 1, 1, 1], ["family is ['resnet']"]),
        (None, [1, 1, 1, 1], ["family is None"]),
        ("mobilenetv2", [3, 4, 6, 3], ["[3, 4, 6, 3] has 4", "expected 10", "'mobilenetv2'"]),
        ("resnet", MOBILENETV2, ["[1, 1, 2, 3, 4, 3, 3, 1, 1, 1] has 10", "expected 4 "]),
        ("resnet", "3463", ["stage code is '3463'", "list of integers"]),
    ],
)
def test_bad_family(family, stage_code, words):
    with pytest.raises(ValueError) as error:
        Architecture.of_family(family, stage_code)
    for word in words:
        assert word in str(error.value)
