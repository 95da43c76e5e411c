import multiprocessing
import signal

from warm_python import ENVIRONMENT, WarmPython


def test_closes_beside_a_child_of_this_process():
    """As a worker of a loader is, which has the sockets of this process."""
    python = WarmPython(ENVIRONMENT)
    child = multiprocessing.get_context("fork").Process(target=signal.pause)
    child.start()
    python.close()
    assert child.is_alive()
    child.kill()
    child.join()
