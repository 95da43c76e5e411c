"""train_net.py as its users call it, on a dataset and a detector of toy size."""

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hanging import HANGS_S
from runs import TWO_PROCESSES, last_metrics
from warm_python import warm_python

from crnas_d2.commands import train as train_command

from detectron2.engine import default_argument_parser

ROOT = Path(__file__).resolve().parents[2]


def train(config, *arguments):
    return train_command.train(
        default_argument_parser().parse_args(["--config-file", str(config), *map(str, arguments)])
    )


def run_script(launcher, config, *arguments):
    command = [*launcher, ROOT / "train_net.py", "--config-file", config, *arguments]
    return subprocess.run(
        [*map(str, command)],
        capture_output=True,
        text=True,
        timeout=HANGS_S,
        cwd=config.parent,
        # One thread as torchrun sets it, for equal sums; no GPU, of which there may be only one.
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )


def read_all_but_log(output):
    return {p: p.read_bytes() for p in output.iterdir() if p.is_file() and p.name != "log.txt"}


def test_trains_evaluates_and_resumes(tiny_config, tmp_path, capsys):
    output = tmp_path / "output"
    train(tiny_config, "SOLVER.MAX_ITER", 2)
    assert "Starting at iteration 0 of 2 from weights (random)" in capsys.readouterr().out
    assert (output / "last_checkpoint").read_text() == "model_final.pth"
    assert any(output.glob("events.out.tfevents.*"))

    done = "All iterations are done: other values of keys change no weights any more"
    train(tiny_config, "--resume", "SOLVER.MAX_ITER", 2, "SOLVER.BASE_LR", 0.5)
    assert done in capsys.readouterr().out
    train(tiny_config, "--resume", "SOLVER.MAX_ITER", 3)
    printed = capsys.readouterr().out
    assert (
        f"Starting at iteration 2 of 3 from checkpoint {output}" in printed and done not in printed
    )
    assert {"bbox/AP", "bbox/AP50"} <= last_metrics(output).keys()
    assert "total_loss" in (output / "metrics.json").read_text()
    saved = torch.load(output / "model_final.pth", weights_only=True)
    assert saved["iteration"] == 2
    assert saved["model"]["roi_heads.box_predictor.cls_score.weight"].shape[0] == 2 + 1


def test_a_second_training_in_a_folder_is_refused(tiny_config, tmp_path, hold):
    """One that has been killed has left its config, and does not hold up the next one."""
    output = tmp_path / "output"
    first = hold(output)
    (output / "config.yaml").touch()
    with pytest.raises(
        BlockingIOError, match=f"{output} is being written by process {first.pid} on"
    ):
        train(tiny_config)
    assert {*os.listdir(output)} == {".lock", "config.yaml"}
    first.kill()
    first.join()
    train(tiny_config, "SOLVER.MAX_ITER", 1, "DATASETS.TEST", "()")
    assert (output / "model_final.pth").exists()


def test_a_training_that_is_done_is_let_be_where_nothing_can_be_written(
    tiny_config, tmp_path, monkeypatch
):
    output, options = tmp_path / "output", ["SOLVER.MAX_ITER", 1, "DATASETS.TEST", "()"]

    def refuse_to_write(path, mode="r", *args, **kwargs):
        if mode[0] != "r" and str(path).startswith(str(output)):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return opened(path, mode, *args, **kwargs)

    train(tiny_config, *options)
    (output / "log.txt").unlink()
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*")}
    opened = io.open
    for place in ("builtins.open", "io.open"):
        monkeypatch.setattr(place, refuse_to_write)
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    assert train(tiny_config, "--resume", *options) is None
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*")} == before


def test_eval_only_gives_the_result_of_the_training(tiny_config, tmp_path):
    train(tiny_config)
    trained = last_metrics(tmp_path / "output")
    weights = tmp_path / "output" / "model_final.pth"
    results = train(tiny_config, "--eval-only", "MODEL.WEIGHTS", weights)
    assert trained["bbox/AP"] == pytest.approx(results["bbox"]["AP"], nan_ok=True)
    assert results["bbox"]["AP"] >= 0

    with pytest.raises(ValueError, match=r"MODEL.CR.OPERATION_CODE: \[\] in the checkpoint"):
        train(
            tiny_config,
            "--eval-only",
            "MODEL.WEIGHTS",
            weights,
            "MODEL.CR.OPERATION_CODE",
            "[0, 0, 1, 0, 2]",
        )


def test_resume_with_another_architecture_is_refused_and_loses_nothing(tiny_config, tmp_path):
    output = tmp_path / "output"
    train(tiny_config, "SOLVER.MAX_ITER", 1)
    before = read_all_but_log(output)
    with pytest.raises(ValueError, match="OPERATION_CODE") as error:
        train(tiny_config, "--resume", "MODEL.CR.OPERATION_CODE", "[0, 0, 1, 0, 2]")
    assert "[] in the checkpoint" in str(error.value)
    assert "[0, 0, 1, 0, 2] in the config" in str(error.value)
    with pytest.raises(ValueError, match="RES2_OUT_CHANNELS: 8 in the checkpoint, 16 in"):
        train(tiny_config, "--resume", "MODEL.RESNETS.RES2_OUT_CHANNELS", 16)
    assert read_all_but_log(output) == before


def test_expected_results_are_checked(tiny_config):
    expected = ["TEST.EXPECTED_RESULTS", "[['bbox', 'AP', 99.0, 0.1]]"]
    with pytest.raises(SystemExit):
        train(tiny_config, "SOLVER.MAX_ITER", 1, *expected)


def test_two_processes_by_detectron2_and_by_torchrun(tiny_config, tmp_path):
    options = ["SOLVER.MAX_ITER", "2"]
    launchers = {
        "launch": ([sys.executable], TWO_PROCESSES),
        "torchrun": (
            [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"],
            [],
        ),
    }
    weights = {}
    for name, (launcher, arguments) in launchers.items():
        output = tmp_path / name
        done = run_script(launcher, tiny_config, *arguments, *options, "OUTPUT_DIR", output)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        assert "World size: 2" in (output / "log.txt").read_text()
        assert "World size: 2" in (output / "log.txt.rank1").read_text()
        assert "BN instead of SyncBN in MODEL.RESNETS.NORM" in done.stdout
        weights[name] = torch.load(output / "model_final.pth", weights_only=True)["model"]
    for key, tensor in weights["launch"].items():
        assert torch.equal(tensor, weights["torchrun"][key]), key


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["MODEL.CR.STAGE_CODE", "[1, 1, 2]"], "3 entries; expected 4"),
        (["MODEL.CR.OPERATION_CODE", "[1, 1]"], "2 entries; expected 5"),
        (["MODEL.CR.FAMILY", "vgg"], "MODEL.CR.FAMILY is 'vgg'; expected one of"),
        (["MODEL.BACKBONE.FREEZE_AT", "2"], "FREEZE_AT is 2"),
        (["MODEL.WEIGHTS", "nowhere.pth"], "MODEL.WEIGHTS 'nowhere.pth': no such file"),
        (["SOLVER.AMP.ENABLED", "True"], "SOLVER.AMP.ENABLED"),
        (["--eval-only"], "nothing to evaluate"),
        (["OUTPUT_DIR", ""], "OUTPUT_DIR is ''; expected a folder"),
    ],
)
def test_bad_input_stops_before_anything_is_written(tiny_config, tmp_path, arguments, message):
    with pytest.raises((ValueError, FileNotFoundError), match="(?s)" + message.replace("[", r"\[")):
        train(tiny_config, *arguments)
    assert not (tmp_path / "output").exists()


def test_config_file_is_needed():
    done = warm_python().run([ROOT / "train_net.py"])
    assert done.returncode == 2
    assert "--config-file is missing" in done.stderr


def test_what_is_not_the_runs_is_not_written_over(tiny_config, tmp_path):
    output = tmp_path / "output"
    output.mkdir()
    (output / "config.yaml").write_text("SEED: 5\n")
    with pytest.raises(
        ValueError, match="config.yaml; there is one already that no run has written"
    ):
        train(tiny_config)
    assert [path.name for path in output.iterdir()] == ["config.yaml"]
    (output / "config.yaml").unlink()

    train(tiny_config, "SOLVER.MAX_ITER", 1)
    # Test set and training set are one here
    assert "6 images of" in (output / "log.txt").read_text()
    weights = output / "model_final.pth"
    before = weights.read_bytes()
    (tmp_path / "link.pth").symlink_to(weights)
    for path in (weights, tmp_path / "link.pth"):
        with pytest.raises(
            ValueError, match=f"MODEL.WEIGHTS is '{path}', which lies in OUTPUT_DIR"
        ):
            train(tiny_config, "MODEL.WEIGHTS", path)
    assert weights.read_bytes() == before
    train(tiny_config, "--eval-only", "MODEL.WEIGHTS", weights)  # writes no weights
    train(tiny_config, "--resume", "SOLVER.MAX_ITER", 1, "MODEL.WEIGHTS", weights)  # reads none


def test_weights_that_leave_a_part_at_random_are_not_evaluated(tiny_config, tmp_path):
    train(tiny_config, "SOLVER.MAX_ITER", 1)
    model = torch.load(tmp_path / "output" / "model_final.pth", weights_only=True)["model"]
    for missing in (  # of each the whole part is new
        "roi_heads.box_predictor.cls_score.bias",
        "backbone.fpn_lateral2.bias",
    ):
        part = {name: tensor for name, tensor in model.items() if name != missing}
        torch.save({"model": part}, tmp_path / "part.pth")
        with pytest.raises(
            ValueError, match=rf"no values for \d+ tensors .* such as {missing.partition('.')[0]}"
        ):
            part = ["MODEL.WEIGHTS", tmp_path / "part.pth", "MODEL.INIT.SOURCE", "torchvision"]
            train(tiny_config, "--eval-only", *part)
