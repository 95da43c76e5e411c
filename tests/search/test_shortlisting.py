"""Short lists, without a detector: who is trained, for how long, who goes on and who wins."""

import itertools
from random import Random

import pytest

from crnas_d2 import Architecture
from crnas_d2.search.ranking import AllFailedError, rank
from crnas_d2.search.shortlist_result import RungResult, ShortlistResult
from crnas_d2.search.shortlisting import (
    Candidate,
    count_candidates,
    find_winner,
    pick_candidates,
    plan_rungs,
    promote,
)

SPACE = [code for code in itertools.product(range(1, 6), repeat=4) if sum(code) == 8]
BASELINE = (2, 2, 2, 2)


def make_ranking(size=len(SPACE), seed=0):
    codes = SPACE[:]
    Random(seed).shuffle(codes)
    return rank(codes[:size], [float(size - place) for place in range(size)])


def pick(ranking, codes, baseline=BASELINE, space=SPACE, seed=0):
    beside = [code for code in space if code != baseline]
    draw = lambda rng: rng.choice(space)
    return pick_candidates(ranking, baseline, codes, len(beside), draw, seed)


@pytest.mark.parametrize("place", [0, 3, 8, 20])
def test_candidates_are_the_baseline_the_best_and_one_at_random(place):
    ranking = make_ranking()
    baseline = ranking.scored[place].code
    first, *others = pick(ranking, 8, baseline)
    assert (first.code, first.origin, first.rank) == (baseline, "baseline", place + 1)
    expected = [s for s in ranking.scored if s.code != baseline][:8]
    assert [(c.code, c.score) for c in others[:8]] == expected
    assert [c.origin for c in others] == ["ranking"] * 8 + ["random"]
    ranks = {s.code: n for n, s in enumerate(ranking.scored, start=1)}
    assert all(c.rank == ranks[c.code] for c in others)
    assert others[8].code not in {c.code for c in [first, *others[:8]]}


def test_the_one_at_random_is_any_of_the_rest_and_is_seeded():
    ranking = make_ranking()
    drawn = [pick(ranking, 8, seed=seed)[-1].code for seed in range(2000)]
    top = [c.code for c in pick(ranking, 8)[:9]]
    rest = set(SPACE) - set(top)
    assert set(drawn) == rest
    counts = [drawn.count(code) for code in rest]
    expected = 2000 / len(rest)
    assert max(abs(n - expected) for n in counts) < 5 * expected**0.5
    assert drawn[7] == pick(ranking, 8, seed=7)[-1].code


def test_a_short_ranking_is_filled_up_at_random():
    candidates = pick(make_ranking(3), 8)
    ranked = [c for c in candidates if c.rank]
    assert len(candidates) == 10 == len({c.code for c in candidates})
    assert {c.code for c in ranked} == {s.code for s in make_ranking(3).scored}
    assert [c.origin for c in candidates[-6:]] == ["random"] * 6


def test_a_baseline_outside_of_the_space_and_a_space_of_few():
    outside = (9, 9, 9, 9)
    candidates = pick(make_ranking(), 3, outside)
    assert [c.origin for c in candidates] == ["baseline", *["ranking"] * 3, "random"]
    assert candidates[0].rank is candidates[0].score is None
    few = SPACE[:2]
    candidates = pick(rank(few, [1.0, 2.0]), 8, few[0], few)
    assert [c.code for c in candidates] == few
    assert [c.code for c in pick(rank(few[:1], [1.0]), 8, few[0], few[:1])] == few[:1]


@pytest.mark.parametrize("factor", [1, 2, 3, 4])
def test_rungs_by_brute_force(factor):
    """Each rung has one in ``factor`` of the others before; there is none of fewer than two."""
    for candidates in range(1, 60):
        rungs = plan_rungs(candidates, 0.5, factor)
        if candidates == 1:
            assert rungs == []
            continue
        others = [candidates - 1]
        while factor > 1:
            kept = sum(1 for place in range(1, others[-1] + 1) if place % factor == 0)
            if kept < 2:
                break
            others.append(kept)
        assert [rung.candidates - 1 for rung in rungs] == others
        assert rungs[-1].share == 0.5
        for before, after in itertools.pairwise(rungs):
            assert after.share == pytest.approx(before.share * factor)
            assert after.candidates - 1 >= 2


def test_rungs_of_ten_candidates():
    shares = [(rung.candidates, rung.share) for rung in plan_rungs(10, 0.5, 2)]
    assert shares == [(10, 0.125), (5, 0.25), (3, 0.5)]
    assert [(r.candidates, r.share) for r in plan_rungs(10, 1, 3)] == [(10, 1 / 3), (4, 1)]
    assert [(r.candidates, r.share) for r in plan_rungs(10, 1, 1)] == [(10, 1)]


def test_who_goes_on_by_brute_force():
    """Any candidate that goes on is better than any that does not, but for the baseline."""
    rng = Random(1)
    codes = SPACE[:7]
    for _ in range(300):
        scores = {c: [rng.choice([1.0, 2.0, 3.0, None]), rng.choice([1.0, 2.0])] for c in codes}
        baseline, count = rng.choice(codes), rng.randint(2, 7)
        on = promote(scores, baseline, count)
        alive = [c for c in codes if None not in scores[c]]
        others = [c for c in alive if c != baseline]
        assert on[0] == baseline and len(set(on)) == len(on)
        assert len(on) == 1 + min(count - 1, len(others))
        for stays, goes in itertools.product(set(others) - set(on), on[1:]):
            one, other = sum(scores[stays]), sum(scores[goes])
            assert (-other, goes) < (-one, stays)
        if not alive:
            with pytest.raises(AllFailedError, match="each candidate of the short list"):
                find_winner(scores, baseline)
            continue
        winner, best = find_winner(scores, baseline), max(sum(scores[c]) for c in alive)
        equal = [c for c in alive if sum(scores[c]) == best]
        assert winner == (baseline if baseline in equal else min(equal))


def test_halving_finds_the_best_where_ranks_do_not_cross():
    """And costs what was told before."""
    rng = Random(2)
    quality = {code: rng.random() for code in SPACE}
    candidates = pick(make_ranking(), 12)
    rungs = plan_rungs(count_candidates(12, len(SPACE) - 1), 1.0, 2)
    codes, spent = [c.code for c in candidates], 0.0
    for rung, after in itertools.zip_longest(rungs, rungs[1:]):
        assert len(codes) == rung.candidates
        spent += len(codes) * rung.share
        scores = {code: [100 * quality[code] * rung.share**0.5] for code in codes}
        codes = promote(scores, BASELINE, after.candidates) if after else codes
    assert find_winner(scores, BASELINE) == max((c.code for c in candidates), key=quality.get)
    assert spent == sum(rung.candidates * rung.share for rung in rungs)


def test_result_is_read_as_it_was_written(tmp_path):
    rungs = [
        RungResult(
            0.25, 3, 6, {(1, 1, 2, 1): [1.0, 2.0], (2, 1, 1, 1): [None, 4.0]}, [(1, 1, 2, 1)]
        ),
        RungResult(0.5, 6, 12, {(1, 1, 2, 1): [3.0, 4.5]}),
    ]
    candidates = [
        Candidate((1, 1, 2, 1), "baseline", 2, 0.5),
        Candidate((2, 1, 1, 1), "random"),
    ]
    architecture = Architecture((1, 1, 2, 1))
    result = ShortlistResult(
        *("stage", "stage_search", "", "bbox/AP", [1, 2]),
        *(candidates, rungs, (1, 1, 2, 1), architecture),
    )
    result.write(str(tmp_path))
    read = ShortlistResult.read(str(tmp_path))
    assert read.as_json() == result.as_json() and read.architecture == architecture
    assert read.baseline == candidates[0] and read.candidates == candidates
    assert read.rungs[0].means == {(1, 1, 2, 1): 1.5, (2, 1, 1, 1): None}
    assert read.scores == {(1, 1, 2, 1): [3.0, 4.5], (2, 1, 1, 1): [None, 4.0]}
    assert "| 2-1-1-1 " in read.table() and "wins" in read.table().splitlines()[2]
    (tmp_path / "result.json").write_text('{"step": "stage"}')
    with pytest.raises(ValueError, match="result.json is no result of a short list"):
        ShortlistResult.read(str(tmp_path))
