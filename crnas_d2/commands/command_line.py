"""The common base of all commands: how they parse arguments, and how they exit."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any

from detectron2.engine import default_argument_parser

from ..config_files import find_config_file
from ..engine.examination import Examination
from ..engine.faults import EXIT_AFTER_FAULT, tell_faults

Main = Callable[["Sequence[str] | None"], None]


def command(main: Main) -> Main:
    """Decorate ``main(argv)`` to exit with code 1 and one sentence if it cannot do what is asked.

    The traceback is only shown if ``--traceback`` is among the arguments.
    """

    @functools.wraps(main)
    def wrapped(argv: Sequence[str] | None = None) -> None:
        argv = sys.argv[1:] if argv is None else list(argv)
        with tell_faults("--traceback" in argv):
            main(argv)

    return wrapped


def command_parser(doc: str) -> argparse.ArgumentParser:
    """Create the argument parser of a command.

    Args:
        doc: docstring of the command's module. Paragraphs that begin with "crnas " are its
            examples. They are shown at the end of the help, with the name by which the program was
            started.
    """
    description, examples = _split(doc)
    parser = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter)
    return _complete(parser, description, examples)


def run_parser(doc: str) -> argparse.ArgumentParser:
    """Same as :func:`command_parser`, with Detectron2's arguments for a training.

    :func:`parse_run` parses them.
    """
    description, examples = _split(doc)
    parser = default_argument_parser()
    parser.set_defaults(dist_url="auto")
    parser.add_argument(
        "--verbose", action="store_true", help="show on the terminal all that log.txt has"
    )
    return _complete(parser, description, examples)


class _Score(argparse.Action):
    """Stores a score, which has to be from 0 to 1."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        if not 0 <= values <= 1:
            parser.error(f"{option_string} is {values}; expected a value from 0 to 1")
        setattr(namespace, self.dest, values)


def add_conf_threshold(parser: argparse.ArgumentParser, purpose: str) -> None:
    """Add the option for the lowest score of a detection ``purpose``, such as "to show"."""
    parser.add_argument(
        "--conf-threshold",
        action=_Score,
        type=float,
        default=0.5,
        help=f"lowest score {purpose} (default: %(default)s)",
    )


def parse_run(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the arguments of a run, and find its config file.

    Raises:
        FileNotFoundError: the config file does not exist.
    """
    args = parser.parse_args(argv)
    if not args.config_file:
        parser.error("--config-file is missing")
    args.config_file = find_config_file(args.config_file)
    return args


def end_dry_run(found: Examination) -> None:
    """Print the findings of a dry run.

    Raises:
        SystemExit: with the exit code of a fault, if there is one.
    """
    print(found.describe())
    if not found.is_ready:
        raise SystemExit(EXIT_AFTER_FAULT)


def _split(doc: str) -> tuple[str, str]:
    paragraphs = doc.strip().split("\n\n")
    examples = "\n".join(text for text in paragraphs if text.startswith("crnas "))
    return "\n\n".join(text for text in paragraphs if not text.startswith("crnas ")), examples


def _complete(
    parser: argparse.ArgumentParser, description: str, examples: str
) -> argparse.ArgumentParser:
    name = " ".join(examples.split()[:2])
    lines = examples.replace(name, parser.prog).splitlines()
    parser.description = description
    parser.epilog = "\n".join(["examples:", *(f"  {line}" for line in lines)])
    parser.add_argument(
        "--traceback", action="store_true", help="show where an error was raised, too"
    )
    return parser
