"""The command line ``crnas COMMAND ...``.

This module is outside the package, so that the help does not wait for the import of torch and
Detectron2, which takes seconds.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

PACKAGE = "crnas_d2"
# Each one is main(argv) of the module of its name in crnas_d2/commands.
COMMANDS = {
    "search": "search an architecture, or run the whole procedure of a recipe",
    "train": "train or evaluate a detector, a classifier or a supernet",
    "inspect": "look at datasets before anything is trained on them",
    "predict": "detect objects in images and videos",
    "analyze": "count multiply-adds and parameters, module by module",
    "latency": "measure latencies on this device, for a search on another one",
    "convert": "convert ImageNet weights into those of a backbone",
    "remap": "put trained weights into another architecture or a supernet",
    "export": "export a detector as TorchScript or ONNX",
    "sketch": "draw architectures, side by side",
    "erf": "draw effective receptive fields, side by side",
    "plot": "draw figures of trainings and searches",
    "compare": "say whether one trained detector is better than another, with intervals",
    "visualize": "draw detections beside the ground truth",
    "submit": "submit a training or a search as a job on Slurm",
}


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_) -> None:
        print(parser.prog, importlib.import_module(PACKAGE).__version__)
        parser.exit()


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
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version, and exit")
    parser.add_argument("command", metavar="COMMAND", choices=COMMANDS, help="one of those above")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="of the command")
    args = parser.parse_args(argv)
    sys.argv[0] = f"crnas {args.command}"  # the name that the command's usage line shows
    module = importlib.import_module(f"{PACKAGE}.commands.{args.command}")
    if argv is None:
        # Spawned processes import the module by this name first. Without it they would import
        # Detectron2 before the package can silence its warnings.
        sys.modules["__main__"].__spec__ = sys.modules[PACKAGE].__spec__
    module.main(args.arguments)


if __name__ == "__main__":
    main()
