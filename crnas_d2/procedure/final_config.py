"""``final.yaml``: the resulting detector, as a config that needs no other file but its weights."""

from __future__ import annotations

import os
import shlex
import textwrap
from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode

from ..architecture import Architecture
from ..checkpoint.seed_network import read_facts
from ..checkpoint.settings import take_settings
from ..config import default_config, read_config, set_architecture
from ..config_values import CUSTOM_DATASETS, map_paths
from ..data import setup_datasets
from ..files import write_signed
from ..paths import is_remote
from ..search.result import FINAL_FILE, as_yaml
from .recipe import find_config

# Keys in the config of a search's detector that belong to the supernet or to the search itself
OF_THE_SEARCH = (
    "OUTPUT_DIR",
    "MODEL.BACKBONE.NAME",
    "MODEL.CR.STAGE_CODE",
    "MODEL.CR.OPERATION_CODE",
    "MODEL.SUPERNET.",
    "MODEL.WEIGHTS",
    "MODEL.INIT.",
    "DATASETS.TRAIN",
    "DATASETS.TEST",
    "SEARCH.",
)

WIDTH = 100
FOUND_NETWORK = "This is the network that a search has found."
NOT_COMPARED = "It was not trained here, nor compared with the baseline: no test has shown a gain."
ON_ARCHVAL = (
    "A short list has compared it with the baseline, on archval alone: no test has shown a gain."
)
IS_BASELINE = "It is the baseline itself."
NOT_YET = "It was not compared with the baseline yet."

HEADER = """\
#
{why}
#
# Everything is in here: the classes, the anchors, the input. A relative name in MODEL.WEIGHTS is that of
# a file beside this one. To change something, copy this file, or take it as a _BASE_: the search writes
# it again.
#
{uses}"""
OF_TRAINED = """\
# It is trained. In this folder, to detect objects in images:
#
#   crnas predict --model {file} --input IMAGES --output FOLDER
#
# or in Python:
#
#   cfg = crnas_d2.get_config("{file}")  # with MODEL.DEVICE "cpu" where there is no GPU
#   predictor = detectron2.engine.DefaultPredictor(cfg)
#
# To train it again from where its training began, {start}; without MODEL.WEIGHTS in the
# command, the training goes on from the trained weights:
#
#   crnas train --config-file {file} OUTPUT_DIR FOLDER {weights}
#
"""
OF_UNTRAINED = """\
# It is not trained. In this folder, to train it from {start}:
#
#   crnas train --config-file {file} OUTPUT_DIR FOLDER {weights}
#
"""


def read_baseline(cfg: CfgNode, config: str, opts: Sequence[str]) -> CfgNode | None:
    """Read the config of the detector that a search over one supernet is for.

    Args:
        cfg: config of the search.
        config: file of that config.
        opts: keys and values of the command line. Those that do not concern the supernet or the
            search apply to the detector too, as do the custom datasets of the search.

    Returns:
        The config that ``SEARCH.FINAL`` names, with its datasets registered. None if it names
        none.

    Raises:
        FileNotFoundError, ValueError: the file does not exist, or its content is invalid.
    """
    final = read_final(cfg, config, opts)
    if final:
        setup_datasets(final)
    return final


def read_final(cfg: CfgNode, config: str, opts: Sequence[str]) -> CfgNode | None:
    """Same as :func:`read_baseline`, but without registering the datasets."""
    if not cfg.SEARCH.FINAL:
        return None
    pairs = zip(opts[::2], opts[1::2], strict=True)
    kept = [word for pair in pairs if not pair[0].startswith(OF_THE_SEARCH) for word in pair]
    final = read_config(find_config("SEARCH.FINAL", cfg.SEARCH.FINAL, config), kept)
    for key in CUSTOM_DATASETS:
        known = {entry[0] for entry in final.DATASETS[key]}
        final.DATASETS[key] += [e for e in cfg.DATASETS[key] if e[0] not in known]
    if cfg.MODEL.INIT.SETTINGS == "take":
        weights, init = cfg.MODEL.WEIGHTS, cfg.MODEL.INIT
        facts = read_facts(weights, init.SOURCE or None, init.PREFIX)
        take_settings(facts.network.settings, final, weights)
    return final


def write_final(
    folder: str,
    cfg: CfgNode,
    architecture: Architecture,
    trained: str = "",
    why: str = f"{FOUND_NETWORK} {NOT_COMPARED}",
) -> None:
    """Write ``final.yaml`` with all keys that differ from their defaults.

    ``OUTPUT_DIR`` and ``SEARCH`` are left out, and paths of datasets are made absolute.

    Args:
        folder: folder of the file.
        cfg: config of the detector. Its datasets have to be registered, so that it has their
            classes. Its weights are the initial weights of a training, which are read as
            ``MODEL.INIT`` says.
        architecture: the architecture to put into it.
        trained: file of the trained weights. Empty if there are none.
        why: a few sentences on which network it is, and why.
    """
    cfg = cfg.clone()
    cfg.defrost()
    set_architecture(cfg, architecture)
    for key in CUSTOM_DATASETS:
        cfg.DATASETS[key] = [map_paths(_absolute, key, entry) for entry in cfg.DATASETS[key]]
    cfg.DATASETS.ARCHVAL.DIR = _absolute(cfg.DATASETS.ARCHVAL.DIR)
    cfg.DATASETS.CACHE_DIR = _absolute(cfg.DATASETS.CACHE_DIR)
    start = _from(folder, cfg.MODEL.WEIGHTS)
    defaults = default_config()
    weights = ["MODEL.WEIGHTS", start]
    for key, value in _changes(cfg.MODEL.INIT, defaults.MODEL.INIT).items():
        weights += [f"MODEL.INIT.{key}", str(value)]
    if trained:
        cfg.MODEL.WEIGHTS, cfg.MODEL.INIT = _from(folder, trained), defaults.MODEL.INIT
    else:
        cfg.MODEL.WEIGHTS = start
    changes = _changes(cfg, defaults)
    for key in ("OUTPUT_DIR", "SEARCH"):
        changes.pop(key, None)
    uses = (OF_TRAINED if trained else OF_UNTRAINED).format(
        file=FINAL_FILE, start=start or "random weights", weights=shlex.join(weights)
    )
    why = textwrap.fill(why, WIDTH, initial_indent="# ", subsequent_indent="# ")
    text = HEADER.format(why=why, uses=uses) + as_yaml({"VERSION": cfg.VERSION, **changes})
    write_signed(os.path.join(folder, FINAL_FILE), text)


def _absolute(path: str) -> str:
    return os.path.abspath(path) if path and not is_remote(path) else path


def _from(folder: str, path: str) -> str:
    """Get the path of a file relative to the folder if it is inside, so that both can be moved."""
    path, folder = _absolute(path), os.path.abspath(folder)
    if path and not is_remote(path) and os.path.commonpath([path, folder]) == folder:
        return os.path.relpath(path, folder)
    return path


def _changes(cfg: CfgNode, defaults: CfgNode) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    for key, value in cfg.items():
        if isinstance(value, CfgNode):
            changes[key] = _changes(value, defaults[key])
        elif value != defaults[key]:
            changes[key] = list(value) if isinstance(value, tuple) else value
    return {key: value for key, value in changes.items() if value != {}}
