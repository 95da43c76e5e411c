"""Searches by search_net.py, in this process or in two."""

import json
from pathlib import Path

from engine.runs import TWO_PROCESSES, parse
from warm_python import warm_python

from crnas_d2.commands import search as search_command

SEARCH_NET = Path(__file__).resolve().parents[1] / "search_net.py"


def search(config, folder, *opts):
    """Search over a trained supernet."""
    args = parse(config, "OUTPUT_DIR", folder, *opts)
    args.eval_only = True
    return search_command.search_supernet(args)


def in_two_processes(config, folder, *opts):
    """What search_net.py prints."""
    command = [SEARCH_NET, "--config-file", config, *TWO_PROCESSES, "OUTPUT_DIR", folder, *opts]
    run = warm_python().run(command, cwd=config.parent)
    assert run.returncode == 0, run.stderr[-4000:]
    return run.stdout


def result_of(folder):
    return json.loads((folder / "result.json").read_text())
