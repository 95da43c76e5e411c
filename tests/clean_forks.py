"""Processes that begin in no time, as forks of one that has imported the package and has no threads.

A fork of a process that has scored detections would wait for the threads of the scoring.
"""

import multiprocessing

from warm_python import IMPORTED

clean_forks = multiprocessing.get_context("forkserver")
# Modules of the package alone: Python 3.11 does not look for them where this process does.
clean_forks.set_forkserver_preload(IMPORTED)
