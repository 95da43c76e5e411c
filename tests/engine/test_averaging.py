"""Averaged weights: their values, where they are used, and that a resume does not change them."""

import copy

import pytest
import torch
from runs import (
    NETWORKS,
    RANDOM,
    assert_same_state,
    checkpoints,
    copy_checkpoint,
    copy_of_state,
    last_checkpoint,
    mixed_data,
    run_trainer,
    train,
)

from crnas_d2.engine import CRTrainer
from crnas_d2.engine.averaging import WeightAveraging
from crnas_d2.engine.hooks import find_supernet

from detectron2.engine.hooks import CallbackHook

EMA = ["SOLVER.EMA.DECAY", 0.5]


def decay_of(step, decay):
    """By which the average counts after a step, from 0."""
    return min(decay, (1 + step) / (10 + step)) if step else 0.0


def average_by_hand(states, decay):
    """Of state dicts, in double precision."""
    average = {}
    for step, state in enumerate(states):
        d = decay_of(step, decay)
        for name, tensor in state.items():
            if tensor.is_floating_point():
                before = average.get(name, torch.zeros_like(tensor, dtype=torch.double))
                average[name] = d * before + (1 - d) * tensor.double()
            else:
                average[name] = tensor
    return average


def assert_average(state, expected):
    assert state.keys() == expected.keys()
    for name, tensor in state.items():
        torch.testing.assert_close(tensor.to(expected[name]), expected[name], rtol=1e-5, atol=1e-6)


class Seen:
    """The states after each step, and what was tested, of a training."""

    def __init__(self, monkeypatch):
        self.states, self.tested = [], []
        monkeypatch.setattr(CRTrainer, "_test_network", self._test)

    def _test(self, cfg, model, evaluators):
        self.tested.append(copy_of_state(model))
        return {"bbox": {"AP": float(len(self.tested) != 2)}}

    def __call__(self, trainer):
        model = trainer.model
        hook = CallbackHook(after_step=lambda _: self.states.append(copy_of_state(model)))
        trainer.register_hooks([hook])


def test_few_steps_by_hand():
    """4 steps of a model of one weight, one norm and one counter."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    model.register_buffer("constant", torch.tensor([0.1, 0.7]))
    averaging = WeightAveraging(model, 0.15)
    states = []
    for step in range(4):
        model(torch.randn(5, 2))
        with torch.no_grad():
            model[0].weight.add_(step + 1)
        averaging.after_step()
        states.append(copy_of_state(model))
    # d of steps 1, 2, 3 is 2/11 > 0.15, so 0.15
    weights = [state["0.weight"].double() for state in states]
    by_hand = 0.15**3 * weights[0] + 0.85 * (0.15**2 * weights[1] + 0.15 * weights[2] + weights[3])
    average = averaging.network.state_dict()
    torch.testing.assert_close(average["0.weight"].double(), by_hand, rtol=1e-6, atol=1e-6)
    assert_average(average, average_by_hand(states, 0.15))
    assert torch.equal(average["constant"], model.constant)
    assert average["1.num_batches_tracked"] == 4
    assert not torch.equal(average["1.running_var"], model[1].running_var)
    assert averaging.state_dict() == {"steps": 4}


def test_first_steps_count_less_than_the_decay():
    model = torch.nn.Linear(1, 1, bias=False)
    averaging = WeightAveraging(model, 0.999)
    values = []
    for value in (8.0, 19.0, 31.0):
        torch.nn.init.constant_(model.weight, value)
        averaging.after_step()
        values.append(averaging.network.weight.item())
    # d = 2/11, then 3/12
    assert values == pytest.approx([8.0, 17.0, 27.5])


@pytest.mark.parametrize("network", ["detector", "stage"])
def test_what_is_tested_and_saved(tiny_config, tmp_path, monkeypatch, network):
    seen, output = Seen(monkeypatch), tmp_path / "output"
    options = [*NETWORKS[network], *EMA, "SOLVER.MAX_ITER", 4, "SOLVER.CHECKPOINT_PERIOD", 3]
    metric = "bbox/AP"
    if network == "stage":
        options += ["MODEL.SUPERNET.TEST_PATHS", "[[1, 2, 3, 1]]"]
        metric = f"1-2-3-1/{metric}"
    options += ["TEST.EVAL_PERIOD", 2, "TEST.BEST_METRIC", metric]
    trainer = run_trainer(tiny_config, *options, change=seen)
    expected = [average_by_hand(seen.states[: n + 1], 0.5) for n in range(4)]
    final = torch.load(output / "model_final.pth", weights_only=True)
    assert_average(final["model"], expected[3])
    assert not torch.equal(
        final["model"]["proposal_generator.rpn_head.conv.weight"],
        seen.states[3]["proposal_generator.rpn_head.conv.weight"],
    )
    assert [len(seen.tested), trainer.model.training] == [2, True]
    assert_average(seen.tested[0], expected[1])
    assert_same_state(seen.tested[1], dict(final["model"]))
    best = torch.load(output / "model_best.pth", weights_only=True)
    assert_same_state(dict(best["model"]), seen.tested[0])
    assert "_trainer" not in final["trainer"].keys() | best["trainer"].keys()
    periodic = torch.load(output / "model_0000002.pth", weights_only=True)
    assert_average(periodic["model"], expected[2])
    assert_same_state(dict(periodic["trainer"]["_trainer"]["trained_weights"]), seen.states[2])


def test_off_path_weights_are_averaged_over_all_steps(tiny_config, monkeypatch):
    """A weight that rests between two steps is drawn towards its value all the same."""
    seen = Seen(monkeypatch)
    options = [*NETWORKS["stage"], *EMA, "SOLVER.MAX_ITER", 6, "DATASETS.TEST", "()"]
    trainer = run_trainer(tiny_config, *options, change=seen)
    name = "backbone.bottom_up.res4.ops.{}.0.conv1.weight"
    rested = set()
    for entry in (1, 2, 3):
        key = name.format(entry)
        values = [state[key] for state in seen.states]
        rested |= {entry for a, b in zip(values, values[1:]) if torch.equal(a, b)}
        expected = average_by_hand([{key: value} for value in values], 0.5)
        assert_average({key: trainer._averaging.network.state_dict()[key]}, expected)
    assert rested == {1, 2, 3}
    assert find_supernet(trainer._averaging.network) is not find_supernet(trainer.model)


@pytest.mark.parametrize("network", ["stage", "retinanet"])
def test_resumed_with_averages(tiny_config, tmp_path, network):
    options = [
        *NETWORKS[network],
        *RANDOM,
        *mixed_data(tmp_path / "mixed"),
        *EMA,
        *("SOLVER.MAX_ITER", 4, "SOLVER.CHECKPOINT_PERIOD", 1, "SOLVER.CHECKPOINTS_TO_KEEP", 5),
    ]
    whole = tmp_path / "output"
    train(tiny_config, *options)
    for iteration in (0, 2):
        output = tmp_path / f"resumed_at_{iteration}"
        copy_checkpoint(whole / f"model_{iteration:07d}.pth", output)
        train(tiny_config, "--resume", *options, "OUTPUT_DIR", output)
        assert_same_state(last_checkpoint(output), last_checkpoint(whole))
        final = "model_final.pth"
        assert_same_state(
            *(torch.load(folder / final, weights_only=True) for folder in (output, whole))
        )


def test_trains_as_without_it(tiny_config, tmp_path):
    options = [*RANDOM, *mixed_data(tmp_path / "mixed"), "SOLVER.MAX_ITER", 3]
    output = tmp_path / "output"
    train(tiny_config, *options, "OUTPUT_DIR", tmp_path / "plain")
    train(tiny_config, *options, *EMA)
    plain, averaged = last_checkpoint(tmp_path / "plain"), last_checkpoint(output)
    of_optimizer = averaged["trainer"]["_trainer"]
    assert_same_state(dict(of_optimizer.pop("trained_weights")), dict(plain["model"]))
    averaged["trainer"]["hooks"].pop("WeightAveraging")
    assert_same_state(averaged["trainer"], plain["trainer"])
    assert checkpoints(output) == checkpoints(tmp_path / "plain")


def test_turned_on_and_off_where_a_training_goes_on(tiny_config, tmp_path):
    """Turned on, it begins with the next step; turned off, the trained weights go on."""
    options = [*RANDOM, *mixed_data(tmp_path / "mixed"), "SOLVER.CHECKPOINT_PERIOD", 1]
    output = tmp_path / "output"
    states = {}
    for iterations, ema in ((2, []), (3, EMA), (4, EMA), (5, [])):
        train(tiny_config, "--resume", *options, *ema, "SOLVER.MAX_ITER", iterations)
        saved = last_checkpoint(output)
        states[iterations] = copy.deepcopy(saved)
        if iterations == 3:
            trained = saved["trainer"]["_trainer"]["trained_weights"]
            assert_same_state(dict(trained), dict(saved["model"]))
    plain = tmp_path / "plain"
    train(tiny_config, *options, "SOLVER.MAX_ITER", 5, "OUTPUT_DIR", plain)
    assert states[4]["trainer"]["hooks"]["WeightAveraging"] == {"steps": 2}
    assert_same_state(dict(states[5]["model"]), dict(last_checkpoint(plain)["model"]))


def test_starts_from_weights(tiny_config, tmp_path):
    """The averaged weights of a training are those that another one starts from."""
    options = ["DATASETS.TEST", "()", *EMA]
    train(tiny_config, *options, "OUTPUT_DIR", tmp_path / "first")
    weights = tmp_path / "first" / "model_final.pth"
    started = []
    run_trainer(
        tiny_config,
        *options,
        *("MODEL.WEIGHTS", weights, "SOLVER.MAX_ITER", 1),
        change=lambda t: started.extend(map(copy_of_state, (t.model, t._averaging.network))),
    )
    expected = dict(torch.load(weights, weights_only=True)["model"])
    assert_same_state(started, [expected, expected])


def test_precise_statistics_are_those_of_the_averaged_weights(tiny_config, tmp_path):
    options = [
        *RANDOM,
        *mixed_data(tmp_path / "mixed"),
        *EMA,
        *("TEST.PRECISE_BN.ENABLED", "True", "TEST.PRECISE_BN.NUM_ITER", 2),
        *("TEST.EVAL_PERIOD", 2, "SOLVER.MAX_ITER", 5),
        *("SOLVER.CHECKPOINT_PERIOD", 1, "SOLVER.CHECKPOINTS_TO_KEEP", 6),
    ]
    whole, output = tmp_path / "output", tmp_path / "resumed"
    trainer = run_trainer(tiny_config, *options)
    saved = last_checkpoint(whole)
    hook = next(h for h in trainer._hooks if type(h).__name__ == "PreciseBN")
    before = copy_of_state(trainer._averaging.network)
    assert_same_state(dict(saved["model"]), before)
    copy_checkpoint(whole / "model_0000002.pth", output)
    train(tiny_config, "--resume", *options, "OUTPUT_DIR", output)
    assert_same_state(last_checkpoint(output), saved)
    assert hook._model is trainer._averaging.network
