"""The commands that a page shows, as they work where the search was started."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Mapping

from detectron2.utils import comm

from ..procedure.networks import Network


def _command(name: str, *args: str) -> str:
    """A command of this project, by its console script where that is installed."""
    script = shutil.which("crnas")
    installed = script and os.path.dirname(script) == os.path.dirname(sys.executable)
    program = ["crnas"] if installed else [sys.executable, "-m", "crnas_d2"]
    return shlex.join([*program, name, *args])


def how_to_use(
    folder: str, final_config: str, baseline: Network, found: Network
) -> Mapping[str, str]:
    """Commands on the detector that was found, by what they do.

    Args:
        folder: ``OUTPUT_DIR`` of the search.
        final_config: its ``final.yaml``.
        baseline, found: the networks.
    """
    if not (baseline.weights and found.weights):
        train = _command(*_training(final_config), "OUTPUT_DIR", "output/found")
        return {"Train it:": train}
    trainings = [os.path.dirname(network.weights) for network in (found, baseline)]
    seed = max(0, *(training.seed for training in found.trainings)) + 1
    again = (
        [*_training(f"{path}/config.yaml"), "SEED", str(seed), "OUTPUT_DIR", f"{path}_seed{seed}"]
        for path in trainings
    )
    compared = [folder] if len(found.trainings) > 1 else trainings[::-1]
    predict = ["predict", "--model", folder, "--input", "photos", "--output", "predictions"]
    return {
        "Find objects on your own pictures:": _command(*predict),
        "Train both with another seed:": "\n".join(_command(*words) for words in again),
        "Compare the two, with intervals:": _command("compare", *compared),
        "Test that detector again:": _command(*_training(final_config), "--eval-only"),
    }


def _training(config: str) -> list[str]:
    """With as many processes on a machine as write this report."""
    return ["train", "--config-file", config, "--num-gpus", str(comm.get_local_size())]


def how_to_watch(folder: str) -> str:
    """The command that shows the losses while they fall."""
    return shlex.join(["tensorboard", "--logdir", folder])
