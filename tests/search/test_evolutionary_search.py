"""The evolutionary search: how populations follow each other, and what that is good for."""

from itertools import accumulate
from random import Random
from statistics import mean

import pytest
from made_tables import Evaluator, best_of_separable, noise, separable

from crnas_d2 import ARCHITECTURES, Architecture
from crnas_d2.search.evolutionary_search import evolutionary_search
from crnas_d2.search.random_search import draw_paths, random_search
from crnas_d2.spaces import get_operation_space, get_stage_space

RESNET50 = get_operation_space(ARCHITECTURES["SCR-ResNet50"])
RESNET18 = get_operation_space(ARCHITECTURES["SCR-ResNet18"])
SMALL = get_operation_space(Architecture((1, 1, 1, 1)))  # 81 paths
SPACES = {
    "operations of ResNet50": RESNET50,
    "operations of MobileNetV2": get_operation_space(ARCHITECTURES["MobileNetV2"]),
    "stages of ResNet": get_stage_space("resnet"),
}


def changes(code, parent):
    return sum(a != b for a, b in zip(code, parent, strict=True))


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("evaluations", [1, 50, 51, 138, 300])
def test_as_many_distinct_paths_as_asked_for(name, evaluations):
    space = SPACES[name]
    evaluate = Evaluator(noise(0))
    ranking = evolutionary_search(space, evaluate, evaluations, seed=1)
    assert len(evaluate.codes) == len(set(evaluate.codes)) == evaluations
    assert [len(call) for call in evaluate.calls[:-1]] == [50] * ((evaluations - 1) // 50)
    assert all(call == sorted(call) for call in evaluate.calls)
    assert all(code in space for code in evaluate.codes)
    assert sorted(code for code, _ in ranking.scored) == sorted(evaluate.codes)
    assert ranking.best == max(evaluate.codes, key=noise(0))


@pytest.mark.parametrize("evaluations", [80, 81, 82, 10_000])
@pytest.mark.parametrize("population", [1, 7, 50, 500])
def test_a_space_with_few_paths(evaluations, population):
    """Crossover and mutation run dry here; random new paths fill the populations."""
    evaluate = Evaluator(noise(0))
    ranking = evolutionary_search(SMALL, evaluate, evaluations, seed=0, population=population)
    assert len(evaluate.codes) == len(set(evaluate.codes)) == min(81, evaluations)
    assert len(ranking.scored) == min(81, evaluations)
    if evaluations >= 81:
        assert ranking.best == max(SMALL, key=noise(0))


def test_the_hyper_parameters_are_those_of_the_paper():
    """Guo et al., section 4: a population of 50, the best 10 as parents, mutation with 0.1."""
    default, stated = Evaluator(noise(0)), Evaluator(noise(0))
    evolutionary_search(RESNET50, default, 200, seed=0)
    paper = {"population": 50, "parents": 10, "mutation_probability": 0.1}
    evolutionary_search(RESNET50, stated, 200, seed=0, **paper)
    assert default.calls == stated.calls


def test_the_first_population_is_that_of_random_search():
    evaluate, other = Evaluator(noise(0)), Evaluator(noise(0))
    evolutionary_search(RESNET50, evaluate, 100, seed=4)
    random_search(RESNET50, other, 50, seed=4)
    assert evaluate.calls[0] == other.codes
    random_search(RESNET50, other, 100, seed=4)
    assert set(evaluate.calls[0]) < set(other.calls[1])


def test_without_mutation_every_entry_is_one_of_a_parent():
    """Two parents that differ everywhere: a child of crossover alone mixes the two."""
    space = get_stage_space("resnet")
    evaluate = Evaluator(noise(6))
    evolutionary_search(space, evaluate, 8, 6, population=4, parents=2, mutation_probability=0)
    first, second = evaluate.calls
    a, b = sorted(first, key=noise(6))[-2:]
    assert all(x != y for x, y in zip(a, b))
    children = [c for c in second if all(entry in pair for entry, pair in zip(c, zip(a, b)))]
    assert len(children) == 2  # the other two are drawn, as mutation has nothing new


def test_parents_are_the_best_of_all_populations():
    """With one parent, there are only its mutants, in half of each population, and random paths."""
    table = separable(RESNET50, 3)
    evaluate = Evaluator(table)
    evolutionary_search(RESNET50, evaluate, 200, 3, population=20, parents=1)
    for before, population in zip(accumulate(evaluate.calls), evaluate.calls[1:]):
        parent = max(before, key=table)
        assert sum(changes(code, parent) <= 8 for code in population) >= 10


@pytest.mark.parametrize("probability", [0.1, 0.3, 1.0])
def test_mutation_draws_each_entry_again_with_the_probability(probability):
    """A population of one is a mutant of the best so far, here always the first path. Entries are
    drawn from 3 choices, so 2/3 of those drawn again change; a mutant without a change is made
    anew."""
    p = 2 / 3 * probability
    changed = []
    for seed in range(20):
        evaluate = Evaluator(lambda code: float(code == first))
        first = draw_paths(RESNET50, Random(str(seed)), 1)[0]
        evolutionary_search(RESNET50, evaluate, 31, seed, 1, 1, probability)
        assert evaluate.codes[0] == first
        changed += [changes(code, first) for code in evaluate.codes[1:]]
    # Three standard errors of 600 mutants, and for 0.1 what is lost as it was there before.
    expected, error = 16 * p / (1 - (1 - p) ** 16), 3 * (16 * p * (1 - p) / 600) ** 0.5
    assert expected - error < mean(changed) < expected + error + (0.5 if probability == 0.1 else 0)


@pytest.mark.parametrize("space", [RESNET18, RESNET50], ids=["ResNet18", "ResNet50"])
def test_better_than_random_search_on_separable_tables(space):
    """Under the number of evaluations of the greedy search."""
    evaluations = 3 + 9 * (len(space.units) - 1)
    gains = []
    for seed in range(40):
        table = separable(space, seed)
        optimum = table(best_of_separable(space, table))
        evolved = evolutionary_search(space, Evaluator(table), evaluations, seed).scored[0].score
        drawn = random_search(space, Evaluator(table), evaluations, seed).scored[0].score
        assert max(evolved, drawn) <= optimum + 1e-9
        gains.append(evolved - drawn)
    assert mean(gains) > 0.4 and sum(gain >= 0 for gain in gains) >= 36


def test_finds_the_optimum_of_a_separable_table():
    for seed in range(5):
        table = separable(RESNET50, seed)
        ranking = evolutionary_search(RESNET50, Evaluator(table), 1000, seed)
        assert ranking.best == best_of_separable(RESNET50, table)


def test_the_seed_decides():
    runs = []
    for seed in (0, 0, 1, -1):
        evaluate = Evaluator(noise(0))
        runs.append((evolutionary_search(RESNET50, evaluate, 120, seed), evaluate.calls))
    assert runs[0] == runs[1]
    assert all(runs[0][1][i] != runs[2][1][i] != runs[3][1][i] for i in range(3))


def test_equal_scores():
    ranking = evolutionary_search(RESNET50, Evaluator(lambda code: 1.0), 138, seed=0)
    assert len(ranking.ties) == 138 and ranking.best == min(ranking.ties)


def test_failed_paths_have_no_children():
    """Where every path of the first population but one fails, that one is the only parent."""
    evaluate = Evaluator(lambda code: 1.0)
    evolutionary_search(RESNET50, evaluate, 10, 2, population=10)
    parent = evaluate.codes[5]
    evaluate = Evaluator(lambda code: 1.0 if code == parent else None)
    ranking = evolutionary_search(RESNET50, evaluate, 100, 2, population=10)
    assert ranking.best == parent and len(ranking.failed) == 99
    for population in evaluate.calls[1:]:
        assert sum(changes(code, parent) <= 8 for code in population) >= 5


def test_every_path_failed():
    evaluate = Evaluator(lambda code: None)
    ranking = evolutionary_search(RESNET50, evaluate, 120, seed=0)
    assert len(set(evaluate.codes)) == 120 == len(ranking.failed)
    with pytest.raises(RuntimeError, match="failed for all 120"):
        ranking.best


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"evaluations": 0}, "evaluations is 0; expected an integer of at least 1"),
        ({"population": 0}, "population is 0; expected an integer of at least 1"),
        ({"parents": 2.5}, "parents is 2.5; expected an integer of at least 1"),
        ({"mutation_probability": 1.1}, "mutation_probability is 1.1; expected 0 to 1"),
        ({"mutation_probability": -0.1}, "mutation_probability is -0.1; expected 0 to 1"),
        ({"mutation_probability": float("nan")}, "mutation_probability is nan; expected 0 to 1"),
    ],
)
def test_bad_arguments(arguments, words):
    evaluate = Evaluator(sum)
    with pytest.raises(ValueError, match=words):
        evolutionary_search(SMALL, evaluate, **{"evaluations": 10, "seed": 0, **arguments})
    assert evaluate.calls == []


def test_a_bad_score_ends_the_search_at_once():
    evaluate = Evaluator(lambda code: float("nan"))
    with pytest.raises(ValueError, match="nan; expected a finite number, or None"):
        evolutionary_search(RESNET50, evaluate, 500, seed=0)
    assert len(evaluate.calls) == 1
