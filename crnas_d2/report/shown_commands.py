"""The commands that a page shows, in a form that works where the search was started."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence

from detectron2.utils import comm

from ..procedure.networks import Network


def _command(name: str, *args: str) -> str:
    """Format a command of this project, with its console script if that is installed."""
    script = shutil.which("crnas")
    installed = script and os.path.dirname(script) == os.path.dirname(sys.executable)
    program = ["crnas"] if installed else [sys.executable, "-m", "crnas_d2"]
    return shlex.join([*program, name, *args])


def how_to_use(folder: str, final_config: str, networks: Sequence[Network]) -> Mapping[str, str]:
    """Get commands for the detector of ``final.yaml``, by what they do.

    Args:
        folder: ``OUTPUT_DIR`` of the search.
        final_config: path of its ``final.yaml``.
        networks: the baseline and the network that was found, if it is another one.
    """
    if not all(network.weights for network in networks):
        train = _command(*_training(final_config), "OUTPUT_DIR", "output/found")
        return {"Train it:": train}
    trainings = [os.path.dirname(network.weights) for network in networks]
    seed = max(0, *(training.seed for training in networks[-1].trainings)) + 1
    again = (
        [*_training(f"{path}/config.yaml"), "SEED", str(seed), "OUTPUT_DIR", f"{path}_seed{seed}"]
        for path in reversed(trainings)
    )
    several_seeds = len(networks[-1].trainings) > 1
    compare = _command("compare", *([folder] if several_seeds else trainings))
    of_two = {"Compare the two, with intervals:": compare} if len(networks) > 1 else {}
    predict = ["predict", "--model", folder, "--input", "photos", "--output", "predictions"]
    return {
        "Find objects on your own images:": _command(*predict),
        f"Train {'both' if of_two else 'it'} with another seed:": "\n".join(
            _command(*words) for words in again
        ),
        **of_two,
        "Test that detector again:": _command(*_training(final_config), "--eval-only"),
    }


def _training(config: str) -> list[str]:
    """Get the training command with as many processes on a machine as this job has."""
    return ["train", "--config-file", config, "--num-gpus", str(comm.get_local_size())]


def how_to_watch(folder: str) -> str:
    """Get the command that shows the losses of running trainings."""
    return shlex.join(["tensorboard", "--logdir", folder])
