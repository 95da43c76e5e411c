"""The start of a job: as a single process, by Detectron2's launcher, or under torchrun."""

from __future__ import annotations

import argparse
import contextlib
import logging
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

from ..main_process import patient_group
from .faults import EXIT_AFTER_FAULT, EXIT_AFTER_SIGINT, tell_faults
from .hooks import EXIT_AFTER_SIGTERM
from .shared_faults import SharedFaults, leave


def launch(main: Callable[[argparse.Namespace], object], args: argparse.Namespace) -> None:
    """Run ``main(args)`` in every process of the job.

    Under ``torchrun`` the processes exist already, and ``--num-gpus``, ``--num-machines``,
    ``--machine-rank`` and ``--dist-url`` are not used. Otherwise Detectron2's launcher starts
    ``--num-gpus`` processes on this machine, also on the CPU, and a SIGTERM is forwarded to them.

    Args:
        main: the job.
        args: arguments from :func:`detectron2.engine.default_argument_parser`, with ``traceback``:
            whether a fault in a job of several processes is printed with its traceback.

    Raises:
        SystemExit: one of several processes has failed and has said why, or a SIGTERM or Ctrl-C has
            ended them. It has the corresponding exit code.
        ValueError: the processes cannot be started.
        RuntimeError: a process was killed by a signal from outside.
    """
    if not dist.is_torchelastic_launched():
        _check_processes(args)
        several = args.num_gpus * args.num_machines > 1
        with _as_parent() if several else contextlib.nullcontext():
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


def _check_processes(args: argparse.Namespace) -> None:
    for name in ("num_gpus", "num_machines"):
        if getattr(args, name) < 1:
            raise ValueError(
                f"--{name.replace('_', '-')} is {getattr(args, name)}; expected 1 or more"
            )
    if torch.cuda.is_available() and args.num_gpus > torch.cuda.device_count():
        raise ValueError(
            f"--num-gpus is {args.num_gpus}; this machine has {torch.cuda.device_count()}"
        )
    if not 0 <= args.machine_rank < args.num_machines:
        raise ValueError(
            f"--machine-rank is {args.machine_rank}; expected 0 to {args.num_machines - 1}, as of "
            "--num-machines"
        )
    if args.dist_url == "auto" and args.num_machines > 1:
        raise ValueError(
            "--dist-url is auto, which is for one machine; expected tcp://HOST:PORT of the first"
        )


def _run(main: Callable[[argparse.Namespace], object], args: argparse.Namespace) -> None:
    """Run the job, and exit on all ranks together, as gloo aborts a rank whose peer has exited."""
    if not dist.is_initialized():
        main(args)
        return
    patient_group()  # created now, as later it could have to wait for a rank that has exited
    store = dist.distributed_c10d._get_default_store()
    faults = SharedFaults(store, dist.get_rank(), dist.get_world_size())
    try:
        with tell_faults(getattr(args, "traceback", False), faults.tell), faults.watching():
            main(args)
            comm.synchronize()
    except SystemExit as end:
        if end.code in (EXIT_AFTER_FAULT, EXIT_AFTER_SIGINT):  # other ranks may not get here
            leave(end.code)
        dist.destroy_process_group()
        raise
    dist.destroy_process_group()


@contextlib.contextmanager
def _as_parent() -> Iterator[None]:
    def pass_on(*_) -> None:
        children = multiprocessing.active_children()
        if not children:
            raise SystemExit(EXIT_AFTER_SIGTERM)
        for child in children:
            child.terminate()

    previous = signal.signal(signal.SIGTERM, pass_on)
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)
    try:
        yield
    except KeyboardInterrupt:
        for child in multiprocessing.active_children():
            child.terminate()
        raise
    except ProcessExitedException as error:
        code = error.exit_code
        if code in (EXIT_AFTER_SIGTERM, -signal.SIGTERM):
            raise SystemExit(EXIT_AFTER_SIGTERM) from error
        if code < 0:
            raise RuntimeError(
                f"process {error.error_index} was ended by {signal.Signals(-code).name}"
            ) from None
        raise SystemExit(code) from None
    finally:
        signal.signal(signal.SIGTERM, previous)
