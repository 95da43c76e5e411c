"""Equation (1) against brute force on made AP tables."""

from itertools import product

import pytest
from made_tables import Evaluator, noise
from paper_spaces import M, T

from crnas_d2 import ARCHITECTURES
from crnas_d2.search.stage_search import eligible_codes, stage_search
from crnas_d2.spaces import get_stage_space

# Appendix A.2: cost of M_1 to M_5.
COST = [1.5, 1, 1, 0.75, 1.25]
RESNET = get_stage_space("resnet")
MOBILENETV2 = get_stage_space("mobilenetv2")


def brute_force(codes, table):
    """The best of some codes, by going through them; and all of them, best first."""
    codes = [code for code in codes if table(code) is not None]
    best = codes[0]
    for code in codes:
        if table(code) > table(best):
            best = code
    return best, tuple(sorted(((c, table(c)) for c in codes), key=lambda pair: -pair[1]))


@pytest.mark.parametrize("blocks, number", [(8, 9), (16, 153), (33, 374)])
@pytest.mark.parametrize("seed", range(3))
def test_resnet_series(blocks, number, seed):
    table = noise(seed)
    evaluate = Evaluator(table)
    ranking = stage_search(RESNET, [blocks], evaluate)[blocks]
    eligible = [code for code in product(*T) if sum(code) == blocks]
    assert evaluate.calls == [eligible] and len(eligible) == number
    assert (ranking.best, ranking.scored) == brute_force(eligible, table)
    assert ranking.failed == () and ranking.ties == ()


@pytest.mark.parametrize("tolerance, number", [(0, 43), (0.03125, 212)])
def test_mobilenetv2(tolerance, number):
    table = noise("mobile")
    evaluate = Evaluator(table)
    ranking = stage_search(MOBILENETV2, [16], evaluate, tolerance)[16]
    eligible = [
        (1, 1, *m, 1, 1, 1)
        for m in product(*M)
        if abs(sum(n * cost for n, cost in zip(m, COST)) - 16) <= 16 * tolerance
    ]
    assert evaluate.calls == [eligible] and len(eligible) == number
    assert (ranking.best, ranking.scored) == brute_force(eligible, table)


def test_a_published_code_wins_where_the_table_says_so():
    code = ARCHITECTURES["SCR-ResNet50"].stage_code
    table = noise(0)
    result = stage_search(RESNET, [16], Evaluator(lambda c: 50.0 if c == code else table(c)))
    assert result[16].best == code


def test_budgets_share_one_evaluation():
    table = noise(1)
    evaluate = Evaluator(table)
    result = stage_search(RESNET, [33, 8, 16], evaluate)
    (codes,) = evaluate.calls
    assert len(codes) == 9 + 153 + 374 and codes == sorted(set(codes))
    assert list(result) == [33, 8, 16]
    for blocks in result:
        assert result[blocks] == stage_search(RESNET, [blocks], Evaluator(table))[blocks]


def test_a_code_within_two_budgets_is_evaluated_once():
    table = noise(2)
    evaluate = Evaluator(table)
    result = stage_search(RESNET, [15, 16], evaluate, tolerance=0.07)
    (codes,) = evaluate.calls
    assert codes == [code for code in product(*T) if 14 <= sum(code) <= 17]
    assert sum(len(ranking.scored) for ranking in result.values()) > len(codes)
    for blocks, ranking in result.items():
        eligible = [code for code in codes if abs(sum(code) - blocks) <= 1]
        assert (ranking.best, ranking.scored) == brute_force(eligible, table)


def test_tolerance_is_a_share_of_each_budget():
    eligible = eligible_codes(RESNET, [10, 30], tolerance=0.1)
    assert list(eligible) == [10, 30]
    assert eligible[10] == [code for code in product(*T) if 9 <= sum(code) <= 11]
    assert eligible[30] == [code for code in product(*T) if 27 <= sum(code) <= 33]


def test_a_tolerance_is_exact():
    """0.29 times 100 is 29, though not in floats."""
    cost = {code: n for n, code in enumerate(RESNET)}.__getitem__
    (eligible,) = eligible_codes(RESNET, [100], 0.29, cost).values()
    assert [cost(code) for code in eligible] == list(range(71, 130))


@pytest.mark.parametrize(
    "tolerance, least", [(0, 0), (0.05, 33 * 0.95), (0.5, 16.5), (1, 0), (3, 0)]
)
def test_budget_as_an_upper_limit(tolerance, least):
    evaluate = Evaluator(noise(5))
    result = stage_search(RESNET, [33, 7], evaluate, tolerance, at_most=True)
    fit = {33: [code for code in product(*T) if least <= sum(code) <= 33]}
    fit[7] = [code for code in product(*T) if 7 * least / 33 <= sum(code) <= 7]
    assert evaluate.calls == [sorted(set(fit[33] + fit[7]))]
    for budget, codes in fit.items():
        assert result[budget].scored == brute_force(codes, noise(5))[1]


def test_by_default_a_budget_is_met_exactly():
    """A budget below 1 too, as in multiply-adds of a thin network."""
    eligible = [code for code in product(*T) if sum(code) == 8]
    assert eligible_codes(RESNET, [8]) == {8: eligible}
    assert eligible_codes(RESNET, [0.5], cost=lambda code: sum(code) / 16) == {0.5: eligible}


def test_no_code_costs_so_little():
    with pytest.raises(ValueError, match="no stage code costs at most that.* costs are 6$"):
        eligible_codes(RESNET, [5], at_most=True)
    with pytest.raises(ValueError, match="at most that, with a tolerance of 0.05; .* 60$"):
        eligible_codes(RESNET, [70], 0.05, at_most=True)


def test_own_cost():
    table, cost = noise(3), lambda code: 11 * code[0] + sum(code)
    ranking = stage_search(RESNET, [40], Evaluator(table), tolerance=0.05, cost=cost)[40]
    eligible = [code for code in product(*T) if 38 <= 12 * code[0] + sum(code[1:]) <= 42]
    assert (ranking.best, ranking.scored) == brute_force(eligible, table)


def test_ties_break_to_the_smaller_code():
    ranking = stage_search(RESNET, [8], Evaluator(lambda code: float(code[3] == 3)))[8]
    tied = tuple(code for code in product(*T) if sum(code) == 8 and code[3] == 3)
    assert len(tied) > 1 and ranking.ties == tied and ranking.best == min(tied)


def test_failed_codes_are_not_ranked():
    random = noise(4)
    table = lambda code: None if code[0] == 2 else random(code)
    result = stage_search(RESNET, [8, 16], Evaluator(table))
    for blocks, ranking in result.items():
        eligible = [code for code in product(*T) if sum(code) == blocks]
        assert (ranking.best, ranking.scored) == brute_force(eligible, table)
        assert ranking.failed == tuple(code for code in eligible if code[0] == 2) != ()


def test_a_budget_where_all_failed_leaves_the_others_alone():
    result = stage_search(
        RESNET, [6, 8], Evaluator(lambda code: sum(code) if sum(code) > 6 else None)
    )
    assert result[8].best == (1, 1, 2, 4)
    with pytest.raises(RuntimeError, match="failed for all 1: 1-1-2-2"):
        result[6].best


@pytest.mark.parametrize(
    "space, budgets, tolerance, cost, words",
    [
        (RESNET, [16, 5], 0, None, ["budget 5: ", "tolerance of 0", "nearest costs are 6"]),
        (RESNET, [70], 0.1, None, ["budget 70: ", "tolerance of 0.1", "nearest costs are 60"]),
        (RESNET, [16.5], 0.02, None, ["budget 16.5: ", "nearest costs are 16 and 17"]),
        (MOBILENETV2, [16.1], 0, None, ["budget 16.1: ", "nearest costs are 16 and 16.25"]),
        (
            RESNET,
            [5_000_000_001],
            0,
            lambda code: 1_000_000_000 * sum(code),
            ["budget 5000000001: ", "nearest costs are 6000000000"],
        ),
        (
            RESNET,
            [16, float("nan")],
            0,
            None,
            ["budgets are [16, nan]; expected one or more positive numbers"],
        ),
        (RESNET, [16], -1, None, ["tolerance is -1; expected a share", "0 or more"]),
        (RESNET, [16], "0.1", None, ["tolerance is '0.1'; expected a share"]),
        (RESNET, [16], float("nan"), None, ["tolerance is nan; expected a share"]),
        (RESNET, [16], float("inf"), None, ["tolerance is inf", "finite number"]),
        (RESNET, [float("inf")], 0, None, ["budget is inf", "finite number"]),
        (RESNET, [16, 0], 0, None, ["budgets are [16, 0]; expected one or more positive numbers"]),
        (RESNET, [None], 0, None, ["budgets are [None]; expected one or more positive numbers"]),
        (RESNET, [], 0, None, ["budgets are []; expected one or more"]),
        (RESNET, 16, 0, None, ["budgets are 16; expected one or more"]),
        (RESNET, "16", 0, None, ["budgets are '16'; expected one or more"]),
    ],
)
def test_bad_budgets(space, budgets, tolerance, cost, words):
    evaluate = Evaluator(sum)
    with pytest.raises(ValueError) as error:
        stage_search(space, budgets, evaluate, tolerance, cost)
    for word in words:
        assert word in str(error.value)
    assert evaluate.calls == []


def test_bad_scores():
    with pytest.raises(ValueError, match="score of 1-1-2-4 is nan"):
        stage_search(RESNET, [8], lambda codes: [float("nan")] * len(codes))
    with pytest.raises(ValueError, match="8 scores for 9 codes"):
        stage_search(RESNET, [8], lambda codes: [1.0] * 8)
