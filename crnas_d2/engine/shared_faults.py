"""A fault of one rank, of which all ranks hear."""

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

# What a rank says whose peer is gone, of gloo and of NCCL. That is no fault of its own.
PEER_IS_GONE = ("Connection closed by peer", "Connection reset by peer", "ncclRemoteError")
CLAIM, FAULT, HEARD = (f"crnas_d2/{key}" for key in ("claim", "fault", "heard"))
TELLING_S = 10  # so long a rank that failed later waits for the first one's sentence
HEARING_S = 5  # so long it waits until all others have heard of it
POLL_S = 0.2


class SharedFaults:
    """What the ranks of a job know of the first fault of one of them.

    The rank that fails first tells its fault and puts it into the store of the job. A thread of
    each other rank looks for it there, writes it into the log file, tells it where that rank has a
    terminal or a file of its own, and ends the process: its main thread may wait for the first rank
    in a collective, for ever. A rank that has only lost a peer leaves the telling to that peer, and
    tells what it knows where nothing is heard of it.

    Args:
        store: of the job.
        rank, ranks: of this process, and how many there are.
    """

    def __init__(self, store: dist.Store, rank: int, ranks: int):
        self._store = store.clone()  # as the main thread may wait in the store itself
        self._rank = rank
        self._ranks = ranks
        self._ends = threading.Lock()  # is held by the thread that ends this process
        self._is_over = threading.Event()

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Within it, a fault of another rank ends this process."""
        watcher = threading.Thread(target=self._watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            self._is_over.set()

    def tell(self, error: Exception, show_traceback: bool) -> None:
        """Tell the fault of this rank, or the one of another that was before it."""
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
            except RuntimeError:  # of which the main thread will tell
                return
            if is_there and self._ends.acquire(blocking=False):
                self._hear()
                leave(EXIT_AFTER_FAULT)

    def _claim(self) -> bool:
        """Whether no other rank has failed before."""
        try:
            return self._store.add(CLAIM, 1) == 1
        except RuntimeError:
            return False

    def _put(self, error: Exception) -> None:
        fault = {"rank": self._rank, "sentence": sentence_of(error), "stderr": _place_of_stderr()}
        with contextlib.suppress(RuntimeError):
            self._store.set(FAULT, json.dumps(fault))
            self._wait_until_heard_by(self._ranks - 1)  # as the end of one rank may end all
            self._store.add(HEARD, 1)

    def _hear(self) -> bool:
        """Tell the first fault; whether there was one, in time."""
        end = time.monotonic() + TELLING_S
        try:
            while not (is_there := self._store.check([FAULT])) and time.monotonic() < end:
                time.sleep(POLL_S)
            fault = json.loads(self._store.get(FAULT)) if is_there else None
        except RuntimeError:  # the store has ended with the rank that keeps it
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
            if self._rank == 0:  # which keeps the store
                self._wait_until_heard_by(self._ranks)
        return True

    def _wait_until_heard_by(self, ranks: int) -> None:
        end = time.monotonic() + HEARING_S
        while self._store.add(HEARD, 0) < ranks and time.monotonic() < end:
            time.sleep(POLL_S / 10)


def leave(code: int) -> NoReturn:
    """End this process without a word to the others, for which the end of a process group waits."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _place_of_stderr() -> list[Any]:
    """By which two ranks know that what they tell is read in one place."""
    status = os.fstat(2)
    return [socket.gethostname(), status.st_dev, status.st_ino, status.st_rdev]
