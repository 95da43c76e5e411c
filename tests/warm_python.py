"""Processes of Python that begin in no time, as forks of one that has imported what they need.

As a script: imports it, and then forks a process for each request. A test of the import itself, or
of processes that Detectron2's launcher spawns, starts real ones instead.
"""

import atexit
import functools
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
IMPORTED = [
    f"crnas_d2.{name}" for name in ("analysis", "commands", "engine", "procedure", "report")
]


class WarmPython:
    """``python`` in an environment.

    Args:
        environment: of the imports.
    """

    def __init__(self, environment):
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._server = subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno())],
            env=environment,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
        )
        theirs.close()

    def start(
        self,
        arguments,
        stdin,
        stdout,
        stderr,
        cwd=None,
        environment=None,
        own_session=False,
        prelude="",
    ):
        """Start ``python ARGUMENTS``.

        Args:
            stdin, stdout, stderr: files, or descriptors of them.
            own_session: whether it leads a group of processes.
            prelude: a script that runs before, in the same process.

        Returns:
            A :class:`Process`.
        """
        told, tell = socket.socketpair()
        request = {
            "arguments": list(map(str, arguments)),
            "cwd": str(cwd or os.getcwd()),
            "environment": dict(environment or environment_of_tests()),
            "own_session": own_session,
            "prelude": str(prelude),
        }
        files = [f if isinstance(f, int) else f.fileno() for f in (stdin, stdout, stderr, tell)]
        socket.send_fds(self._requests, [json.dumps(request).encode()], files)
        tell.close()
        return Process(told)

    def run(self, arguments, cwd=None, environment=None):
        """Run ``python ARGUMENTS`` to its end. Returns a ``subprocess.CompletedProcess`` of texts."""
        with open(os.devnull) as nothing, _text_file() as out, _text_file() as err:
            process = self.start(arguments, nothing, out, err, cwd, environment)
            code = process.wait()
            out.seek(0), err.seek(0)
            return subprocess.CompletedProcess(arguments, code, out.read(), err.read())

    def close(self):
        """Does not wait for the other end to be closed: a fork of this process that lives on has it too."""
        self._server.kill()
        self._server.wait()
        self._requests.close()


def _text_file():
    return tempfile.TemporaryFile("w+", errors="replace", newline="")


class Process:
    """Like one of ``subprocess``.

    Attributes:
        pid: of the process.
        returncode: None while it runs.
    """

    def __init__(self, told):
        self._told = told.makefile()
        self._socket = told
        self.pid = int(self._told.readline())
        self.returncode = None

    def wait(self, timeout=None):
        if self.returncode is None:
            self._socket.settimeout(timeout)
            try:
                self.returncode = int(self._told.readline())
            except TimeoutError:
                raise subprocess.TimeoutExpired("python", timeout) from None
            self._socket.close()
        return self.returncode

    def poll(self):
        if self.returncode is None and _has_ended(self.pid):
            self.wait()
        return self.returncode

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)


def _has_ended(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"


def environment_of_tests():
    """That of this process, with this checkout, one thread and no GPU."""
    path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }


# Before a test changes its own, which the imports of all later ones would have
ENVIRONMENT = environment_of_tests()


@functools.cache
def warm_python():
    """The one that tests share."""
    python = WarmPython(ENVIRONMENT)
    atexit.register(python.close)
    return python


def serve(requests):
    for name in IMPORTED:
        importlib.import_module(name)
    gc.freeze()
    while True:
        message, files, *_ = socket.recv_fds(requests, 1 << 20, 4)
        if not message:
            return
        _forget_ended()
        if os.fork() == 0:
            requests.close()
            _keep(json.loads(message), files)
        for file in files:
            os.close(file)


def _forget_ended():
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def _keep(request, files):
    """Be the parent of a process: tell its number and its exit code."""
    *files, tell = files
    pid = os.fork()
    if pid == 0:
        os.close(tell)
        _be(*files, **request)
    for file in files:
        os.close(file)
    os.write(tell, f"{pid}\n".encode())
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.write(tell, f"{code}\n".encode())
    os._exit(0)


def _be(stdin, stdout, stderr, arguments, cwd, environment, own_session, prelude):
    """Be the process; does not return."""
    code = 1
    try:
        if own_session:
            os.setsid()
        for target, file in enumerate((stdin, stdout, stderr)):
            os.dup2(file, target)
            os.close(file)
        sys.stdin = open(0, closefd=False)
        sys.stdout = open(1, "w", 1 if os.isatty(1) else -1, errors="replace", closefd=False)
        sys.stderr = open(2, "w", 1, errors="backslashreplace", closefd=False)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.chdir(cwd)
        os.environ.clear()
        os.environ.update(environment)
        fork_of_launcher()
        if prelude:
            runpy.run_path(prelude)
        _run(arguments)
        code = 0
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        else:
            code = end.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def fork_of_launcher():
    """Detectron2's launcher forks its processes, which have all imports then."""
    import torch.multiprocessing as processes

    processes.start_processes = functools.partial(processes.start_processes, start_method="fork")


def _run(arguments):
    if arguments[0] == "-W":
        warnings.simplefilter(arguments[1])
        arguments = arguments[2:]
    name, *_ = arguments
    if name in ("-c", "-m"):
        sys.argv, sys.path[0] = [name, *arguments[2:]], ""
        if name == "-m":
            sys.argv[0] = arguments[1]
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        else:
            exec(compile(arguments[1], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv, sys.path[0] = arguments, os.path.dirname(os.path.realpath(name))
        runpy.run_path(name, run_name="__main__")


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
