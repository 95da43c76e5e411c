import math
import os
import signal
from collections import Counter
from itertools import product
from types import SimpleNamespace

import pytest
import torch
from runs import NETWORKS, assert_same_state, checkpoints, last_checkpoint, run_trainer, train
from scipy.stats import chisquare

from crnas_d2.architecture import ARCHITECTURES
from crnas_d2.checkpoint.checkpointer import find_checkpoint
from crnas_d2.engine.hooks import (
    SAMPLINGS,
    LossNormalizer,
    ProcessCount,
    StopOnSignal,
    UniformPathSampling,
    find_supernet,
)
from crnas_d2.engine.step_message import StepMessage
from crnas_d2.modeling import StageSupernet
from crnas_d2.modeling.cr_resnet import ResNetStages
from crnas_d2.spaces import get_operation_space, get_stage_space

from detectron2.engine import TrainerBase
from detectron2.engine.hooks import CallbackHook

SPACES = {
    "stage": get_stage_space("resnet"),
    "stage of MobileNetV2": get_stage_space("mobilenetv2"),
    "operations of R18": get_operation_space(ARCHITECTURES["ResNet18"]),
    "operations of MobileNetV2": get_operation_space(ARCHITECTURES["SCR-MobileNetV2"]),
}


def draw(space, iterations, seed=0):
    hook = UniformPathSampling(SimpleNamespace(space=space), seed)
    return [hook.path(iteration) for iteration in range(iterations)]


@pytest.mark.parametrize("name", SPACES)
def test_choices_are_uniform(name):
    space = SPACES[name]
    paths = draw(space, 4000)
    p_values = []
    for unit in space.units:
        counts = Counter(path[unit.index] for path in paths)
        assert counts.keys() == set(unit.choices)
        p_values.append(chisquare(list(counts.values())).pvalue)
    assert min(p_values) > 0.01 / len(p_values)  # Bonferroni: 1 % that a uniform draw fails
    for index, choices in enumerate(space.choices):
        if len(choices) == 1:
            assert {path[index] for path in paths} == set(choices)


def test_paths_are_uniform_over_the_space():
    """Units are drawn independently, and no budget is looked at."""
    space = get_stage_space("resnet", [[1, 2, 5], [1, 3], [2, 4], [1, 2, 3]])
    paths = draw(space, 3600)
    counts = Counter(paths)
    assert counts.keys() == set(product(*space.choices))
    assert chisquare(list(counts.values())).pvalue > 0.01
    iterations = zip(paths, paths[1:])
    pairs = Counter((a[0], b[0]) for a, b in iterations)  # nor do iterations depend on each other
    assert len(pairs) == 9
    assert chisquare(list(pairs.values())).pvalue > 0.01


def test_path_is_a_function_of_seed_and_iteration():
    space = SPACES["stage"]
    paths = draw(space, 200)
    torch.manual_seed(3)
    backwards = UniformPathSampling(SimpleNamespace(space=space), 0)
    assert [backwards.path(i) for i in reversed(range(200))] == paths[::-1]
    same = sum(a == b for a, b in zip(paths, draw(space, 200, seed=1)))
    assert same < 5
    assert draw(space, 200, seed=1) == draw(space, 200, seed=1)
    # What seed 0 has always drawn: with another draw, no old run could be repeated.
    assert paths[:3] == [(4, 7, 20, 6), (8, 5, 14, 6), (8, 4, 23, 13)]


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_path_is_set_before_each_step(sampling):
    space = get_stage_space("resnet", [[1, 2], [1, 2], [1, 2], [1, 2]])
    stages = ResNetStages(block="basic", stem_out_channels=8, res2_out_channels=8)
    supernet = StageSupernet(stages, space)
    model = torch.nn.Sequential(torch.nn.Identity(), supernet)
    assert find_supernet(model) is supernet
    assert find_supernet(model[0]) is None

    trained = []

    class Trainer(TrainerBase):
        def run_step(self):
            trained.append(supernet.path)

    trainer = Trainer()
    trainer.register_hooks([SAMPLINGS[sampling](find_supernet(model), 5)])
    trainer.train(10, 20)
    cycles = [space.sample_in_cycles(5, iteration) for iteration in range(20)]
    assert trained == {"uniform": draw(space, 20, seed=5), "cycles": cycles}[sampling][10:]


@pytest.mark.parametrize("start", [0, 3])  # of a resumed training, too
def test_training_in_cycles(tiny_config, tmp_path, start):
    """Of 6 iterations each choice of two has 3, each one of three has 2."""
    paths = []

    def see(trainer):
        supernet = find_supernet(trainer.model)
        trainer.register_hooks([CallbackHook(after_step=lambda _: paths.append(supernet.path))])

    options = [*NETWORKS["stage"], "MODEL.SUPERNET.SAMPLING", "cycles", "DATASETS.TEST", "()"]
    if start:
        run_trainer(tiny_config, *options, "SOLVER.MAX_ITER", start)
    run_trainer(tiny_config, "--resume", *options, "SOLVER.MAX_ITER", 6, change=see)
    space = get_stage_space("resnet", [[1, 2], [1, 2], [1, 2, 3], [1, 2]])
    assert paths == [space.sample_in_cycles(0, iteration) for iteration in range(start, 6)]
    if not start:
        assert [Counter(entries) for entries in zip(*paths)] == [
            *2 * [{1: 3, 2: 3}],
            {1: 2, 2: 2, 3: 2},
            {1: 3, 2: 3},
        ]


class SlowStep(TrainerBase):
    """Gets a SIGTERM in the middle of an iteration."""

    def __init__(self, signalled_at):
        super().__init__()
        self.signalled_at = signalled_at
        self.message = StepMessage()
        self.register_hooks([StopOnSignal(self.message)])
        self.finished = []
        self.saved = []
        self.checkpointer = SimpleNamespace(
            save=lambda name, iteration: self.saved.append((name, iteration, len(self.finished)))
        )

    def run_step(self):
        if self.iter == self.signalled_at:
            os.kill(os.getpid(), signal.SIGTERM)
        self.message.exchange({})
        self.finished.append(self.iter)


def test_sigterm_saves_after_the_step():
    previous = signal.getsignal(signal.SIGTERM)
    trainer = SlowStep(signalled_at=2)
    with pytest.raises(SystemExit) as exited:
        trainer.train(0, 5)
    assert exited.value.code == 143
    assert trainer.finished == [0, 1, 2]
    assert trainer.saved == [("model_0000002", 2, 3)]
    assert signal.getsignal(signal.SIGTERM) is previous


def test_without_sigterm_nothing_is_saved():
    previous = signal.getsignal(signal.SIGTERM)
    trainer = SlowStep(signalled_at=None)
    trainer.train(0, 3)
    assert (trainer.finished, trainer.saved) == ([0, 1, 2], [])
    assert signal.getsignal(signal.SIGTERM) is previous


@pytest.mark.parametrize("network", ["detector", "stage"])
def test_diverged_run_stops_and_keeps_the_last_good_checkpoint(
    tiny_config, tmp_path, monkeypatch, network
):
    """The loss is not finite, with predictions that are."""
    output = tmp_path / "output"
    options = [*NETWORKS[network], "SOLVER.MAX_ITER", 8, "DATASETS.TEST", "()"]
    monkeypatch.setattr(
        "detectron2.modeling.roi_heads.fast_rcnn.cross_entropy",
        lambda *args, **kwargs: (
            torch.nn.functional.cross_entropy(*args, **kwargs)
            * (math.nan if len(checkpoints(output)) == 2 else 1)
        ),
    )
    with pytest.raises(FloatingPointError) as error:
        train(tiny_config, *options)
    message = str(error.value)
    assert "diverged at iteration 4" in message
    assert "losses of rank 0 are {'loss_cls': nan, 'loss_box_reg': 0." in message
    if network == "stage":
        path = UniformPathSampling(
            SimpleNamespace(space=get_stage_space("resnet", [[1, 2], [1, 2], [1, 2, 3], [1, 2]])), 0
        ).path(4)
        assert f"path {list(path)}" in message
    assert checkpoints(output) == ["model_0000001.pth", "model_0000003.pth"]
    assert find_checkpoint(str(output)) == str(output / "model_0000003.pth")

    monkeypatch.undo()
    train(tiny_config, "--resume", *options)
    train(tiny_config, *options, "OUTPUT_DIR", tmp_path / "never_diverged")
    assert_same_state(last_checkpoint(output), last_checkpoint(tmp_path / "never_diverged"))


@pytest.mark.parametrize("of_ranks, expected", [([5.0], 5.0), ([1.0, 3.0], 2.0)])
def test_loss_normalizer_of_as_many_ranks_or_others(of_ranks, expected):
    model = SimpleNamespace(loss_normalizer=7.0)
    message = StepMessage()
    hook = LossNormalizer(model, message)
    assert not hook.state_dict()
    message.exchange({})
    hook.after_step()
    assert hook.state_dict() == {"of_ranks": [7.0]}
    hook.load_state_dict({"of_ranks": of_ranks})
    assert model.loss_normalizer == expected
    assert hook.state_dict() == {"of_ranks": of_ranks}


def test_another_number_of_processes_is_told(caplog):
    hook = ProcessCount()
    with caplog.at_level("WARNING"):
        hook.load_state_dict(hook.state_dict())
        assert not caplog.records
        hook.load_state_dict({"processes": 2})
    assert "the training ran in 2 process(es) and goes on in 1" in caplog.text


HUGE = ["SOLVER.BASE_LR", 1e12, "SOLVER.MAX_ITER", 8, "DATASETS.TEST", "()"]
NORMS = ("MODEL.FPN.NORM", "BN")  # which keep the losses finite for longer


def test_too_high_a_learning_rate_is_told_with_iteration_and_path(tiny_config):
    """Here Detectron2's RPN is the first to see that predictions are not finite."""
    with pytest.raises(FloatingPointError, match=r"diverged at iteration \d+, path \[\d, .*Inf"):
        train(tiny_config, *NETWORKS["stage"], *HUGE, *NORMS, "SOLVER.CHECKPOINT_PERIOD", 8)


def test_parameters_that_are_not_finite_are_not_saved(tiny_config, tmp_path):
    """The losses of that iteration are finite."""
    output = tmp_path / "output"
    leap = ["SOLVER.STEPS", (3,), "SOLVER.GAMMA", "3e40", "SOLVER.CHECKPOINT_PERIOD", 1]
    with pytest.raises(FloatingPointError, match="model_0000003.pth is not saved: .*box_predictor"):
        train(tiny_config, *leap, "SOLVER.MAX_ITER", 8, "DATASETS.TEST", "()")
    assert checkpoints(output) == [f"model_{i:07d}.pth" for i in range(3)]
    saved = last_checkpoint(output)
    assert saved["iteration"] == 2
    assert all(tensor.isfinite().all() for tensor in saved["model"].values())
