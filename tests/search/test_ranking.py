"""The order of scored codes, ties, and codes that failed."""

import subprocess
import sys
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hanging import HANGS_S

import crnas_d2
from crnas_d2.search.ranking import check_count, find_leader, format_codes, is_complete, rank

CODES = [(2, 1), (1, 2), (1, 1), (2, 2)]


def test_best_first_and_failed_apart():
    ranking = rank(CODES, [30.5, None, 31.0, 0.0])
    assert ranking.scored == (((1, 1), 31.0), ((2, 1), 30.5), ((2, 2), 0.0))
    assert ranking.scored[0].code == ranking.best == (1, 1) and ranking.scored[0].score == 31.0
    assert ranking.failed == ((1, 2),)
    assert ranking.ties == ()


def test_equal_scores_are_named_and_the_smaller_code_is_first():
    ranking = rank(CODES, [30.0, 30.0, 7.0, 30.0])
    assert ranking.best == (1, 2)
    assert ranking.ties == ((1, 2), (2, 1), (2, 2))
    assert rank(CODES, [1.0, 2.0, 1.0, 1.0]).ties == ()  # a tie below the best
    assert rank(CODES, [None, 2.0, None, None]).ties == ()
    assert rank(CODES, [3.0, 3.0, 1.0, 2.0]).ties == ((1, 2), (2, 1))


def test_the_leader_has_the_best_score_and_of_equal_ones_the_smaller_code():
    assert find_leader({(2, 1): 30.0, (1, 2): 31.0, (1, 1): 29.0}) == (1, 2)
    assert find_leader({(2, 1): 30.0, (1, 2): 30.0, (1, 1): 29.0}) == (1, 2)


def test_scores_are_complete_if_none_is_missing():
    assert is_complete([]) and is_complete([0.0, 1.0])
    assert not is_complete([0.0, None])


@pytest.mark.parametrize(
    "number, text", [(0, ""), (1, "0"), (3, "0, 1, 2"), (4, "0, 1, 2, and 1 more")]
)
def test_three_codes_are_shown_and_how_many_more_there_are(number, text):
    assert format_codes([(i,) for i in range(number)], shown=3) == text


def test_scores_are_not_rounded():
    above = np.nextafter(30.0, 31.0)
    ranking = rank(CODES[:2], [above, 30.0])
    assert ranking.best == (2, 1) and ranking.ties == () and ranking.scored[0].score == above


def test_the_order_of_the_codes_does_not_matter():
    rng = Random(0)
    table = {(i, i % 5): rng.choice([None, 1.0, 2.0, 2.5]) for i in range(40)}
    expected = rank(list(table), list(table.values()))
    for _ in range(5):
        codes = rng.sample(list(table), len(table))
        assert rank(codes, [table[code] for code in codes]) == expected
    assert [s.score for s in expected.scored] == sorted(
        (s for s in table.values() if s is not None), reverse=True
    )


def test_restrict():
    ranking = rank(CODES, [30.5, None, 31.0, 0.0])
    assert ranking.restrict([(2, 2), (2, 1), (9, 9)]) == rank([(2, 1), (2, 2)], [30.5, 0.0])
    assert ranking.restrict([(1, 2), (2, 2)]) == rank([(1, 2), (2, 2)], [None, 0.0])


def test_every_code_failed():
    ranking = rank(CODES, [None] * 4)
    assert ranking.scored == () and ranking.ties == ()
    assert ranking.failed == ((1, 1), (1, 2), (2, 1), (2, 2))
    with pytest.raises(RuntimeError, match="failed for all 4: 1-1, 1-2, 2-1, 2-2$"):
        ranking.best
    many = rank([(i,) for i in range(25)], [None] * 25)
    with pytest.raises(
        RuntimeError, match="for all 25: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, and 15 more$"
    ):
        many.best


def test_frozen():
    with pytest.raises(AttributeError):
        rank(CODES, [1.0] * 4).failed = ()


@pytest.mark.parametrize("score", [float("nan"), float("inf"), -float("inf"), "31", np.nan, [1.0]])
def test_bad_score(score):
    with pytest.raises(ValueError, match="score of 1-2 is .*; expected a finite number, or None"):
        rank(CODES, [1.0, score, 2.0, 3.0])


def test_bad_codes():
    with pytest.raises(ValueError, match="3 scores for 4 codes"):
        rank(CODES, [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="code 1-2 is there twice"):
        rank([(1, 1), (1, 2), (1, 2)], [1.0, 2.0, 2.0])


def test_scores_of_numpy():
    ranking = rank(CODES, np.array([1, 2, 3, 4], np.float32))
    assert ranking.best == (2, 2) and type(ranking.scored[0].score) is float


@pytest.mark.parametrize("number", [0, -1, 2.0, "3", None, True])
def test_bad_count(number):
    with pytest.raises(
        ValueError, match=f"survivors is {number!r}; expected an integer of at least 1"
    ):
        check_count("survivors", number)
    check_count("survivors", 1)


def test_strategies_need_neither_torch_nor_detectron2():
    """The packages around them may import both, so they are stood in for by empty ones."""
    root = Path(crnas_d2.__file__).parent
    program = f"""
import sys, types
sys.modules["torch"] = sys.modules["detectron2"] = None
for name, path in (("crnas_d2", {str(root)!r}), ("crnas_d2.search", {str(root / "search")!r})):
    package = sys.modules[name] = types.ModuleType(name)
    package.__path__ = [path]
from crnas_d2.architecture import Architecture
from crnas_d2.search.evolutionary_search import evolutionary_search
from crnas_d2.search.operation_search import greedy_operation_search
from crnas_d2.search.random_search import random_search
from crnas_d2.search.stage_search import stage_search
from crnas_d2.spaces import get_operation_space, get_stage_space
evaluate = lambda codes: list(map(sum, codes))
space = get_operation_space(Architecture((1, 1, 1, 1)))
print(stage_search(get_stage_space("resnet"), [16], evaluate)[16].best)
print(greedy_operation_search(space, evaluate).ranking.best)
print(random_search(space, evaluate, 81, 0).best, evolutionary_search(space, evaluate, 81, 0).best)
"""
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=HANGS_S, check=True
    )
    best = "(2, 2, 2, 2)"
    assert result.stdout.splitlines() == ["(1, 1, 3, 11)", best, f"{best} {best}"]
