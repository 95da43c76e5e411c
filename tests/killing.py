"""Processes that kill themselves at a chosen write, whatever the speed of the machine."""

import functools
import os
import signal

from crnas_d2.search.ledger import Ledger


def count_writes(at_write):
    """Call a function with 1, 2, ... before and after each sync, rename and removal of a file, each
    new folder, and each trial in a ledger; from now on, in this process."""
    number = 0

    def counted(function):
        @functools.wraps(function)
        def wrapped(*args, **kwargs):
            nonlocal number
            at_write(number := number + 1)
            result = function(*args, **kwargs)
            at_write(number := number + 1)
            return result

        return wrapped

    for owner, names in ((os, ("fsync", "replace", "remove", "mkdir")), (Ledger, ("record",))):
        for name in names:
            setattr(owner, name, counted(getattr(owner, name)))


def die_at(write):
    """End this process by SIGKILL at its n-th write, from 1."""
    count_writes(lambda number: number == write and os.kill(os.getpid(), signal.SIGKILL))
