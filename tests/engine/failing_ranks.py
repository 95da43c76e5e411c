"""Started by test_faults.py: a job of two processes, of which one fails or none ends.

failing_ranks.py --num-gpus 2 --config-file HOW
"""

import os
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2])]

from crnas_d2.commands.command_line import command  # noqa: E402
from crnas_d2.engine import launch  # noqa: E402
from crnas_d2.engine.terminal import open_log  # noqa: E402
from detectron2.engine import default_argument_parser  # noqa: E402
from detectron2.utils import comm  # noqa: E402

FAULTS = {
    "both": ValueError("no rank has data"),
    "one": ValueError("rank 1 has no data"),
    "bug": KeyError("a bug"),
}


def job(args):
    open_log("logs")
    how = Path(args.config_file).name
    comm.synchronize()
    if how == "endless":
        Path(f"rank{comm.get_rank()}").touch()
        time.sleep(100)
    if how == "killed" and comm.get_rank() == 1:
        os.kill(os.getpid(), 9)
    if how == "both" or comm.get_rank() == 1:
        raise FAULTS[how]
    comm.synchronize()  # with a rank that does not come


@command
def main(argv=None):
    parser = default_argument_parser()
    parser.set_defaults(dist_url="auto")
    launch(job, parser.parse_args(argv))


if __name__ == "__main__":
    main()
