"""Algorithm 1 on made AP tables: against the optimum, and against its pseudocode."""

from itertools import pairwise, product
from random import Random

import pytest
from made_tables import Evaluator, best_of_separable, noise, separable

from crnas_d2 import ARCHITECTURES, Architecture
from crnas_d2.search.operation_search import greedy_evaluations, greedy_operation_search
from crnas_d2.spaces import get_operation_space

SMALL = get_operation_space(Architecture((1, 1, 2, 2)))
SPACES = {  # with their numbers of choice blocks
    "ResNet18": 8,
    "ResNet50": 16,
    "ResNet101": 33,
    "MobileNetV2": 17,
}


def space_of(name, operations=(0, 1, 2)):
    return get_operation_space(ARCHITECTURES[name], operations)


def algorithm_1(O, evaluate, K):
    """The pseudocode, line by line: O lists the operations of each of the B blocks."""
    B = len(O)
    p = [()]
    for i in range(B):
        p_extend = [arch + (o,) for arch, o in product(p, O[i])]
        result = {}
        for arch in p_extend:
            AP = evaluate(arch)
            if AP is not None:
                result[arch] = AP
        p = []
        while result and len(p) < K:
            highest = max(result.values())
            arch = min(arch for arch, AP in result.items() if AP == highest)
            p.append(arch)
            del result[arch]
    return p


def completed(space, seed, completions=4):
    """Section 3.3.2 on a table of whole codes: the mean over random completions.

    The table has gains of single entries and of neighbors, so it is not separable.
    """
    single, pairs = separable(space, seed), noise(f"{seed} pairs")

    def ap(code):
        return single(code) + sum(pairs((i, *pair)) / 30 for i, pair in enumerate(pairwise(code)))

    def evaluate(prefix):
        draws = [space.sample(Random(f"{seed}/{len(prefix)}/{j}")) for j in range(completions)]
        return sum(ap(prefix + draw[len(prefix) :]) for draw in draws) / completions

    return evaluate


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("survivors", [1, 3])
def test_finds_the_optimum_of_a_separable_table(name, survivors):
    space = space_of(name)
    for seed in range(5):
        table = separable(space, seed)
        result = greedy_operation_search(space, Evaluator(table), survivors)
        assert result.ranking.best == best_of_separable(space, table)


def test_finds_the_optimum_of_a_separable_table_by_brute_force():
    for seed in range(5):
        table = separable(SMALL, seed)
        best = greedy_operation_search(SMALL, Evaluator(table)).ranking.best
        assert best == max(SMALL, key=table) == best_of_separable(SMALL, table)


@pytest.mark.parametrize("operations", [(0, 1, 2), (0, 2), (1, 2), (0, 1)])
@pytest.mark.parametrize(
    "stage_code, survivors",
    [*(((1, 1, 2, 2), k) for k in (1, 2, 3, 50)), *(((3, 4, 6, 3), k) for k in (1, 3, 5))],
)
def test_equals_the_pseudocode(operations, stage_code, survivors):
    space = get_operation_space(Architecture(stage_code), operations)
    for seed in range(2):
        for table in (
            noise(seed),
            completed(space, seed),
            lambda code: round(noise(seed)(code) / 9),
        ):
            expected = algorithm_1([operations] * sum(stage_code), table, survivors)
            result = greedy_operation_search(space, Evaluator(table), survivors)
            assert [code for code, _ in result.survivors[-1]] == expected
            assert result.ranking.best == expected[0]


@pytest.mark.parametrize("seed", range(5))
def test_equals_the_pseudocode_where_evaluations_fail(seed):
    ap, luck = noise(seed), noise(f"{seed} luck")
    table = lambda code: None if luck(code) < 14 else ap(code)  # of 40
    expected = algorithm_1([(0, 1, 2)] * 16, table, 3)
    assert expected
    result = greedy_operation_search(space_of("ResNet50"), Evaluator(table))
    assert [code for code, _ in result.survivors[-1]] == expected
    assert result.ranking.failed and not set(result.ranking.failed) & set(expected)


def test_a_wide_beam_finds_what_a_narrow_one_misses():
    """The best code begins with what looks worst at first."""
    table = lambda code: 9.0 if code == (2,) * 6 else float(-sum(code))
    assert greedy_operation_search(SMALL, Evaluator(table), 1).ranking.best == (0,) * 6
    assert greedy_operation_search(SMALL, Evaluator(table), 3**5).ranking.best == (2,) * 6


@pytest.mark.parametrize("name, blocks", SPACES.items())
def test_number_of_evaluations(name, blocks):
    evaluate = Evaluator(noise(0))
    greedy_operation_search(space_of(name), evaluate)
    assert [len(call) for call in evaluate.calls] == [3] + [9] * (blocks - 1)
    assert len(set(evaluate.codes)) == len(evaluate.codes) == 3 + 9 * (blocks - 1)
    assert greedy_evaluations(space_of(name)) == 3 + 9 * (blocks - 1)


@pytest.mark.parametrize(
    "operations, survivors, sizes",
    [
        ((0, 1, 2), 1, [3, 3, 3, 3, 3, 3]),
        ((0, 1, 2), 10, [3, 9, 27, 30, 30, 30]),
        ((0, 2), 3, [2, 4, 6, 6, 6, 6]),
    ],
)
def test_sizes_of_the_steps(operations, survivors, sizes):
    space = get_operation_space(Architecture((1, 1, 2, 2)), operations)
    evaluate = Evaluator(noise(0))
    result = greedy_operation_search(space, evaluate, survivors)
    assert [len(call) for call in evaluate.calls] == sizes
    assert greedy_evaluations(space, survivors) == sum(sizes)
    assert [len(step) for step in result.survivors] == [min(survivors, n) for n in sizes]


def test_steps_extend_the_survivors_of_the_step_before():
    evaluate = Evaluator(noise(5))
    result = greedy_operation_search(SMALL, evaluate)
    kept = [()]
    for step, (call, survivors) in enumerate(zip(evaluate.calls, result.survivors, strict=True)):
        assert call == sorted(code + (o,) for code in kept for o in (0, 1, 2))
        assert survivors == tuple(sorted(((c, noise(5)(c)) for c in call), key=lambda s: -s[1])[:3])
        kept = [code for code, _ in survivors]
        assert {len(code) for code in kept} == {step + 1}
    assert result.ranking.scored[:3] == result.survivors[-1]
    assert {code for code, _ in result.ranking.scored} == set(evaluate.calls[-1])


def test_fixed_entries_of_mobilenetv2():
    space = space_of("MobileNetV2", operations=(1, 2))
    evaluate = Evaluator(noise(0))
    result = greedy_operation_search(space, evaluate)
    assert evaluate.calls[0] == [(0, 1), (0, 2)]
    assert [len(call[0]) for call in evaluate.calls] == list(range(2, 19))
    for code, score in result.ranking.scored:
        assert code in space and code[-2:] == (0, 0) and score == noise(0)(code[:-2])
    expected = algorithm_1([(0,), *[(1, 2)] * 17], noise(0), 3)
    assert result.ranking.best == (*expected[0], 0, 0)
    assert [code for code, _ in result.survivors[-1]] == expected


def test_failed_codes_of_mobilenetv2_are_whole():
    table = lambda code: None if len(code) == 18 and code[-1] == 1 else noise(0)(code)
    result = greedy_operation_search(space_of("MobileNetV2"), Evaluator(table))
    assert len(result.ranking.failed) == 3 and len(result.ranking.scored) == 6
    assert all(len(code) == 20 and code[17:] == (1, 0, 0) for code in result.ranking.failed)


def test_the_same_again():
    table = completed(space_of("ResNet50"), 7)
    first = greedy_operation_search(space_of("ResNet50"), Evaluator(table))
    assert first == greedy_operation_search(space_of("ResNet50"), Evaluator(table))


def test_ties_break_to_the_smaller_code():
    result = greedy_operation_search(SMALL, Evaluator(lambda code: 1.0))
    last = [(0,) * 4 + pair for pair in [(0, 0), (0, 1), (0, 2)]]
    assert [code for code, _ in result.survivors[-1]] == last
    assert result.ranking.best == (0,) * 6 and len(result.ranking.ties) == 9


def test_every_extension_of_a_step_failed():
    table = lambda code: None if len(code) == 3 else float(sum(code))
    evaluate = Evaluator(table)
    with pytest.raises(RuntimeError) as error:
        greedy_operation_search(SMALL, evaluate)
    assert "step 3 of 6" in str(error.value) and "all 9 extensions" in str(error.value)
    for code in ("2-2-0", "2-2-2", "1-2-1"):
        assert code in str(error.value)
    assert len(evaluate.calls) == 3


@pytest.mark.parametrize("survivors", [0, -3, 1.5, None])
def test_bad_survivors(survivors):
    evaluate = Evaluator(sum)
    with pytest.raises(ValueError, match=f"survivors is {survivors}; expected an integer"):
        greedy_operation_search(SMALL, evaluate, survivors)
    assert evaluate.calls == []


def test_nothing_to_choose():
    evaluate = Evaluator(sum)
    with pytest.raises(ValueError, match=r"operations are \(1,\); expected two or more"):
        greedy_operation_search(space_of("ResNet18", [1]), evaluate)
    assert evaluate.calls == []
