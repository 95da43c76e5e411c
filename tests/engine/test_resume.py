"""A run that was stopped and resumed is the run that was never stopped, to the last bit."""

import os
import signal

import pytest
from forked import run_forked
from runs import (
    NETWORKS,
    RANDOM,
    Run,
    assert_same_state,
    checkpoints,
    copy_checkpoint,
    last_checkpoint,
    mixed_data,
    parse,
    train,
)

from crnas_d2.engine import setup


@pytest.mark.parametrize("network", NETWORKS)
def test_resumed_at_any_iteration(tiny_config, tmp_path, network):
    iterations = 5
    options = [
        *NETWORKS[network],
        *RANDOM,
        *mixed_data(tmp_path / "mixed"),
        *("SOLVER.MAX_ITER", iterations, "SOLVER.STEPS", (2, 4)),
        *("SOLVER.CHECKPOINT_PERIOD", 1, "SOLVER.CHECKPOINTS_TO_KEEP", iterations + 1),
    ]
    whole = tmp_path / "output"
    train(tiny_config, *options, "DATALOADER.NUM_WORKERS", 0)
    for iteration in range(iterations - 1):
        output = tmp_path / f"resumed_at_{iteration}"
        copy_checkpoint(whole / f"model_{iteration:07d}.pth", output)
        workers = ["DATALOADER.NUM_WORKERS", 2 * (iteration % 2)]
        train(tiny_config, "--resume", *options, *workers, "OUTPUT_DIR", output)
        assert_same_state(last_checkpoint(output), last_checkpoint(whole))


RETINANET = [
    *("MODEL.META_ARCHITECTURE", "RetinaNet", "MODEL.RETINANET.NUM_CONVS", 1),
    *("MODEL.BACKBONE.NAME", "build_cr_resnet_retinanet_fpn_backbone"),
    *("MODEL.FPN.IN_FEATURES", "['res3', 'res4', 'res5']"),
]


@pytest.mark.parametrize("network, iteration", [([], 2), (RETINANET, 1)])
def test_precise_statistics_are_those_of_the_same_images(tiny_config, tmp_path, network, iteration):
    """They are taken after iterations 1, 3 and 4; resumed after 2, the run has missed the first."""
    options = [
        *network,
        *RANDOM,
        *mixed_data(tmp_path / "mixed"),
        *("TEST.PRECISE_BN.ENABLED", "True", "TEST.PRECISE_BN.NUM_ITER", 2),
        *("TEST.EVAL_PERIOD", 2, "SOLVER.MAX_ITER", 5),
        *("SOLVER.CHECKPOINT_PERIOD", 1, "SOLVER.CHECKPOINTS_TO_KEEP", 6),
    ]
    whole, output = tmp_path / "output", tmp_path / "resumed"
    train(tiny_config, *options)
    copy_checkpoint(whole / f"model_{iteration:07d}.pth", output)
    train(tiny_config, "--resume", *options, "OUTPUT_DIR", output)
    assert_same_state(last_checkpoint(output), last_checkpoint(whole))


def test_resumes_before_a_torn_checkpoint(tiny_config, tmp_path, capsys):
    output, options = tmp_path / "output", ["DATASETS.TEST", "()", "SOLVER.CHECKPOINT_PERIOD", 1]
    train(tiny_config, *options)
    whole = last_checkpoint(output)
    for name in ("model_final.pth", "model_0000003.pth"):
        os.truncate(output / name, 5000)
    (output / f"model_0000004.pth.{'0' * 32}.tmp").write_bytes(b"PK")
    capsys.readouterr()
    train(tiny_config, "--resume", *options)
    printed = capsys.readouterr().out
    assert f"passing over a checkpoint: {output}/model_final.pth is cut off" in printed
    assert f"Starting at iteration 3 of 4 from checkpoint {output}/model_0000002.pth" in printed
    assert_same_state(last_checkpoint(output), whole)
    assert not list(output.glob("*.tmp"))


def test_killed_then_terminated(tiny_config, tmp_path):
    """SIGKILL between two checkpoints, then SIGTERM to all processes of the job."""
    options = [
        *NETWORKS["stage"],
        *RANDOM,
        *mixed_data(tmp_path / "mixed"),
        *("SOLVER.MAX_ITER", 36, "SOLVER.STEPS", (12, 24), "SOLVER.CHECKPOINT_PERIOD", 4),
        *("DATALOADER.NUM_WORKERS", 2),
    ]
    output, whole = tmp_path / "interrupted", tmp_path / "output"
    options_of_interrupted = [*options, "OUTPUT_DIR", output]

    run = Run(tiny_config, *options_of_interrupted)
    run.wait_for_checkpoint(output)
    run.kill_all()
    killed_with = checkpoints(output)
    assert "model_final.pth" not in killed_with

    run = Run(tiny_config, "--resume", *options_of_interrupted)
    run.wait_for_checkpoint(output, known=killed_with)
    os.killpg(run.process.pid, signal.SIGTERM)
    code, printed = run.finish()
    assert code == 143, printed[-4000:]
    run.wait_for_its_children()
    stopped_at = last_checkpoint(output)["iteration"]
    assert f"SIGTERM: saved iteration {stopped_at}" in printed
    assert f"model_{stopped_at:07d}.pth" in checkpoints(output)
    assert "model_final.pth" not in checkpoints(output)

    train(tiny_config, "--resume", *options_of_interrupted)
    train(tiny_config, *options)
    assert_same_state(last_checkpoint(output), last_checkpoint(whole))


def test_ranks_that_may_resume_where_parts_are_to_be_drawn(tiny_config, tmp_path):
    """The main process then looks at all alone before the others do."""
    *data, _, _, _, _ = mixed_data(tmp_path / "mixed")
    name = f"mixed_{tmp_path / 'mixed'}"
    parts = ("DATASETS.TRAIN", (f"{name}_archtrain",), "DATASETS.TEST", (f"{name}_archval",))
    drawn = ("DATASETS.ARCHVAL.SIZE", 2, "DATASETS.ARCHVAL.DIR", tmp_path / "drawn")
    args = parse(tiny_config, "--resume", *data, *parts, *drawn)
    assert run_forked(2, lambda: setup(args).DATASETS.ARCHVAL.SIZE) == [2, 2]
    assert len(os.listdir(tmp_path / "drawn")) >= 2


def test_a_training_anew_does_not_ask_for_what_is_there(tiny_config, tmp_path):
    output = tmp_path / "output"
    output.mkdir()
    (output / "last_checkpoint").write_text("model_0000000.pth")
    (output / "model_0000000.pth").write_bytes(b"PK of an earlier run")
    (output / "model_0000003.pth").write_bytes(b"PK of an earlier run")
    train(tiny_config, "DATASETS.TEST", (), "SOLVER.CHECKPOINT_PERIOD", 10)
    assert last_checkpoint(output)["iteration"] == 3
