"""Checks of a config and its weights before any work, without the data."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch

from detectron2.config import CfgNode
from detectron2.utils.file_io import PathManager

from ..checkpoint.classes import CLASS_KEYS
from ..checkpoint.description import CONVENTIONS
from ..checkpoint.same_model import check_same_model, check_same_network
from ..checkpoint.seed_network import Facts, read_facts
from ..checkpoint.settings import MODES, check_settings, take_settings
from ..checkpoint.start import check_start
from ..checkpoint.weights_file import read_checkpoint, read_weights_file
from ..config import get_architecture
from ..config_ranges import list_faults
from ..files import describe_error
from ..modeling import BUILDERS
from ..modeling.keys import check_keys, check_res5_heads
from ..paths import is_remote
from .examination import call
from .model_check import check_parts

logger = logging.getLogger(__name__)


def check_network(
    cfg: CfgNode,
    checkpoint: str | None = None,
    *,
    training: bool,
    has_weights: bool = True,
    check: Callable[..., Any] = call,
) -> list[str] | None:
    """Check everything that can be checked before any work without the data, and choose the device.

    Args:
        cfg: an unfrozen config. If ``MODEL.INIT.SETTINGS`` is "take", it receives the settings that
            its weights need.
        checkpoint: checkpoint from which a training resumes, instead of ``MODEL.WEIGHTS``.
        training: whether the model is trained. Otherwise it is only evaluated.
        has_weights: whether the weights exist already. Otherwise they come from an earlier step.
        check: runs each check, even if an earlier one has found something.

    Returns:
        A sentence for each key that was taken from the weights. None if there is a fault in these.

    Raises:
        ValueError, FileNotFoundError: as :func:`~crnas_d2.engine.setup`.
    """
    faults = list_faults(cfg)
    for fault in faults:
        check(_refuse, fault)
    if faults:
        return None
    _choose_device(cfg)
    check(_check_amp, cfg, training=training)
    taken = []
    if has_weights:
        taken = check(_check_settings, cfg, checkpoint, training=training)
    check(_check_keys, cfg)
    if has_weights and training and checkpoint is None and taken is not None:
        check(_check_start, cfg)
    return taken


def _refuse(fault: str) -> None:
    raise ValueError(fault)


def _check_amp(cfg: CfgNode, *, training: bool) -> None:
    if training and cfg.SOLVER.AMP.ENABLED and cfg.MODEL.DEVICE == "cpu":
        raise ValueError("SOLVER.AMP.ENABLED is True; Detectron2 trains with AMP on GPUs only")


def _check_settings(cfg: CfgNode, checkpoint: str | None, *, training: bool) -> list[str]:
    """Check that the weights exist, and that their settings equal those of the config."""
    if checkpoint is None:
        _check_weights(cfg, training=training)
    return settle_settings(cfg, checkpoint)


def settle_settings(cfg: CfgNode, checkpoint: str | None = None) -> list[str]:
    """Compare the settings that a config's weights need with its own, or take them.

    ``MODEL.INIT.SETTINGS`` decides between the two. Backbones of other projects are not checked.
    The arguments and results are those of :func:`check_network`.

    Raises:
        ValueError: the settings differ, or those of the weights are unknown.
    """
    init, weights = cfg.MODEL.INIT, checkpoint or cfg.MODEL.WEIGHTS
    if init.SETTINGS not in MODES:
        raise ValueError(
            f"MODEL.INIT.SETTINGS is {init.SETTINGS!r}; expected {', '.join(map(repr, MODES))}"
        )
    if init.SOURCE not in ("", *CONVENTIONS):
        raise ValueError(
            f"MODEL.INIT.SOURCE is {init.SOURCE!r}; expected one of {', '.join(CONVENTIONS)}, or ''"
        )
    if not weights or not _is_known(cfg):
        return []
    settings = _facts(cfg, checkpoint).network.settings
    if init.SETTINGS == "take":
        return take_settings(settings, cfg, weights)
    check_settings(settings, cfg, weights)
    return []


def _check_start(cfg: CfgNode, checkpoint: str | None = None) -> None:
    """Refuse weights from which the backbone cannot start."""
    if (checkpoint or cfg.MODEL.WEIGHTS) and _is_known(cfg):
        check_start(_facts(cfg, checkpoint).network, cfg)


def check_trained(cfg: CfgNode, checkpoint: str | None = None) -> None:
    """Refuse to evaluate weights of another network."""
    check_same_network(cfg, _model_config(cfg, checkpoint), checkpoint or cfg.MODEL.WEIGHTS)
    _check_start(cfg, checkpoint)


def check_resumed(cfg: CfgNode, checkpoint: str) -> None:
    """Refuse a checkpoint of another training."""
    check_same_model(cfg, read_checkpoint(checkpoint).get("model_config", {}), checkpoint)


def _facts(cfg: CfgNode, checkpoint: str | None = None) -> Facts:
    """Get the facts about the checkpoint, or else about the weights that the config names."""
    init = cfg.MODEL.INIT
    if checkpoint is not None:
        return read_facts(checkpoint)
    return read_facts(cfg.MODEL.WEIGHTS, init.SOURCE or None, init.PREFIX)


def _model_config(cfg: CfgNode, checkpoint: str | None = None) -> Mapping[str, str]:
    """Get the part of the model's config that is saved with the weights."""
    if _is_known(cfg):
        return _facts(cfg, checkpoint).model_config
    return read_weights_file(checkpoint or cfg.MODEL.WEIGHTS, cfg.MODEL.INIT.PREFIX).model_config


def _is_known(cfg: CfgNode) -> bool:
    """Whether the backbone belongs to this project."""
    return cfg.MODEL.BACKBONE.NAME in BUILDERS


def prepare_trained(cfg: CfgNode) -> None:
    """Prepare a config for its trained weights, without its datasets.

    This checks what can be checked, chooses the device, and takes the number and names of the
    classes from the checkpoint.

    Args:
        cfg: an unfrozen config.

    Raises:
        ValueError, FileNotFoundError: as :func:`~crnas_d2.engine.setup`.
    """
    _choose_device(cfg)
    _check_weights(cfg, training=False)
    for sentence in settle_settings(cfg):
        logger.info(f"MODEL.INIT.SETTINGS is 'take': {sentence}")
    _check_keys(cfg)
    check_trained(cfg)
    saved = _model_config(cfg)
    for key in CLASS_KEYS:
        if key in saved:
            cfg.merge_from_list([key, saved[key]])


def _choose_device(cfg: CfgNode) -> None:
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        logger.info(f"MODEL.DEVICE is {cfg.MODEL.DEVICE!r} but there is no GPU: using the CPU")
        cfg.MODEL.DEVICE = "cpu"


def _check_keys(cfg: CfgNode) -> None:
    get_architecture(cfg)
    check_parts(cfg)
    if _is_known(cfg):
        check_keys(cfg)
        check_res5_heads(cfg)


def _check_weights(cfg: CfgNode, *, training: bool) -> None:
    weights, frozen = cfg.MODEL.WEIGHTS, cfg.MODEL.BACKBONE.FREEZE_AT
    if not weights:
        if not training:
            raise ValueError("MODEL.WEIGHTS is empty: there is nothing to evaluate")
        if frozen > 0:
            raise ValueError(
                f"MODEL.WEIGHTS is empty and MODEL.BACKBONE.FREEZE_AT is {frozen}: layers would be "
                "frozen at random values. Give ImageNet weights, or FREEZE_AT 0"
            )
    elif not is_remote(weights) and not PathManager.isfile(weights):
        raise FileNotFoundError(f"MODEL.WEIGHTS {weights!r}: no such file")
    elif is_remote(weights):
        try:
            found = PathManager.isfile(PathManager.get_local_path(weights))
        except Exception as error:  # a handler may raise anything
            reason = f", which cannot be read: {describe_error(error)}"
            raise FileNotFoundError(f"MODEL.WEIGHTS is {weights!r}{reason}") from error
        if not found:
            raise FileNotFoundError(f"MODEL.WEIGHTS {weights!r}: no such file")
