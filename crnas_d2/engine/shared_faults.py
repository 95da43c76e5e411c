"""Sharing a fault of one rank with all ranks."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, NoReturn

import torch.distributed as dist

from .faults import EXIT_AFTER_FAULT, log_fault, sentence_of, tell_fault, tell_sentence

# Errors of gloo and NCCL on a rank whose peer has exited, which are not its own fault
PEER_IS_GONE = ("Connection closed by peer", "Connection reset by peer", "ncclRemoteError")
CLAIM, FAULT, HEARD = (f"crnas_d2/{key}" for key in ("claim", "fault", "heard"))
TELLING_S = 10  # seconds that a rank waits for the sentence of the one that failed first
HEARING_S = 5  # seconds that a rank waits until all others have heard of its fault
POLL_S = 0.2


class SharedFaults:
    """Shares the first fault among the ranks of a job.

    The rank that fails first prints its fault and puts it into the store of the job. A thread of
    each other rank polls the store, writes the fault into the log file, prints it if that rank has
    a terminal or a file of its own, and ends the process, whose main thread may otherwise wait for
    the first rank in a collective forever. A rank that has only lost a peer leaves the report to
    that peer, and reports what it knows if nothing is heard from it.

    Args:
        store: store of the job.
        rank, ranks: rank of this process, and number of ranks.
    """

    def __init__(self, store: dist.Store, rank: int, ranks: int):
        self._store = store.clone()  # the main thread may block in the store itself
        self._rank = rank
        self._ranks = ranks
        self._ends = threading.Lock()  # held by the thread that ends this process
        self._is_over = threading.Event()

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """End this process on a fault of another rank, within a ``with`` block."""
        watcher = threading.Thread(target=self._watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            self._is_over.set()

    def tell(self, error: Exception, show_traceback: bool) -> None:
        """Report the fault of this rank, or that of another rank if it came first."""
        self._ends.acquire()
        peer_is_gone = any(words in str(error) for words in PEER_IS_GONE)
        if not peer_is_gone and self._claim():
            tell_fault(error, show_traceback)
            self._put(error)
        elif self._hear():
            return
        elif peer_is_gone:
            tell_sentence(f"rank {self._rank} has lost a rank that has told nothing: {error}")
        else:
            tell_fault(error, show_traceback)

    def _watch(self) -> None:
        while not self._is_over.wait(POLL_S):
            try:
                is_there = self._store.check([FAULT])
            except RuntimeError:  # the main thread will report it
                return
            if is_there and self._ends.acquire(blocking=False):
                self._hear()
                leave(EXIT_AFTER_FAULT)

    def _claim(self) -> bool:
        """Whether this rank is the first one to fail."""
        try:
            return self._store.add(CLAIM, 1) == 1
        except RuntimeError:
            return False

    def _put(self, error: Exception) -> None:
        fault = {"rank": self._rank, "sentence": sentence_of(error), "stderr": _place_of_stderr()}
        with contextlib.suppress(RuntimeError):
            self._store.set(FAULT, json.dumps(fault))
            self._wait_until_heard_by(self._ranks - 1)  # the end of one rank may end all of them
            self._store.add(HEARD, 1)

    def _hear(self) -> bool:
        """Report the first fault, and return whether there was one in time."""
        end = time.monotonic() + TELLING_S
        try:
            while not (is_there := self._store.check([FAULT])) and time.monotonic() < end:
                time.sleep(POLL_S)
            fault = json.loads(self._store.get(FAULT)) if is_there else None
        except RuntimeError:  # the store has ended with the rank that hosts it
            fault = None
        if fault is None:
            time.sleep(max(0, end - time.monotonic()))  # most launchers end this process by then
            return False
        sentence = f"rank {fault['rank']}: {fault['sentence']}"
        log_fault(sentence)
        if fault["stderr"] != _place_of_stderr():
            tell_sentence(sentence)
        with contextlib.suppress(RuntimeError):
            self._store.add(HEARD, 1)
            if self._rank == 0:  # it hosts the store
                self._wait_until_heard_by(self._ranks)
        return True

    def _wait_until_heard_by(self, ranks: int) -> None:
        end = time.monotonic() + HEARING_S
        while self._store.add(HEARD, 0) < ranks and time.monotonic() < end:
            time.sleep(POLL_S / 10)


def leave(code: int) -> NoReturn:
    """Exit at once, without the destruction of the process group, which would wait for other ranks."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _place_of_stderr() -> list[Any]:
    """Identify the file behind stderr, to tell whether two ranks print to the same place."""
    status = os.fstat(2)
    return [socket.gethostname(), status.st_dev, status.st_ino, status.st_rdev]
