"""Settings that weights need apart from the shapes of their network, and checks of configs."""

from __future__ import annotations

import ast
import logging
import math
import shlex
from collections.abc import Mapping

import yaml

from detectron2.config import CfgNode

from ..config import flatten_config
from ..modeling.builder_names import neck_of

logger = logging.getLogger(__name__)

# Keys of the settings, by their names in the header of a file
SETTINGS = {
    "input_format": "INPUT.FORMAT",
    "pixel_mean": "MODEL.PIXEL_MEAN",
    "pixel_std": "MODEL.PIXEL_STD",
    "stride_in_1x1": "MODEL.RESNETS.STRIDE_IN_1X1",
    "res5_dilation": "MODEL.RESNETS.RES5_DILATION",
    "norm": "MODEL.RESNETS.NORM",
    "fpn_norm": "MODEL.FPN.NORM",
}
MODES = ("check", "take", "ignore")  # values of MODEL.INIT.SETTINGS
# Norms with the same tensors
BATCH_NORMS = ("BN", "SyncBN", "naiveSyncBN", "naiveSyncBN_N", "nnSyncBN", "FrozenBN")
CLOSE = 1e-3  # relative tolerance, as means and stds are written with more or fewer digits


def check_settings(settings: Mapping[str, str], cfg: CfgNode, name: str) -> None:
    """Refuse a config with which weights would not compute what they were trained to compute.

    Args:
        settings: config values that the weights need, as strings by config key.
        cfg: the config. If ``MODEL.INIT.SETTINGS`` is "ignore", there is a warning instead of an
            error.
        name: name of the weights, for the message.

    Raises:
        ValueError: a key has another value. The message has both, and what to add.
    """
    wanted = find_contradictions(settings, cfg)
    if not wanted:
        return
    flat = flatten_config(cfg)
    lines = [f"{k}: {v!r} in the file, {flat[k]!r} in the config" for k, v in wanted.items()]
    message = "\n  ".join([f"weights {name} need other settings than those of the config:", *lines])
    if cfg.MODEL.INIT.SETTINGS == "ignore":
        logger.warning(f"{message}\nMODEL.INIT.SETTINGS is 'ignore': the config's are used")
        return
    raise ValueError(
        f"{message}\nAdd to the command\n  {as_command(wanted)}\nor to the end of the config file"
        f"\n  {as_yaml(wanted).replace(chr(10), f'{chr(10)}  ')}\nor MODEL.INIT.SETTINGS take, which "
        "does the same; with MODEL.INIT.SETTINGS ignore the config's are used"
    )


def take_settings(settings: Mapping[str, str], cfg: CfgNode, name: str) -> list[str]:
    """Apply the settings that weights need to a config, in place.

    Args:
        settings, name: see :func:`check_settings`.
        cfg: an unfrozen config.

    Returns:
        A sentence for each key whose value has changed.
    """
    wanted, flat = find_contradictions(settings, cfg), flatten_config(cfg)
    for key, value in wanted.items():
        cfg.merge_from_list([key, value])
    return [f"{k} is {v!r}, which {name} needs, and not {flat[k]!r}" for k, v in wanted.items()]


def find_contradictions(settings: Mapping[str, str], cfg: CfgNode) -> dict[str, str]:
    """Get the settings that differ from a config, as far as its model uses them."""
    flat = flatten_config(cfg)
    return {
        key: value
        for key, value in settings.items()
        if _matters(key, cfg) and not _is_same(key, value, flat[key])
    }


def as_command(settings: Mapping[str, str]) -> str:
    """Format keys and values as command-line arguments."""
    return " ".join(f"{key} {shlex.quote(value)}" for key, value in settings.items())


def as_yaml(settings: Mapping[str, str]) -> str:
    """Format keys and values as lines of a config file."""
    return "\n".join(f"{key}: {value or repr(value)}" for key, value in settings.items())


def as_header(settings: Mapping[str, str]) -> dict[str, str]:
    """Format settings as the header of a file."""
    texts = {name: settings[key] for name, key in SETTINGS.items() if key in settings}
    return {name: text or repr(text) for name, text in texts.items()}


def from_header(header: Mapping[str, str]) -> dict[str, str]:
    """Parse the result of :func:`as_header`."""
    return {
        key: str(yaml.safe_load(header[name])) for name, key in SETTINGS.items() if name in header
    }


def _matters(key: str, cfg: CfgNode) -> bool:
    """Whether the value of a key makes a difference for a model."""
    model, neck = cfg.MODEL, neck_of(cfg.MODEL.BACKBONE.NAME)
    is_resnet = model.CR.FAMILY == "resnet"
    detects = model.META_ARCHITECTURE != "ImageClassifier"
    if key == "MODEL.RESNETS.STRIDE_IN_1X1":
        return is_resnet and model.CR.BLOCK == "bottleneck"
    if key == "MODEL.RESNETS.RES5_DILATION":  # it does not apply under a pyramid
        return is_resnet and detects and not neck
    if key == "MODEL.FPN.NORM":
        return detects and neck in ("fpn", "retinanet_fpn")
    return True


def _is_same(key: str, there: str, here: str) -> bool:
    if key == "MODEL.FPN.NORM" and there in BATCH_NORMS:
        return here in BATCH_NORMS
    if key not in ("MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD"):
        return there == here
    one, other = ast.literal_eval(there), ast.literal_eval(here)
    return len(one) == len(other) and all(
        math.isclose(a, b, rel_tol=CLOSE) for a, b in zip(one, other)
    )
