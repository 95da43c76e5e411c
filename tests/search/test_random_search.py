"""Random search: distinct, uniform, and the same with the same seed."""

from collections import Counter
from random import Random

import pytest
from made_tables import Evaluator, noise

from crnas_d2 import ARCHITECTURES, Architecture
from crnas_d2.search.random_search import draw_paths, random_search
from crnas_d2.spaces import get_operation_space, get_stage_space

RESNET50 = get_operation_space(ARCHITECTURES["SCR-ResNet50"])
SMALL = get_operation_space(Architecture((1, 1, 1, 1)))  # 81 paths


@pytest.mark.parametrize(
    "space",
    [RESNET50, get_operation_space(ARCHITECTURES["MobileNetV2"]), get_stage_space("resnet")],
    ids=["operations of ResNet50", "operations of MobileNetV2", "stages of ResNet"],
)
@pytest.mark.parametrize("evaluations", [1, 138])
def test_as_many_distinct_paths_as_asked_for(space, evaluations):
    evaluate = Evaluator(noise(0))
    ranking = random_search(space, evaluate, evaluations, seed=3)
    (codes,) = evaluate.calls
    assert len(codes) == evaluations and codes == sorted(set(codes))
    assert all(code in space for code in codes)
    assert ranking.best == max(codes, key=noise(0))
    assert sorted(code for code, _ in ranking.scored) == codes


@pytest.mark.parametrize("evaluations", [80, 81, 82, 10_000])
def test_a_space_with_few_paths(evaluations):
    evaluate = Evaluator(noise(0))
    random_search(SMALL, evaluate, evaluations, seed=0)
    (codes,) = evaluate.calls
    assert len(codes) == min(81, evaluations) and set(codes) <= set(SMALL)
    assert codes == sorted(set(codes))


def test_the_seed_decides():
    drawn = []
    for seed in (0, 0, 1, -1):
        evaluate = Evaluator(noise(0))
        random_search(RESNET50, evaluate, 20, seed)
        drawn.append(tuple(evaluate.codes))
    assert drawn[0] == drawn[1] and len(set(drawn)) == 3


def test_a_seed_gives_these_paths_everywhere():
    evaluate = Evaluator(noise(0))
    random_search(SMALL, evaluate, 5, seed=0)
    paths = [(0, 0, 0, 1), (0, 1, 0, 2), (0, 1, 1, 2), (1, 2, 1, 2), (2, 2, 0, 0)]
    assert evaluate.codes == paths


def test_paths_are_drawn_uniformly():
    """5 of 81 paths, 4,000 times; each path alike, by chi-square with 80 degrees of freedom."""
    rng = Random(0)
    counts = Counter(code for _ in range(4000) for code in draw_paths(SMALL, rng, 5))
    expected = 4000 * 5 / 81
    statistic = sum((counts[code] - expected) ** 2 for code in SMALL) / expected
    assert statistic < 135.8  # exceeded with probability 1e-4


def test_known_paths_are_not_drawn():
    paths = list(SMALL)
    known = set(paths[::2])
    assert draw_paths(SMALL, Random(0), 40, known) == paths[1::2]
    assert draw_paths(SMALL, Random(0), 50, known) == paths[1::2]
    drawn = draw_paths(SMALL, Random(0), 39, known)
    assert len(set(drawn)) == 39 and not set(drawn) & known
    assert draw_paths(SMALL, Random(0), 3, set(paths)) == []
    assert draw_paths(SMALL, Random(0), 0, known) == []


def test_failed_paths_are_not_ranked():
    table = lambda code: None if code[0] == 1 else noise(0)(code)
    ranking = random_search(SMALL, Evaluator(table), 81, seed=0)
    assert len(ranking.failed) == 27 and len(ranking.scored) == 54
    assert ranking.best == max((c for c in SMALL if c[0] != 1), key=noise(0))


@pytest.mark.parametrize("evaluations", [0, -1, 10.0])
def test_bad_evaluations(evaluations):
    evaluate = Evaluator(sum)
    with pytest.raises(ValueError, match=f"evaluations is {evaluations}; expected an integer"):
        random_search(SMALL, evaluate, evaluations, seed=0)
    assert evaluate.calls == []
