"""One run at a time writes into a folder."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import socket
from collections.abc import Iterator

from .files import clean_temporaries, is_remote

logger = logging.getLogger(__name__)

LOCK_FILE = ".lock"


@contextlib.contextmanager
def folder_lock(folder: str) -> Iterator[None]:
    """Within it, this process is the only one that writes into a local folder, which is made.

    However the process ends, the lock ends with it; its file ``.lock`` stays. There is no lock where
    nothing can be written, nor for a URI, nor between threads of one process.

    Raises:
        BlockingIOError: another process has the lock.
    """
    with contextlib.ExitStack() as stack:
        if not is_remote(folder):
            try:
                os.makedirs(folder, exist_ok=True)
                descriptor = os.open(os.path.join(folder, LOCK_FILE), os.O_RDWR | os.O_CREAT, 0o666)
            except OSError as error:
                if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
                    raise
                logger.debug(f"there is no lock for {folder}: {error}")
            else:
                stack.callback(os.close, descriptor)
                _lock(descriptor, folder, fcntl.LOCK_EX)
                with contextlib.suppress(OSError):  # for the message of others alone
                    os.ftruncate(descriptor, 0)
                    os.write(
                        descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode()
                    )
                clean_temporaries(folder)
        yield


def check_unlocked(folder: str) -> None:
    """Check before any work that no other process writes into a folder. Nothing is written.

    Within :func:`folder_lock` of the same folder, it would end the lock.

    Raises:
        BlockingIOError: one has its lock.
    """
    try:
        descriptor = os.open(os.path.join(folder, LOCK_FILE), os.O_RDWR)
    except OSError:
        return  # as where there is none, or nothing can be written
    try:
        _lock(descriptor, folder, fcntl.LOCK_SH)  # which several may have at once
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: str, kind: int) -> None:
    """A lock of POSIX, which children of the process do not inherit."""
    try:
        fcntl.lockf(descriptor, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            logger.warning(f"{folder} cannot be locked ({error}); run nothing else there")
            return
        owner = os.pread(descriptor, 1000, 0).decode(errors="replace") or "another process"
        raise BlockingIOError(
            f"{folder} is being written by {owner}; wait for its end, stop it, or choose another "
            "OUTPUT_DIR"
        ) from None
