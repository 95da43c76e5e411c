"""Searches over a trained supernet of toy size, by search_net.py."""

import json
from pathlib import Path

from warm_python import warm_python

from crnas_d2.commands import search as search_command

from detectron2.engine import default_argument_parser

SEARCH_NET = Path(__file__).resolve().parents[1] / "search_net.py"


def search(config, folder, *opts):
    opts = ["OUTPUT_DIR", folder, *opts]
    args = default_argument_parser().parse_args(["--config-file", *map(str, [config, *opts])])
    args.eval_only = True
    return search_command.search_supernet(args)


def in_two_processes(config, folder, *opts):
    """What search_net.py prints."""
    command = [SEARCH_NET, "--config-file", config, "--num-gpus", "2", "--dist-url", "auto"]
    run = warm_python().run([*command, "OUTPUT_DIR", folder, *opts], cwd=config.parent)
    assert run.returncode == 0, run.stderr[-4000:]
    return run.stdout


def result_of(folder):
    return json.loads((folder / "result.json").read_text())
