"""Runs search_net.py in forked processes, which may be interrupted."""

from __future__ import annotations

import contextlib
import functools
import os
import resource
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from crnas_d2.commands import search as search_command
from crnas_d2.search.ledger import Ledger

HANGS_S = 900  # a longer run hangs, even on a busy machine
ALONE_S = 120  # maximum time in which a rank whose peer was killed ends
OUTPUT = "out"
OPTIONS = ["SOLVER.CHECKPOINT_PERIOD", "2", "SEARCH.SURVIVORS", "1", "OUTPUT_DIR", OUTPUT]
OPTIONS += ["SOLVER.IMS_PER_BATCH", "4"]  # each of two ranks has two images for its norms


def be_rank(
    log: Path, argv: Sequence[str], environment: dict[str, str], patches: Sequence[Callable]
) -> None:
    """Run search_net.py in this forked process. It does not return."""
    code = 1
    try:
        with open(log, "a") as printed, open(os.devnull) as nothing:
            for number, file in enumerate((nothing, printed, printed)):
                os.dup2(file.fileno(), number)
        os.environ.update(environment)
        # A shell makes its background processes ignore it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for patch in patches:
            patch()
        note_trials()
        sys.argv = ["search_net.py", *argv]
        search_command.main(argv)
        code = 0
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


def note_trials() -> None:
    """Add a line to trials.txt for each trial that is committed to the ledger."""
    record = Ledger.record

    @functools.wraps(record)
    def noted(self, trial, *args, **kwargs):
        record(self, trial, *args, **kwargs)
        with open("trials.txt", "a") as file:
            file.write(f"{self._path} {trial.code}\n")

    Ledger.record = noted


def limit_files(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def without_report() -> None:
    search_command.report_procedure = lambda *_: None


class Run:
    """The processes of one start.

    Args:
        folder: folder of the recipe.
        ranks: number of ranks.
        options: options in addition to those of all runs.
        patches: functions that the first ranks call before they start.
        report: whether to write the report.
        name: name of the file for the output.
    """

    def __init__(
        self,
        folder: Path,
        ranks: int,
        options: Sequence[str] = (),
        patches: Sequence[Callable] = (),
        report: bool = False,
        name: str = "printed",
    ):
        self._log = folder / f"{name}.txt"
        self._log.unlink(missing_ok=True)
        argv = ["--config-file", "recipe.yaml", *OPTIONS, *options]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        self.codes: dict[int, int] = {}
        self.pids = []
        for rank in range(ranks):
            environment = {"CUDA_VISIBLE_DEVICES": ""}
            if ranks > 1:
                environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_PORT": port}
                environment |= {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
                environment |= {"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_RUN_ID": "kill_search"}
            own_patches = [] if report else [without_report]
            own_patches += patches[rank : rank + 1]
            sys.stdout.flush()
            pid = os.fork()
            if pid == 0:
                os.chdir(folder)
                be_rank(self._log.absolute(), argv, environment, own_patches)
            self.pids.append(pid)

    def signal(self, number: int, pids: Sequence[int] | None = None) -> None:
        for pid in self.pids if pids is None else pids:
            if pid not in self.codes:
                os.kill(pid, number)

    def wait(self, seconds: float) -> bool:
        """Wait until all processes have ended, and return whether they have.

        Like torchrun, it ends those whose peer has failed.
        """
        end, alone = time.monotonic() + seconds, None
        while len(self.codes) < len(self.pids):
            for pid in self.pids:
                if pid not in self.codes and (found := os.waitpid(pid, os.WNOHANG))[0]:
                    self.codes[pid] = os.waitstatus_to_exitcode(found[1])
            if any(self.codes.values()):
                alone = alone or time.monotonic() + ALONE_S
            if time.monotonic() > min(end, alone or end):
                break
            time.sleep(0.01)
        return len(self.codes) == len(self.pids)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.wait(HANGS_S)

    @property
    def succeeded(self) -> bool:
        return len(self.codes) == len(self.pids) and not any(self.codes.values())

    @property
    def waits_for_the_dead(self) -> bool:
        """Whether a rank waits for one that died before the rendezvous, which torchrun ends."""
        return any(self.codes.values()) and not self.printed

    @property
    def printed(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def sentences(self) -> list[str]:
        return [line for line in self.printed.splitlines() if "search_net.py: error: " in line]
