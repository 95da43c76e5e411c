"""A lock that lets one run at a time write into a folder."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import socket
from collections.abc import Iterator

from .files import clean_temporaries
from .paths import is_remote

logger = logging.getLogger(__name__)

LOCK_FILE = ".lock"


@contextlib.contextmanager
def folder_lock(folder: str) -> Iterator[None]:
    """Hold the exclusive right to write into a local folder within a ``with`` block.

    The folder is created if needed. The lock is released however the process ends, while its file
    ``.lock`` stays. There is no lock on a read-only folder or a URI, nor between the threads of one
    process.

    Raises:
        BlockingIOError: another process holds the lock.
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
                with contextlib.suppress(OSError):  # only informs others about the owner
                    os.ftruncate(descriptor, 0)
                    os.write(
                        descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode()
                    )
                clean_temporaries(folder)
        yield


def check_unlocked(folder: str) -> None:
    """Check before any work, without writing, that no other process writes into a folder.

    This must not be called within :func:`folder_lock` of the same folder, as it would release that
    lock.

    Raises:
        BlockingIOError: another process holds the lock.
    """
    try:
        descriptor = os.open(os.path.join(folder, LOCK_FILE), os.O_RDWR)
    except OSError:
        return  # there is no lock, or the folder is read-only
    try:
        _lock(descriptor, folder, fcntl.LOCK_SH)  # a shared lock
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: str, kind: int) -> None:
    """Take a POSIX lock, which child processes do not inherit."""
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
