"""A recipe: one file that names the configs of all steps, and their common settings."""

from __future__ import annotations

import os
import pickle
from collections.abc import Sequence

from detectron2.config import CfgNode

from ..config import configs_dir, read_config
from ..config_files import find_config_file, read_config_files
from ..config_values import merge_opts, merge_values
from ..paths import is_remote
from .seed import Seed

STEP_CONFIGS = (
    "STAGE_PRETRAINING",
    "STAGE_SUPERNET",
    "DILATION_PRETRAINING",
    "DILATION_SUPERNET",
    "FINAL_PRETRAINING",
)


class Recipe:
    """A config with a ``SEARCH.RECIPE``.

    All other settings of its file and of the command line apply to the config of every step.

    Attributes:
        path: path of its file.
        opts: keys and values of the command line.
        cfg: the recipe itself, read as a config.
        names: config files by their keys in ``SEARCH.RECIPE``, and that of ``SEARCH.FINAL`` by
            "FINAL". Empty for a key that names none.
        seed: the weights from which the trainings start. None if there are none.
        budgets: names of the budgets, as in the stage search's result, each of which ends with its
            own network. A single empty name if there is only one.
    """

    def __init__(self, path: str, opts: Sequence[str] = ()):
        """
        Args:
            path: path of a YAML file.
            opts: alternating keys and values, which override those of all files.

        Raises:
            OSError: this file, or one that it names, does not exist.
            ValueError: one of the files has invalid content.
        """
        self.path = path = find_config_file(path)
        self.cfg = read_config(path, opts)
        self.opts = list(opts)
        self._common = read_config_files(path)
        for _, content in self._common:
            content.get("SEARCH", {}).pop("RECIPE", None)
        self._read: dict[str, bytes] = {}  # pickled configs by their files
        recipe = self.cfg.SEARCH.RECIPE
        self.names = {key: self._find(f"RECIPE.{key}", recipe[key]) for key in STEP_CONFIGS}
        self.names["FINAL"] = self._find("FINAL", self.cfg.SEARCH.FINAL)
        weights = recipe.SEED_WEIGHTS
        self.seed = Seed(weights, self.cfg.MODEL.INIT) if weights else None
        stages = self.names["STAGE_SUPERNET"]
        budgets = dict.fromkeys(self.config(stages).SEARCH.BUDGETS) if stages else {}
        self.budgets = list(map(str, budgets)) if len(budgets) > 1 else [""]

    def config(self, path: str) -> CfgNode:
        """Get a config with the settings of the recipe and of the command line.

        A file is read once, so that changing it does not change a procedure that runs.
        If the config says so, the settings that the seed weights need are applied too.
        """
        if path not in self._read:
            cfg = read_config(path)
            for file, content in self._common:
                merge_values(cfg, content, file)
            merge_opts(cfg, self.opts)
            if self.seed:
                self.seed.take_settings(cfg)
            self._read[path] = pickle.dumps(cfg)
        return pickle.loads(self._read[path])  # many times as fast as to read or to clone it

    def _find(self, key: str, name: str) -> str:
        return find_config(f"{self.path}: SEARCH.{key}", name, self.path) if name else ""


def folder_of(budget: str) -> str:
    """Get the folder for one of several budgets, below ``OUTPUT_DIR`` and with a trailing slash.

    It is empty if there is only one budget.
    """
    return f"budget_{budget}/" if budget else ""


def is_recipe(cfg: CfgNode) -> bool:
    """Whether a config names the steps of a procedure."""
    return bool(cfg.SEARCH.RECIPE.STAGE_SUPERNET or cfg.SEARCH.RECIPE.DILATION_SUPERNET)


def find_config(what: str, name: str, beside: str) -> str:
    """Find a file that a config names.

    Args:
        what: the key that names it, for the error message.
        name: name of a file in the folder of ``beside``, or one that :func:`crnas_d2.get_config`
            takes.
        beside: path of the config.

    Raises:
        FileNotFoundError: there is no such file.
    """
    if is_remote(name):
        return find_config_file(name)
    places = [os.path.join(folder, name) for folder in (os.path.dirname(beside), configs_dir())]
    for path in places:
        if os.path.isfile(path):
            return os.path.normpath(path)
    raise FileNotFoundError(f"{what} is {name!r}; there is no file {places[0]} nor {places[1]}")
