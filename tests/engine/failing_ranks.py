"""A job of two processes, of which one fails or none ends: started by test_faults.py as a program,
and by test_shared_faults.py as ranks.

failing_ranks.py --num-gpus 2 --config-file HOW
"""

import os
import signal
import sys
import time
from argparse import Namespace
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2])]

from crnas_d2.commands.command_line import command  # noqa: E402
from crnas_d2.engine import launch, shared_faults  # noqa: E402
from crnas_d2.engine.terminal import open_log  # noqa: E402
from crnas_d2.main_process import decided_by_main  # noqa: E402

from detectron2.engine import default_argument_parser  # noqa: E402
from detectron2.utils import comm  # noqa: E402

FAULTS = {
    "both": ValueError("no rank has data"),
    "one": ValueError("rank 1 has no data"),
    "first": ValueError("rank 0 has no data"),
    "bug": KeyError("a bug"),
    "far": ValueError("rank 1 has no data"),
    "lost": RuntimeError("[pair.cc:547] Connection closed by peer [127.0.0.1]:1"),
}
FAILS_ON = {"both": (0, 1), "lost": (0, 1), "first": (0,)}  # of the others, rank 1


def job(args):
    open_log("logs")
    how, rank = Path(args.config_file).name, comm.get_rank()
    if how == "killed at once":
        if rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        decided_by_main(lambda: "work")
    comm.synchronize()
    if how == "endless" or how in ("far", "first") and rank not in FAILS_ON.get(how, (1,)):
        Path(f"rank{rank}").touch()
        time.sleep(1000)  # busy without a collective
    if how == "killed" and rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if rank in FAILS_ON.get(how, (1,)):
        raise FAULTS[how]
    comm.synchronize()  # with a rank that does not come


def start_rank(folder, how, rank, environment):
    """As one process of a job of two, whose stderr is a file of its own."""
    os.chdir(folder)
    os.environ.update(environment, RANK=str(rank), LOCAL_RANK=str(rank))
    sys.argv = ["/bin/crnas train"]
    os.dup2(os.open(f"stderr{rank}", os.O_WRONLY | os.O_CREAT), 2)
    sys.stderr = open(2, "w", closefd=False)
    if how in ("killed", "killed at once", "lost"):
        shared_faults.TELLING_S = 1  # there is nothing to hear
    launch(job, Namespace(config_file=how))


@command
def main(argv=None):
    parser = default_argument_parser()
    parser.set_defaults(dist_url="auto")
    launch(job, parser.parse_args(argv))


if __name__ == "__main__":
    main()
