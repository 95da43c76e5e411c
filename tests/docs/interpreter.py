"""Runs Python scripts, each in a process of its own, without importing torch each time.

As a script: imports what they have in common, and then forks a process for each request.
"""

import json
import os
import runpy
import signal
import subprocess
import sys
import traceback
from functools import partialmethod
from pathlib import Path


class Interpreter:
    """``python`` in a folder.

    Args:
        folder: where scripts run.
        environment: of the scripts.
        timeout_s: a script that takes longer is killed.
    """

    def __init__(self, folder, environment, timeout_s):
        self._timeout_s = timeout_s
        self._server = subprocess.Popen(
            [sys.executable, "-W", "ignore", __file__],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._log = Path(folder) / "printed.txt"

    def run(self, arguments, environment=(), parse_only=False):
        """Run ``python ARGUMENTS``.

        Args:
            parse_only: end as soon as the script has read its command line, and print it as JSON.

        Returns:
            The exit code (below 0: the signal), and all that was printed.
        """
        request = {
            "arguments": list(arguments),
            "environment": dict(environment),
            "log": str(self._log),
            "timeout_s": self._timeout_s,
            "parse_only": parse_only,
        }
        print(json.dumps(request), file=self._server.stdin, flush=True)
        code = json.loads(self._server.stdout.readline())
        return code, self._log.read_text(errors="replace")

    def close(self):
        self._server.stdin.close()
        self._server.wait()
        self._server.stdout.close()


def serve():
    import crnas_d2.analysis
    import crnas_d2.engine
    import crnas_d2.procedure  # noqa: F401

    for line in sys.stdin:
        request = json.loads(line)
        process = os.fork()
        if process == 0:
            run(**request)
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)


def run(arguments, environment, log, timeout_s, parse_only):
    """Be the process of a script; does not return."""
    signal.alarm(timeout_s)
    os.environ.update(environment)
    with open(log, "w") as printed, open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
        os.dup2(printed.fileno(), 1)
        os.dup2(printed.fileno(), 2)
    if parse_only:
        stop_after_parsing()
    code = 1
    try:
        if arguments[0] == "-m":
            sys.argv = arguments[1:]
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = arguments
            sys.path[0] = os.path.dirname(os.path.realpath(arguments[0]))
            runpy.run_path(arguments[0], run_name="__main__")
        code = 0
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        else:
            code = end.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def stop_after_parsing():
    import argparse

    for name in ("parse_args", "parse_intermixed_args"):
        original = getattr(argparse.ArgumentParser, name)
        setattr(argparse.ArgumentParser, name, partialmethod(parse_and_stop, original))


def parse_and_stop(parser, original, *args, **kwargs):
    print(json.dumps(vars(original(parser, *args, **kwargs)), default=str))
    raise SystemExit(0)


if __name__ == "__main__":
    serve()
