"""Latency as a cost: what is measured, what is predicted, and what a budget takes."""

import numpy as np
import pytest

from crnas_d2.search.latencies import AdditiveModel, Latencies
from crnas_d2.search.stage_search import eligible_codes
from crnas_d2.spaces import get_stage_space

RESNET, MOBILENET = get_stage_space("resnet"), get_stage_space("mobilenetv2")
SMALL = get_stage_space("resnet", [[1, 2, 3]] * 4)
R_50 = (3, 4, 6, 3)


def additive(space, seed=0):
    """A made machine on which each block of a stage takes the same time."""
    rng = np.random.default_rng(seed)
    blocks = rng.uniform(0.5, 2.0, len(space.choices))
    return lambda code: float(10 + np.dot(code, blocks))


def noisy(space, noise, seed=0):
    """The same, each code with a relative error of its own."""
    true, rng = additive(space, seed), np.random.default_rng(seed + 1)
    table = {code: true(code) * (1 + noise * rng.standard_normal()) for code in space}
    return table.__getitem__


def measure(space, machine, budgets=(), tolerance=0.02, at_most=False, baseline=R_50):
    """As a search does: what is missing, until nothing is. Returns the rounds, too."""
    measured, rounds = {}, []
    while True:
        found = Latencies(space, dict(measured), baseline, budgets, tolerance, at_most)
        missing = found.missing
        if not missing:
            return found, rounds
        assert not set(missing) & measured.keys() and len(set(missing)) == len(missing)
        rounds.append(missing)
        measured |= {code: machine(code) for code in missing}


@pytest.mark.parametrize("space", [RESNET, MOBILENET], ids=["resnet", "mobilenetv2"])
def test_an_additive_machine_is_predicted_exactly(space):
    machine = additive(space)
    baseline = next(iter(space))
    first = Latencies(space, {}, baseline, (), 0.02, False).missing
    assert len(first) < 32
    model = AdditiveModel.fit({code: machine(code) for code in first})
    assert model.error < 1e-9
    codes = list(space)
    assert model.predict(codes) == pytest.approx([machine(code) for code in codes], rel=1e-9)


def test_error_is_that_of_a_code_predicted_from_the_others():
    machine = noisy(SMALL, 0.05)
    measured = {code: machine(code) for code in list(SMALL)[::5]}
    errors = []
    for code, time in measured.items():
        others = {c: t for c, t in measured.items() if c != code}
        weights = 1 / np.array(list(others.values()))
        design = np.array([[1, *c] for c in others]) * weights[:, None]
        fitted = np.linalg.lstsq(design, np.ones(len(others)), rcond=None)[0]
        errors.append(abs(np.dot([1, *code], fitted) / time - 1))
    assert AdditiveModel.fit(measured).error == pytest.approx(max(errors), rel=1e-6)


@pytest.mark.parametrize("at_most", [False, True])
@pytest.mark.parametrize("noise", [0.0, 0.01])
@pytest.mark.parametrize("budgets", [(35.0,), (20.0, 50.0)])
def test_what_a_budget_takes_is_what_brute_force_takes(budgets, noise, at_most):
    machine = noisy(RESNET, noise)
    found, rounds = measure(RESNET, machine, budgets, 0.02, at_most)
    assert len(rounds) == 2
    expected = eligible_codes(RESNET, budgets, 0.02, machine, at_most)
    eligible = eligible_codes(RESNET, budgets, 0.02, found, at_most)
    chosen = [code for codes in eligible.values() for code in codes]
    true = [code for codes in expected.values() for code in codes]
    assert set(chosen) <= set(true) and set(chosen) <= found.measured.keys()
    assert len(chosen) >= (0.97 if noise else 1) * len(true)  # what is missed was far off by chance
    assert len(found.measured) < RESNET.size / 2


def test_small_spaces_are_measured_whole():
    machine = noisy(SMALL, 0.2)
    found, rounds = measure(SMALL, lambda c: 99.0 if c == R_50 else machine(c), (14.0,), 0.1)
    assert found.is_whole and rounds == [[R_50, *SMALL]]
    expected = eligible_codes(SMALL, [14.0], 0.1, machine)
    assert eligible_codes(SMALL, [14.0], 0.1, found) == expected


def test_without_budgets_it_is_the_baselines_latency():
    machine = additive(RESNET)
    found, rounds = measure(RESNET, machine, tolerance=0.01)
    assert rounds[0][0] == R_50
    near = [code for code in RESNET if abs(machine(code) / machine(R_50) - 1) <= 0.01]
    assert set(near) == set(rounds[1]) | (set(near) & set(rounds[0]))


def test_a_budget_out_of_reach_needs_no_further_measuring_and_is_refused_with_measured_numbers():
    machine = additive(RESNET)
    found, rounds = measure(RESNET, machine, (1000.0,))
    assert len(rounds) == 1
    longest = max(map(machine, RESNET))
    with pytest.raises(ValueError, match=f"the nearest costs are {longest}"):
        eligible_codes(RESNET, [1000.0], 0.02, found)
    assert any(machine(code) == longest for code in found.measured)


def test_too_many():
    with pytest.raises(ValueError, match="SEARCH.TOLERANCE is 0.9: .* of 10,000 stage codes"):
        measure(RESNET, additive(RESNET), (35.0,), 0.9)
    with pytest.raises(ValueError, match="SEARCH.TOLERANCE is 0: .*Expected a smaller tolerance"):
        measure(RESNET, additive(RESNET), (60.0,), 0, at_most=True)


def test_the_codes_do_not_depend_on_what_else_was_measured():
    """So that a search that goes on, with a table that has more, takes the same codes."""
    machine = noisy(RESNET, 0.01)
    found, _ = measure(RESNET, machine, (35.0,))
    more = {code: machine(code) for code in list(RESNET)[::3]}
    again = Latencies(RESNET, {**more, **found.measured}, R_50, (35.0,), 0.02, False)
    assert again.missing == []
    eligible = eligible_codes(RESNET, [35.0], 0.02, found)[35.0]
    assert set(eligible) <= set(eligible_codes(RESNET, [35.0], 0.02, again)[35.0])
