"""The limits that a config sets."""

import re

import pytest

from crnas_d2 import get_config
from crnas_d2.analysis import analyze_detector
from crnas_d2.search.limits import Limits
from crnas_d2.spaces import get_stage_space

SPACE = get_stage_space("resnet", [[1, 2, 3], [1, 2], [2, 3], [1, 2]])


def limits_of(*opts):
    cfg = get_config("Supernet/stage_supernet_R_18_FPN.yaml")
    cfg.merge_from_list(list(opts))
    return Limits.of(cfg, SPACE, get_config("COCO-Detection/faster_rcnn_R_18_FPN_1x.yaml"))


@pytest.mark.parametrize(
    "opts, least, most, cost",
    [
        ((), 7, 7, "7 weighted blocks"),
        (("SEARCH.TOLERANCE", 0.2), 5.6, 8.4, "5.6 to 8.4 weighted blocks"),
        (("SEARCH.BUDGET_IS", "at_most"), 0, 7, "at most 7 weighted blocks"),
        (
            ("SEARCH.BUDGET_IS", "at_most", "SEARCH.TOLERANCE", 0.2),
            5.6,
            7,
            "5.6 to 7 weighted blocks",
        ),
        (("SEARCH.COST", "blocks"), 7, 7, "7 blocks"),
    ],
)
def test_how_many_codes_fit(opts, least, most, cost):
    limits = limits_of("SEARCH.BUDGETS", [7], *opts)
    expected = [code for code in SPACE if least <= sum(code) <= most]
    assert limits.codes == expected
    assert limits.describe() == f"{len(expected)} of 24 stage codes cost {cost}"
    listed = sorted({*expected, (2, 2, 2, 2)})  # the baseline's too
    costs = limits.as_json()["costs"]
    assert list(costs.items()) == [("-".join(map(str, c)), sum(c)) for c in listed]


@pytest.mark.parametrize(
    "opts, message",
    [
        ((), "SEARCH.BUDGETS is [3], in weighted blocks: budget 3: no stage code costs that, "),
        (("SEARCH.COST", "parameters"), "SEARCH.BUDGETS is [3], in M parameters: budget 3: no "),
        (
            ("SEARCH.BUDGET_IS", "at_most"),
            "[3], in weighted blocks: budget 3: no stage code costs at",
        ),
    ],
)
def test_no_code_fits(opts, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        limits_of("SEARCH.BUDGETS", [3], *opts)


def test_a_line_for_each_budget():
    lines = limits_of("SEARCH.BUDGETS", [7, 5]).describe().splitlines()
    assert lines == [
        "7 of 24 stage codes cost 7 weighted blocks",
        "1 of 24 stage codes cost 5 weighted blocks",
    ]


@pytest.mark.parametrize(
    "name, number",
    [
        ("gmacs", lambda cost: cost.backbone_macs / 1e9),
        ("detector_gmacs", lambda cost: cost.macs / 1e9),
        ("parameters", lambda cost: cost.parameters / 1e6),
    ],
)
def test_no_budget_is_the_cost_of_the_baseline_in_the_final_detector(name, number):
    size = (320, 480)
    limits = limits_of("SEARCH.COST", name, "SEARCH.COST_SIZE", size, "SEARCH.BUDGETS", [])
    baseline = analyze_detector(get_config("COCO-Detection/faster_rcnn_R_18_FPN_1x.yaml"), size)
    assert limits.budgets == (number(baseline),)
    assert (2, 2, 2, 2) in limits.codes
