"""crnas submit: real jobs of submitit's local executor, the file for sbatch, and a task alone."""

import json
import os
import pickle
import signal
import stat
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hanging import HANGS_S
from tiny_coco import write_tiny_coco

from crnas_d2.config import configs_dir

ROOT = Path(__file__).resolve().parents[2]
SUBMIT = ROOT / "tools" / "submit.py"
TWO_TASKS = ["--cluster", "local", "--cpu-tasks-per-node", "2", "--timeout-min", "5"]

ALL_REDUCE = """
import torch
from crnas_d2.engine import launch
from detectron2.engine import default_argument_parser
from detectron2.utils import comm

def main(args):
    total = torch.tensor([comm.get_rank() + 1.0])
    torch.distributed.all_reduce(total)
    print(f"rank {comm.get_local_rank()} of {comm.get_world_size()}: {total.item()} {args.opts}")

launch(main, default_argument_parser().parse_args())
"""

# Ends only when it is started for the second time; a SIGTERM kills it, as it does a search.
SECOND_TIME = """
import os, sys, time
name = f"rank{os.environ['RANK']}"
if os.path.exists(name):
    print("goes on with", sys.argv[1:])
else:
    open(name, "w").close()
    time.sleep(100)
"""

CONFIG = """
_BASE_: "{configs}/Base-RCNN-FPN.yaml"
MODEL:
  DEVICE: "cpu"
  BACKBONE: {{FREEZE_AT: 0}}
  CR: {{BLOCK: "basic", STAGE_CODE: [1, 1, 1, 1]}}
  RESNETS: {{STEM_OUT_CHANNELS: 8, RES2_OUT_CHANNELS: 8}}
  FPN: {{OUT_CHANNELS: 16}}
  RPN:
    PRE_NMS_TOPK_TRAIN: 40
    PRE_NMS_TOPK_TEST: 40
    POST_NMS_TOPK_TRAIN: 20
    POST_NMS_TOPK_TEST: 20
  ROI_HEADS: {{BATCH_SIZE_PER_IMAGE: 16}}
  ROI_BOX_HEAD: {{FC_DIM: 16}}
DATASETS:
  COCO_JSON: [["submitted", "{root}/annotations.json", "{root}/images"]]
  TRAIN: ["submitted"]
  TEST: []
INPUT: {{MIN_SIZE_TRAIN: [64]}}
DATALOADER: {{NUM_WORKERS: 1}}
SOLVER: {{IMS_PER_BATCH: 2, MAX_ITER: 60, STEPS: [], WARMUP_ITERS: 1, CHECKPOINT_PERIOD: 2}}
OUTPUT_DIR: "{root}/output"
SEED: 1
"""


class Job:
    """A job of the local executor, started as a user starts it."""

    def __init__(self, folder, *command):
        self.folder = folder
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        printed = folder / "printed"
        with printed.open("w") as stdout:  # not a pipe, which the job would keep open
            subprocess.run(
                [sys.executable, SUBMIT, *TWO_TASKS, "--folder", "jobs", "--", *command],
                cwd=folder,
                env=environment,
                stdout=stdout,
                timeout=HANGS_S,
                check=True,
            )
        kind, _, number, *_ = printed.read_text().split()
        assert kind == "local"
        self.controller = int(number.rstrip(";"))

    def log(self, rank=0):
        return (self.folder / "jobs" / f"{self.controller}_{rank}_log.out").read_text()

    def result(self, rank=0):
        path = self.folder / "jobs" / f"{self.controller}_{rank}_result.pkl"
        return pickle.loads(path.read_bytes())

    def wait_for(self, condition):
        end = time.monotonic() + HANGS_S
        while not condition():
            if time.monotonic() > end:
                self.signal_all(signal.SIGKILL)
                raise AssertionError(self.log())
            time.sleep(0.05)

    def wait(self):
        self.wait_for(lambda: self.controller not in processes())

    def signal_all(self, *numbers):
        """As Slurm does: to the tasks and all that they have started."""
        parents = processes()
        for number in numbers:
            for process in parents:
                if self.controller in ancestors(process, parents):
                    os.kill(process, number)


def processes():
    """The parent of each process that is not a zombie."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state != "Z":
            parents[int(path.parent.name)] = int(parent)
    return parents


def ancestors(process, parents):
    while process := parents.get(process, 0):
        yield process


def test_tasks_find_each_other(tmp_path):
    (tmp_path / "all_reduce.py").write_text(ALL_REDUCE)
    job = Job(tmp_path, "all_reduce.py", "SOLVER.MAX_ITER", "2")
    job.wait()
    for rank in range(2):
        assert f"rank {rank} of 2: 3.0 ['SOLVER.MAX_ITER', '2']" in job.log(rank)
        assert job.result(rank) == ("success", None)


def test_a_warned_training_saves_and_goes_on(tmp_path):
    write_tiny_coco(tmp_path)
    (tmp_path / "tiny.yaml").write_text(CONFIG.format(configs=configs_dir(), root=tmp_path))
    job = Job(tmp_path, "train", "--config-file", "tiny.yaml")
    output = tmp_path / "output"
    job.wait_for(lambda: list(output.glob("model_*.pth")))
    # A SIGTERM comes before the warning when Slurm preempts
    job.signal_all(signal.SIGTERM, signal.SIGUSR2)
    job.wait()
    first, _, second = job.log().partition("SIGTERM: saved iteration ")
    assert "Starting at iteration 0 of 60" in first
    iteration = int(second.partition(";")[0])
    assert 0 < iteration < 59
    assert f"Starting at iteration {iteration + 1} of 60" in second
    assert f"model_{iteration:07d}.pth" in second
    assert "Traceback" not in job.log() + job.log(1)
    assert (output / "model_final.pth").exists()
    assert job.result(0) == job.result(1) == ("success", None)


def test_another_script_starts_again_as_it_was(tmp_path):
    (tmp_path / "search_net.py").write_text(SECOND_TIME)
    job = Job(tmp_path, "search_net.py", "--config-file", "a.yaml")
    job.wait_for(lambda: (tmp_path / "rank0").exists() and (tmp_path / "rank1").exists())
    job.signal_all(signal.SIGUSR2)
    job.wait()
    for rank in range(2):
        assert "goes on with ['--config-file', 'a.yaml']" in job.log(rank)
        assert job.result(rank) == ("success", None)


def test_a_failed_script_fails_the_job(tmp_path):
    (tmp_path / "broken.py").write_text("raise SystemExit(7)")
    job = Job(tmp_path, "broken.py")
    job.wait()
    status, message = job.result()
    assert status == "error" and "returned non-zero exit status 7" in message
    # Whose tasks have done without torch
    load = "import pickle, sys; pickle.load(sys.stdin.buffer); print(sorted(sys.modules))"
    with (tmp_path / "jobs" / f"{job.controller}_submitted.pkl").open("rb") as task:
        imported = subprocess.check_output([sys.executable, "-c", load], stdin=task, text=True)
    assert "'submitit'" in imported
    assert "'torch'" not in imported and "'crnas_d2'" not in imported


@pytest.fixture
def task(tool, monkeypatch, tmp_path):
    """Runs a task in this process, as the only one of its job, with signals that arrive after the
    script has begun. Returns the warnings that reached submitit."""
    warnings = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "local")
    monkeypatch.setenv("SUBMITIT_LOCAL_JOB_ID", "1")
    monkeypatch.setattr(tool, "PREEMPTION_S", 1)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2)}
    signal.signal(signal.SIGUSR2, lambda *_: warnings.append(Path("ended").exists()))

    def run(script, *signals, resume=(), pause=0):
        Path("script.py").write_text(script)

        def send():
            end = time.monotonic() + HANGS_S
            while signals and not Path("begun").exists() and time.monotonic() < end:
                time.sleep(0.01)
            for number in signals:
                os.kill(os.getpid(), number)
                time.sleep(pause)

        sender = threading.Thread(target=send)
        sender.start()
        try:
            tool.Task(("script.py",), ("--config-file", "a.yaml"), resume)()
        finally:
            sender.join()
        return warnings

    yield run
    for number, handler in before.items():
        signal.signal(number, handler)


def begin(at_sigterm, then="time.sleep(100)"):
    """A script with a handler of SIGTERM."""
    return (
        "import signal, sys, time\n"
        f"def stop(*_): {at_sigterm}\n"
        f"signal.signal(signal.SIGTERM, stop)\nopen('begun', 'w').close()\n{then}\n"
    )


SAVE = "time.sleep(0.5); open('ended', 'w').close(); sys.exit(143)"


@pytest.mark.parametrize("signals", [(signal.SIGUSR2,), (signal.SIGTERM, signal.SIGUSR2)])
def test_the_warning_waits_for_the_script(task, signals):
    assert task(begin(SAVE), *signals) == [True]


def test_the_warning_may_come_after_the_script_has_ended(task, tool, monkeypatch):
    monkeypatch.setattr(tool, "PREEMPTION_S", 10)
    assert task(begin("sys.exit(143)"), signal.SIGTERM, signal.SIGUSR2, pause=1) == [False]


def test_sigterm_alone_ends_the_job(task):
    with pytest.raises(subprocess.CalledProcessError, match="exit status 143"):
        task(begin(SAVE), signal.SIGTERM)
    assert Path("ended").exists()


def test_a_script_that_has_ended_well_is_not_queued_again(task):
    assert task(begin("sys.exit(0)"), signal.SIGUSR2) == []


def test_a_script_that_does_not_end_is_killed(task, tool, monkeypatch):
    monkeypatch.setattr(tool, "SAVING_S", 0.5)
    began = time.monotonic()
    assert task(begin("pass", "while True: time.sleep(1)"), signal.SIGUSR2) == [False]
    assert time.monotonic() - began > 0.5


@pytest.mark.parametrize(
    "restarts, given", [(None, []), ("1", ["--resume"])], ids=["first", "again"]
)
def test_goes_on_where_slurm_starts_it_again(task, monkeypatch, restarts, given):
    if restarts:
        monkeypatch.setenv("SLURM_RESTART_COUNT", restarts)
    task("import sys; open('seen', 'w').write(str(sys.argv[1:]))", resume=("--resume",))
    assert Path("seen").read_text() == str([*given, "--config-file", "a.yaml"])


def test_environment_of_torchrun(task, monkeypatch):
    monkeypatch.setenv("RANK", "9")  # of a job in which this one was submitted
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    task("import json, os; json.dump(dict(os.environ), open('seen', 'w'))")
    seen = json.loads(Path("seen").read_text())
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "OMP_NUM_THREADS")
    assert [seen[name] for name in names] == ["0", "0", "1", "1", "1"]
    assert seen["TORCHELASTIC_RUN_ID"] == "1" and 20000 <= int(seen["MASTER_PORT"]) <= 60000


def parse(tool, *command):
    return tool.parse_args(["--gpus-per-node", "1", "--timeout-min", "9", "--", *command])[1]


def test_what_goes_on_with_resume(tool, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("train_net.py", "search_net.py", "a.yaml"):
        Path(name).touch()
    command = ("--config-file", "a.yaml", "SEED", "1")
    task = parse(tool, "train_net.py", *command)
    after = task.checkpoint().function
    assert (task.program, task.arguments) == (("train_net.py",), command)
    assert (after.program, after.arguments) == (("train_net.py",), ("--resume", *command))
    assert after.checkpoint().function == after
    assert parse(tool, "train", *command) == replace(task, program=("-m", "crnas_d2", "train"))
    shown = ("--verbose", "--traceback", *command)
    assert parse(tool, "train", *shown).arguments == shown
    for unchanged in (
        ("train_net.py", "--eval-only", *command),
        ("train_net.py", "--resume", *command),
        ("search_net.py", *command),
        ("search", *command),
    ):
        task = parse(tool, *unchanged)
        assert task.checkpoint().function.arguments == task.arguments == unchanged[1:]


@pytest.mark.parametrize(
    "command, message",
    [
        (("absent.py",), "'absent.py': no such script in "),
        (("train_net.py", "--config-file", "b.yaml"), "config file 'b.yaml': no such file"),
        (("train", "--config-file", "b.yaml"), "config file 'b.yaml': no such file"),
        (("train",), "--config-file is missing"),
        (("train_net.py", "--config-fil"), "expected one argument"),
        ((), "the following arguments are required: command"),
    ],
)
def test_faulty_commands_are_not_submitted(tool, monkeypatch, tmp_path, capsys, command, message):
    monkeypatch.chdir(tmp_path)
    Path("train_net.py").touch()
    with pytest.raises(SystemExit):
        tool.main(["--gpus-per-node", "1", "--timeout-min", "9", "--", *command])
    assert message in capsys.readouterr().err


def test_without_submitit(tool, refused, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tool, "submitit", None)
    Path("script.py").touch()
    with refused(r'pip install "crnas_d2\[slurm\]"'):
        tool.main(["--gpus-per-node", "1", "--timeout-min", "9", "--", "script.py"])


def test_file_for_sbatch(tool, monkeypatch, tmp_path, capsys):
    """A sbatch that only says that it has taken the file."""
    for name in ("sbatch", "srun"):
        path = tmp_path / name
        path.write_text("#!/bin/sh\necho Submitted batch job 42\n")
        path.chmod(path.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.chdir(tmp_path)
    Path("train_net.py").touch()
    Path("a.yaml").touch()
    options = "--nodes 2 --gpus-per-node 8 --timeout-min 90 --partition gpu --cpus-per-task 6"
    more = "--mem-gb 200 --name r50 --slurm account=vision --slurm exclusive --folder jobs"
    tool.main([*options.split(), *more.split(), "--", "train_net.py", "--config-file", "a.yaml"])
    assert "slurm job 42; log of its first task:" in capsys.readouterr().out
    lines = Path("jobs/42_submission.sh").read_text().splitlines()
    assert {
        "#SBATCH --nodes=2",
        "#SBATCH --ntasks-per-node=8",
        "#SBATCH --gpus-per-node=8",
        "#SBATCH --cpus-per-task=6",
        "#SBATCH --mem=200GB",
        "#SBATCH --time=90",
        "#SBATCH --partition=gpu",
        "#SBATCH --job-name=r50",
        "#SBATCH --signal=USR2@180",
        "#SBATCH --requeue",
        "#SBATCH --account=vision",
        "#SBATCH --exclusive",
        "#SBATCH --open-mode=append",
    } <= set(lines)
    (run,) = [line for line in lines if line.startswith("srun ")]
    assert "--kill-on-bad-exit=1" in run and sys.executable in run
