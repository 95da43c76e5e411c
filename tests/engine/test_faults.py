"""How a job ends at a fault: what is told, by whom, and what the log files have."""

import logging
import os
import signal
import sys
from pathlib import Path

import pytest
from runs import TORCHRUN, Run

from crnas_d2.engine.faults import tell_faults
from crnas_d2.engine.launch import launch
from crnas_d2.engine.terminal import open_log

from detectron2.engine import default_argument_parser

SCRIPT = Path(__file__).parent / "failing_ranks.py"


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["/bin/crnas train"])
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")  # of torch, as it is imported
    return tmp_path


def run(folder, how, launcher=()):
    """The exit code of the job, and all that it says; no process of it is left."""
    processes = [] if launcher is TORCHRUN else ["--num-gpus", "2"]
    job = Run(folder / how, *processes, launcher=launcher, script=SCRIPT)
    if how == "endless":
        job.wait_for(lambda: all((folder / f"rank{rank}").exists() for rank in range(2)))
        os.kill(job.process.pid, signal.SIGINT)
    ended = job.finish()
    job.wait_for_its_children()
    return ended


def test_of_several_processes_the_first_tells_its_fault(folder):
    assert run(folder, "both") == (1, "failing_ranks.py: error: no rank has data\n")
    for name in ("log.txt", "log.txt.rank1"):
        log = (folder / "logs" / name).read_text()
        assert "ERROR: no rank has data\nTraceback" in log and "ValueError: no rank" in log


def test_under_torchrun(folder):
    code, said = run(folder, "one", launcher=TORCHRUN)
    assert code == 1
    assert said.count(": error: ") == 1
    assert "failing_ranks.py: error: rank 1 has no data\n" in said
    assert "ValueError" not in said  # torchrun has a traceback, of itself


def test_a_process_that_is_killed(folder):
    said = "failing_ranks.py: error: process 1 was ended by SIGKILL\n"
    assert run(folder, "killed") == (1, said)


def test_ctrl_c_ends_all_processes(folder):
    # A shell lets its background processes ignore it, and so would their children.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert run(folder, "endless") == (130, "")
    finally:
        signal.signal(signal.SIGINT, before)


def fail(error):
    raise error


@pytest.mark.parametrize(
    "error, said",
    [
        (ValueError("SEED is 'a'; expected b"), "SEED is 'a'; expected b"),
        (FileNotFoundError("no a.yaml"), "no a.yaml"),
        (PermissionError(13, "Permission denied", "a.yaml"), "a.yaml: Permission denied"),
    ],
)
def test_sentences(capsys, error, said):
    with pytest.raises(SystemExit, match="1"), tell_faults(show_traceback=False):
        fail(error)
    assert capsys.readouterr().err == f"crnas train: error: {said}\n"


@pytest.mark.parametrize(
    "module, error, expected",
    [
        ("crnas_d2.search.ranking", RuntimeError("nothing to rank"), True),
        ("torch.nn.functional", RuntimeError("shapes do not fit"), False),
        ("crnas_d2.search.ranking", NotImplementedError("a bug"), False),
        ("detectron2.engine", FloatingPointError("diverged"), True),
        ("numpy", ValueError("anything"), True),
        ("crnas_d2.search.ranking", KeyError("a bug"), False),
    ],
)
def test_what_is_told_without_a_traceback(capsys, module, error, expected):
    scope = {"__name__": module, "error": error}
    exec("def fail(): raise error", scope)
    with pytest.raises(SystemExit, match="1"), tell_faults(show_traceback=False):
        scope["fail"]()
    said = capsys.readouterr().err
    assert (said == f"crnas train: error: {error}\n") == expected
    assert ("Traceback" not in said) == expected


def test_a_diverged_training_is_told_once(folder, capsys):
    """Detectron2's loop logs what it raises, with the traceback."""
    open_log("logs")
    with pytest.raises(SystemExit, match="1"), tell_faults(show_traceback=False):
        try:
            fail(FloatingPointError("diverged"))
        except FloatingPointError:
            logging.getLogger("detectron2.engine.train_loop").exception("Exception during training")
            raise
    out, said = capsys.readouterr()
    assert (out, said) == ("", "crnas train: error: diverged\n")
    assert (folder / "logs" / "log.txt").read_text().count("FloatingPointError: diverged") == 1


@pytest.mark.parametrize(
    "options, message",
    [
        ("--num-gpus 0", "--num-gpus is 0; expected 1 or more"),
        ("--num-machines 2 --machine-rank 2", "--machine-rank is 2; expected 0 to 1"),
        ("--num-machines 2 --dist-url auto", "--dist-url is auto, which is for one machine"),
    ],
)
def test_processes_that_cannot_be_started(options, message):
    with pytest.raises(ValueError, match=message):
        launch(fail, default_argument_parser().parse_args(options.split()))
