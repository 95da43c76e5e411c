"""The command line ``crnas COMMAND ...``, which is also ``python -m crnas_d2 COMMAND ...``."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from . import __version__
from .commands import COMMANDS


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command of the package.

    Args:
        argv: the name of the command and its arguments. By default those of the process are used.
    """
    parser = argparse.ArgumentParser(
        prog="crnas",
        description="Computation reallocation for object detection. Commands:\n\n"
        + "\n".join(f"  {name:<11}{line}" for name, line in COMMANDS.items()),
        epilog="crnas COMMAND --help tells what a command takes.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument("command", metavar="COMMAND", choices=COMMANDS, help="one of those above")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="of the command")
    args = parser.parse_args(argv)
    sys.argv[0] = f"crnas {args.command}"  # the name that the command's usage line shows
    module = importlib.import_module(f"{__package__}.commands.{args.command}")
    module.main(args.arguments)


if __name__ == "__main__":
    # Spawned processes import the module by this name first. Without it they would import
    # Detectron2 before the package can silence its warnings.
    __spec__ = sys.modules[__package__].__spec__
    main()
