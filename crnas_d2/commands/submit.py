"""Submit a training, a search or a script that is started alike as a job on Slurm.

crnas submit --nodes 2 --gpus-per-node 8 --timeout-min 2880 --partition gpu -- \\
    train --config-file COCO-Detection/faster_rcnn_CR_R_50_FPN_1x.yaml
crnas submit --gpus-per-node 8 --timeout-min 1440 --slurm account=vision --slurm constraint=h100 -- \\
    search --config-file Search/R_50.yaml OUTPUT_DIR output/search
crnas submit --cluster local --cpu-tasks-per-node 2 --timeout-min 30 -- train --config-file FILE

Each GPU gets a task, and each task runs the command with the environment that torchrun would give
it. Before the time limit, and when Slurm warns of a preemption, the command gets a SIGTERM and time
to save; then the job is queued again. A training then goes on with --resume, as it does where Slurm
itself starts the job again after a failed node; a search goes on by itself.

Run it where the command will run: folder, environment and Python are those of the job.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from crnas import COMMANDS

from . import train
from .command_line import command, command_parser, parse_run, run_parser

try:
    import cloudpickle
    import submitit
except ModuleNotFoundError:
    submitit = None  # type: ignore[assignment]  # main() asks for it

PACKAGE = __name__.partition(".")[0]
WARNING_S = 180  # seconds before the time limit at which the job is warned
SAVING_S = 120  # seconds that the script may take to exit after that
PREEMPTION_S = 10  # maximum seconds between a SIGTERM and the warning of a preemption
POLL_S = 0.2


@dataclass(frozen=True)
class Task:
    """The task of each process in a job. submitit calls it, and its ``checkpoint`` on rank 0.

    The program is a separate process. So the warning, which would otherwise requeue the job in the
    middle of a training step, waits until the program has exited.

    Attributes:
        program: a Python file; or "-m", a module, and the name of a command.
        arguments: arguments of the program.
        resume: additional arguments of a program that resumes.
    """

    program: tuple[str, ...]
    arguments: tuple[str, ...]
    resume: tuple[str, ...]

    def __call__(self) -> None:
        """Run the program.

        Raises:
            subprocess.CalledProcessError: the script has failed.
        """
        warning = getattr(signal, f"SIG{submitit.JobEnvironment.USR_SIG}")
        # submitit's handler, which does not return on rank 0
        queue_again = signal.getsignal(warning)
        received = set()
        for number in (signal.SIGTERM, warning):
            signal.signal(number, lambda number, _: received.add(number))

        command = self._command()
        environment = {**os.environ, **_torchrun_environment()}
        # Slurm signals all processes of a job, including those of the script
        ignore_warning = lambda: signal.signal(warning, signal.SIG_IGN)  # noqa: E731
        process = subprocess.Popen(command, env=environment, preexec_fn=ignore_warning)
        try:
            deadline = None
            while (code := process.poll()) is None:
                if received and deadline is None:
                    process.terminate()
                    deadline = time.monotonic() + SAVING_S
                if deadline is not None and time.monotonic() > deadline:
                    process.kill()
                time.sleep(POLL_S)
        finally:
            process.kill()  # if this process is interrupted

        if code == 0:
            return
        if received or code in (-signal.SIGTERM, 128 + signal.SIGTERM):
            deadline = time.monotonic() + PREEMPTION_S
            while warning not in received and time.monotonic() < deadline:
                time.sleep(POLL_S)
        if warning not in received:
            raise subprocess.CalledProcessError(code, command)
        assert callable(queue_again)
        queue_again(warning, None)

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """Get the task with which the job resumes."""
        return submitit.helpers.DelayedSubmission(replace(self, arguments=self._resumed()))

    def _command(self) -> list[str]:
        again = "SLURM_RESTART_COUNT" in os.environ
        arguments = self._resumed() if again else self.arguments
        return [sys.executable, "-u", *self.program, *arguments]

    def _resumed(self) -> tuple[str, ...]:
        missing = (option for option in self.resume if option not in self.arguments)
        return (*missing, *self.arguments)


def _torchrun_environment() -> dict[str, str]:
    """Get the environment by which the script finds its rank, its peers and its GPU."""
    task = submitit.helpers.TorchDistributedEnvironment()
    environment = {
        "MASTER_ADDR": task.master_addr,
        "MASTER_PORT": task.master_port,
        "WORLD_SIZE": task.world_size,
        "RANK": task.rank,
        "LOCAL_WORLD_SIZE": task.local_world_size,
        "LOCAL_RANK": task.local_rank,
        "TORCHELASTIC_RUN_ID": submitit.JobEnvironment().job_id,
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", 1),
    }
    return {name: str(value) for name, value in environment.items()}


def make_task(parser: argparse.ArgumentParser, command: Sequence[str]) -> Task:
    """Create the task of a command line. A fault in it ends the program."""
    name, *arguments = command
    if os.path.isfile(name):
        program: tuple[str, ...] = (name,)
    elif name in COMMANDS:
        program = ("-m", PACKAGE, name)
    else:
        parser.error(f"{name!r}: no such script in {os.getcwd()}, and no command of crnas")
    if name != "train" and os.path.basename(name) != "train_net.py":
        return Task(program, tuple(arguments), ())
    parsed = parse_run(run_parser(train.__doc__), arguments)
    # A restarted evaluation has to use the same weights, not those of the last checkpoint.
    return Task(program, tuple(arguments), () if parsed.eval_only else ("--resume",))


def parse_args(argv: Sequence[str] | None) -> tuple[argparse.Namespace, Task]:
    parser = command_parser(__doc__)
    parser.add_argument(
        "--cluster", choices=("slurm", "local"), help="default: Slurm where there is srun"
    )
    parser.add_argument("--nodes", type=_positive, default=1)
    per_node = parser.add_mutually_exclusive_group(required=True)
    per_node.add_argument("--gpus-per-node", type=_positive, metavar="N", help="and tasks")
    per_node.add_argument(
        "--cpu-tasks-per-node", type=_positive, metavar="N", help="tasks, where there is no GPU"
    )
    parser.add_argument("--timeout-min", type=_positive, required=True, help="time limit of a run")
    parser.add_argument(
        "--max-timeouts", type=_positive, default=20, help="how often a job may reach that limit"
    )
    parser.add_argument("--cpus-per-task", type=_positive, help="for the data workers, mainly")
    parser.add_argument("--mem-gb", type=float, help="memory of a node")
    parser.add_argument("--partition")
    parser.add_argument("--name", default="crnas_d2")
    parser.add_argument(
        "--slurm",
        action="append",
        default=[],
        metavar="KEY[=VALUE]",
        help="any other option of sbatch, such as account=vision; can be repeated",
    )
    parser.add_argument(
        "--folder",
        default="output/jobs",
        help="for logs and files of submitit; all nodes have to see it",
    )
    parser.add_argument(
        "command", nargs="+", help="of crnas, or a script, and its arguments, after --"
    )
    args = parser.parse_args(argv)
    return args, make_task(parser, args.command)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}; expected at least 1")
    return value


@command
def main(argv: Sequence[str] | None = None) -> None:
    args, task = parse_args(argv)
    if submitit is None:
        raise RuntimeError('there is no submitit, which this needs: pip install "crnas_d2[slurm]"')
    # A task only waits for its program, and so needs neither this package nor torch
    cloudpickle.register_pickle_by_value(sys.modules[Task.__module__])
    executor = submitit.AutoExecutor(
        folder=args.folder,
        cluster=args.cluster,
        slurm_max_num_timeout=args.max_timeouts,
        local_max_num_timeout=args.max_timeouts,
    )
    sbatch = {"requeue": True}
    for option in args.slurm:
        key, given, value = option.partition("=")
        sbatch[key] = value if given else True
    executor.update_parameters(
        name=args.name,
        nodes=args.nodes,
        tasks_per_node=args.gpus_per_node or args.cpu_tasks_per_node,
        gpus_per_node=args.gpus_per_node,
        cpus_per_task=args.cpus_per_task,
        mem_gb=args.mem_gb,
        timeout_min=args.timeout_min,
        stderr_to_stdout=True,
        slurm_partition=args.partition,
        slurm_signal_delay_s=WARNING_S,
        slurm_srun_args=[
            "--kill-on-bad-exit=1"
        ],  # like torchrun: peers of a dead rank would only wait
        slurm_additional_parameters=sbatch,
    )
    job = executor.submit(task)
    print(f"{executor.cluster} job {job.job_id}; log of its first task: {job.paths.stdout}")
