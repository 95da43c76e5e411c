"""One way to start a job: alone, by Detectron2's launcher, or under torchrun."""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator

import torch
import torch.distributed as dist
from torch.multiprocessing import ProcessExitedException

from detectron2.engine import DEFAULT_TIMEOUT
from detectron2.engine import launch as launch_processes
from detectron2.utils import comm

from .hooks import EXIT_AFTER_SIGTERM


def launch(main: Callable[[argparse.Namespace], object], args: argparse.Namespace) -> None:
    """Run ``main(args)`` in every process of the job.

    Under ``torchrun`` the processes are there already, and ``--num-gpus``, ``--num-machines``,
    ``--machine-rank`` and ``--dist-url`` are not used. Otherwise Detectron2's launcher starts
    ``--num-gpus`` processes on this machine, on the CPU too, and a SIGTERM goes on to them.

    Args:
        main: the job.
        args: from :func:`detectron2.engine.default_argument_parser`.

    Raises:
        SystemExit: a SIGTERM ended the processes; with :data:`EXIT_AFTER_SIGTERM`.
    """
    if not dist.is_torchelastic_launched():
        several = args.num_gpus * args.num_machines > 1
        with _sigterm_to_children() if several else contextlib.nullcontext():
            launch_processes(
                _run,
                args.num_gpus,
                num_machines=args.num_machines,
                machine_rank=args.machine_rank,
                dist_url=args.dist_url,
                args=(main, args),
            )
        return

    use_gpu = torch.cuda.is_available()
    if use_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if use_gpu else "gloo", timeout=DEFAULT_TIMEOUT)
    comm.create_local_process_group(int(os.environ["LOCAL_WORLD_SIZE"]))
    _run(main, args)


def _run(main: Callable[[argparse.Namespace], object], args: argparse.Namespace) -> None:
    """Run the job and leave together: gloo aborts a rank whose peer is gone already."""
    try:
        main(args)
        comm.synchronize()
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


@contextlib.contextmanager
def _sigterm_to_children() -> Iterator[None]:
    def pass_on(*_) -> None:
        children = multiprocessing.active_children()
        if not children:
            raise SystemExit(EXIT_AFTER_SIGTERM)
        for child in children:
            child.terminate()

    previous = signal.signal(signal.SIGTERM, pass_on)
    try:
        yield
    except ProcessExitedException as error:
        if error.exit_code in (EXIT_AFTER_SIGTERM, -signal.SIGTERM):
            raise SystemExit(EXIT_AFTER_SIGTERM) from error
        raise
    finally:
        signal.signal(signal.SIGTERM, previous)
