"""What all commands have in common: how they read their arguments, and how they end."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable, Sequence

from detectron2.engine import default_argument_parser

from ..config_files import find_config_file
from ..engine.examination import Examination
from ..engine.faults import EXIT_AFTER_FAULT, tell_faults

Main = Callable[["Sequence[str] | None"], None]


def command(main: Main) -> Main:
    """Make ``main(argv)`` end with exit code 1 and one sentence where it cannot do what is asked.

    The sentence alone is told, unless ``--traceback`` is among the arguments.
    """

    @functools.wraps(main)
    def wrapped(argv: Sequence[str] | None = None) -> None:
        argv = sys.argv[1:] if argv is None else list(argv)
        with tell_faults("--traceback" in argv):
            main(argv)

    return wrapped


def command_parser(doc: str) -> argparse.ArgumentParser:
    """
    Args:
        doc: of the module of a command. Paragraphs that begin with "crnas " are its examples, and
            come last in the help, under the name by which the program was started.
    """
    description, examples = _split(doc)
    parser = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter)
    return _complete(parser, description, examples)


def run_parser(doc: str) -> argparse.ArgumentParser:
    """As :func:`command_parser`, with Detectron2's arguments of a training.

    :func:`parse_run` reads them.
    """
    description, examples = _split(doc)
    parser = default_argument_parser()
    parser.set_defaults(dist_url="auto")
    parser.add_argument(
        "--verbose", action="store_true", help="show on the terminal all that log.txt has"
    )
    return _complete(parser, description, examples)


def parse_run(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    """The arguments of a run, whose config file is there.

    Raises:
        FileNotFoundError: it is not.
    """
    args = parser.parse_args(argv)
    if not args.config_file:
        parser.error("--config-file is missing")
    args.config_file = find_config_file(args.config_file)
    return args


def end_dry_run(found: Examination) -> None:
    """Tell what was found.

    Raises:
        SystemExit: with the exit code of a fault, where there is something to mend.
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
