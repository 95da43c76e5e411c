"""The commands that a page shows, as they work where the search was started."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Mapping

from detectron2.utils import comm

from ..search.records import Network


def _command(name: str, *args: str) -> str:
    """A command of this project, by its console script where that is installed."""
    script = shutil.which("crnas")
    installed = script and os.path.dirname(script) == os.path.dirname(sys.executable)
    program = ["crnas"] if installed else [sys.executable, "-m", "crnas_d2"]
    return shlex.join([*program, name, *args])


def _processes() -> list[str]:
    """As many on a machine as write this report."""
    return ["--num-gpus", str(comm.get_local_size())]


def how_to_use(folder: str, final_config: str, found: Network) -> Mapping[str, str]:
    """Commands on the detector that was found, by what they do.

    Args:
        folder: ``OUTPUT_DIR`` of the search.
        final_config: its ``final.yaml``.
        found: the detector.
    """
    config = ["--config-file", final_config, *_processes()]
    train = _command("train", *config, "OUTPUT_DIR", "output/found")
    commands = {"Train it:": train}
    if found.weights:
        commands = {
            f"Train it further; the head of {final_config} says how to train it anew:": train
        }
        commands["Find objects on your own pictures with its trained weights:"] = _command(
            "predict", "--model", folder, "--input", "photos", "--output", "predictions"
        )
        commands["Test them again:"] = _command(
            "train", *config, "--eval-only", "MODEL.WEIGHTS", found.weights
        )
    return commands


def how_to_watch(folder: str) -> str:
    """The command that shows the losses while they fall."""
    return shlex.join(["tensorboard", "--logdir", folder])
