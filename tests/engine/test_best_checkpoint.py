"""model_best.pth: that of the best test, after any resume."""

import math
import os
import signal

import pytest
import torch
from runs import NETWORKS, assert_same_state, checkpoints, last_checkpoint, train

from crnas_d2.checkpoint.checkpointer import find_checkpoint
from crnas_d2.engine import CRTrainer

BEST = [
    *("TEST.BEST_METRIC", "bbox/AP", "TEST.EVAL_PERIOD", 1),
    *("SOLVER.MAX_ITER", 5, "SOLVER.CHECKPOINT_PERIOD", 2),
]


class Killed(Exception):
    """As if the process were gone."""


@pytest.fixture
def run(tiny_config, monkeypatch):
    """Train with tests that give these values, one for each iteration."""

    def run(values, *options, resume=False):
        def test(trainer, *_):
            value = values[min(trainer.iter, trainer.max_iter - 1)]
            if value is Killed:
                raise Killed
            return {"bbox": {"AP": value, "AP50": value / 10}}

        monkeypatch.setattr(CRTrainer, "test", test)
        train(tiny_config, *["--resume"] * resume, *BEST, *options)

    at_sigterm = signal.getsignal(signal.SIGTERM)
    yield run
    signal.signal(signal.SIGTERM, at_sigterm)  # which a killed training has not restored


def best(output):
    return torch.load(output / "model_best.pth", weights_only=True)


def test_the_best_one_is_kept(run, tmp_path):
    output = tmp_path / "output"
    keep = ["SOLVER.CHECKPOINT_PERIOD", 1, "SOLVER.CHECKPOINTS_TO_KEEP", 9]
    run([10, 30, 20, 30, math.nan], *keep)
    assert best(output)["iteration"] == 1  # of equal ones, the first
    assert_same_state(
        best(output)["model"],
        torch.load(output / "model_0000001.pth", weights_only=True)["model"],
    )
    assert last_checkpoint(output)["iteration"] == 4
    run([1, 2, 3, 4, 5])  # a new run knows nothing of the one before
    assert best(output)["iteration"] == 4
    assert_same_state(best(output)["model"], last_checkpoint(output)["model"])


@pytest.mark.parametrize("killed_at", [2, 3, 4])
@pytest.mark.parametrize("values", [[10, 30, 20, 15, 25], [30, 10, 20, 15, 25], [1, 2, 3, 4, 5]])
def test_resumed_it_knows_the_best(run, tmp_path, values, killed_at):
    """Killed at 2 or 3, what follows is the checkpoint that was saved just before the best test."""
    output = tmp_path / "output"
    with pytest.raises(Killed):
        run([*values[:killed_at], *[Killed] * 5])
    run(values, resume=True)
    run(values, "OUTPUT_DIR", tmp_path / "whole")
    resumed, whole = best(output), best(tmp_path / "whole")
    for saved in (resumed, whole):
        del saved["trainer"]["iteration"]  # at its end, Detectron2 counts on in a finished run
    assert_same_state(resumed, whole)
    assert resumed["iteration"] == values.index(max(values))


def test_another_metric_begins_anew(run, tmp_path):
    output = tmp_path / "output"
    with pytest.raises(Killed):
        run([50, 40, Killed])
    with pytest.raises(Killed):
        run([50, 40, 30, Killed], "TEST.BEST_METRIC", "bbox/AP50", resume=True)
    assert best(output)["iteration"] == 2
    state = best(output)["trainer"]["hooks"]["BestCheckpointer"]
    assert state == {"metric": "bbox/AP50", "value": 3.0, "iteration": 2}


def test_a_test_without_the_metric_changes_nothing(run, tmp_path, capsys):
    run([1, 2, 3, 4, 5], "TEST.BEST_METRIC", "bbox/AP-red")
    assert "bbox/AP-red of this test is nan: model_best.pth" in capsys.readouterr().out
    assert not (tmp_path / "output" / "model_best.pth").exists()


def test_a_run_never_goes_on_from_the_best_one(run, tmp_path):
    output = tmp_path / "output"
    run([1, 2, 3, 4, 5])
    assert find_checkpoint(str(output)) == str(output / "model_final.pth")
    os.truncate(output / "model_final.pth", 100)
    assert find_checkpoint(str(output)) == str(output / "model_0000004.pth")
    assert checkpoints(output)[0] == "model_0000003.pth"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["TEST.EVAL_PERIOD", 0], "'bbox/AP' and TEST.EVAL_PERIOD 0; expected a period"),
        (["TEST.BEST_METRIC", "bbox/ap"], "is 'bbox/ap'; expected one of bbox/AP, bbox/AP50"),
        (["TEST.BEST_METRIC", "segm/AP"], "is 'segm/AP'; expected one of bbox/AP"),
        (["DATASETS.TEST", "()"], "no test gives a result"),
        (NETWORKS["stage"], "no test gives a result"),
        (
            [*NETWORKS["stage"], "MODEL.SUPERNET.TEST_PATHS", "[[1, 1, 1, 1]]"],
            "expected one of 1-1-1-1/bbox/AP",
        ),
    ],
)
def test_what_no_test_gives_is_refused(tiny_config, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        train(tiny_config, *BEST, *arguments)
    assert not (tmp_path / "output").exists()


def test_of_a_path_of_a_supernet_and_of_one_test_set_of_two(tiny_config, tmp_path):
    stage = [*NETWORKS["stage"], "MODEL.SUPERNET.TEST_PATHS", "[[1, 2, 3, 1]]"]
    sets = f"tiny_{abs(hash(str(tmp_path)))}"
    two = ["DATASETS.TEST", (f"{sets}_val", f"{sets}_train")]
    metric = f"1-2-3-1/{sets}_train/bbox/AP"
    train(tiny_config, *stage, *two, *BEST, "TEST.BEST_METRIC", metric, "SOLVER.MAX_ITER", 2)
    assert best(tmp_path / "output")["trainer"]["hooks"]["BestCheckpointer"]["metric"] == metric
