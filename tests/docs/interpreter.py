"""Runs Python scripts as a reader of the documents does, each in a process of its own."""

import os
from pathlib import Path

from warm_python import WarmPython

REDUCED, PARSE_ONLY = (Path(__file__).with_name(f"{name}.py") for name in ("reduced", "parse_only"))


class Interpreter:
    """``python`` in a folder.

    Args:
        folder: where scripts run.
        environment: of the scripts.
        timeout_s: a script that takes longer is an error.
    """

    def __init__(self, folder, environment, timeout_s):
        self._folder = folder
        self._environment = environment
        self._timeout_s = timeout_s
        self._python = WarmPython(environment)

    def run(self, arguments, environment=(), parse_only=False):
        """Run ``python ARGUMENTS``.

        Args:
            parse_only: end as soon as the script has read its command line, and print it as JSON.

        Returns:
            The exit code (below 0: the signal), and all that was printed.
        """
        log = Path(self._folder) / "printed.txt"
        with open(os.devnull) as nothing, log.open("w") as printed:
            process = self._python.start(
                ["-W", "ignore", *arguments],
                *(nothing, printed, printed),
                cwd=self._folder,
                environment={**self._environment, **dict(environment)},
                prelude=PARSE_ONLY if parse_only else REDUCED,
            )
            code = process.wait(self._timeout_s)
        return code, log.read_text(errors="replace")

    def close(self):
        self._python.close()
