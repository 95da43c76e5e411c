"""One way to start a job: alone, by Detectron2's launcher, or under torchrun."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable

import torch
import torch.distributed as dist

from detectron2.engine import DEFAULT_TIMEOUT
from detectron2.engine import launch as launch_processes
from detectron2.utils import comm


def launch(main: Callable[[argparse.Namespace], object], args: argparse.Namespace) -> None:
    """Run ``main(args)`` in every process of the job.

    Under ``torchrun`` the processes are there already, and ``--num-gpus``, ``--num-machines``,
    ``--machine-rank`` and ``--dist-url`` are not used. Otherwise Detectron2's launcher starts
    ``--num-gpus`` processes on this machine, on the CPU too.

    Args:
        main: the job.
        args: from :func:`detectron2.engine.default_argument_parser`.
    """
    if not dist.is_torchelastic_launched():
        launch_processes(
            main,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(args,),
        )
        return

    use_gpu = torch.cuda.is_available()
    if use_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if use_gpu else "gloo", timeout=DEFAULT_TIMEOUT)
    comm.create_local_process_group(int(os.environ["LOCAL_WORLD_SIZE"]))
    try:
        main(args)
    finally:
        dist.destroy_process_group()
