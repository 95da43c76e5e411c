"""From a command line to a config that is ready to run."""

from __future__ import annotations

import argparse
import logging
import os

import torch

from detectron2.config import CfgNode
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.env import seed_all_rng
from detectron2.utils.file_io import PathManager

from ..checkpoint.checkpointer import find_checkpoint, read_checkpoint
from ..checkpoint.same_model import check_same_model, check_same_network
from ..config import get_architecture, read_config
from ..data import setup_datasets
from ..files import is_remote, write_atomically
from ..library_warnings import ignore_missing_cuda
from ..modeling import BUILDERS
from ..modeling.keys import check_keys, check_res5_heads
from .evaluators import check_evaluation
from .terminal import open_log, open_terminal

logger = logging.getLogger(__name__)

# Keys of a detector that depend on its training set
CLASS_KEYS = (
    "MODEL.ROI_HEADS.NUM_CLASSES",
    "MODEL.RETINANET.NUM_CLASSES",
    "MODEL.CLASS_NAMES",
)


def setup(args: argparse.Namespace) -> CfgNode:
    """Read the config, check all that can be checked before work begins, register its data sets.

    Args:
        args: from :func:`detectron2.engine.default_argument_parser`; with ``verbose``, the
            terminal shows all that the log file has.

    Returns:
        The frozen config, already saved as ``OUTPUT_DIR/config.yaml``.

    Raises:
        ValueError: a value in the config cannot work here; the message names it.
        FileNotFoundError: the config or the weights are not there.
    """
    open_terminal(getattr(args, "verbose", False))
    return prepare(read_config(args.config_file, args.opts), args)


def prepare(cfg: CfgNode, args: argparse.Namespace) -> CfgNode:
    """As :func:`setup`, for a config that was read already. It may be changed.

    Args:
        cfg: not frozen.
        args: of which ``resume``, ``eval_only`` and ``config_file`` are used.
    """
    checkpoint = find_checkpoint(cfg.OUTPUT_DIR) if args.resume else None
    check_config(cfg, training=not args.eval_only, has_weights=checkpoint is not None)
    check_evaluation(cfg, training=not args.eval_only)
    if checkpoint is not None:
        check_same_model(cfg, _model_config(checkpoint), checkpoint)
    elif args.eval_only:
        check_same_network(cfg, _model_config(cfg.MODEL.WEIGHTS), cfg.MODEL.WEIGHTS)
    cfg.freeze()
    open_log(cfg.OUTPUT_DIR)
    _log_setting(cfg, args)
    if comm.is_main_process():
        write_atomically(os.path.join(cfg.OUTPUT_DIR, "config.yaml"), cfg.dump().encode())
    seed_all_rng(None if cfg.SEED < 0 else cfg.SEED + comm.get_rank())
    if not args.eval_only:
        torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK
    return cfg


def _log_setting(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Write into the log file what Detectron2's set-up does, without colours."""
    logger.debug(f"Rank of current process: {comm.get_rank()}. World size: {comm.get_world_size()}")
    with ignore_missing_cuda():
        logger.debug(f"Environment info:\n{collect_env_info()}")
    logger.debug(f"Command line arguments: {args}")
    with PathManager.open(args.config_file) as file:
        logger.debug(f"Contents of args.config_file={args.config_file}:\n{file.read()}")
    logger.debug(f"Running with full config:\n{cfg.dump()}")
    logger.debug(f"Full config saved to {os.path.join(cfg.OUTPUT_DIR, 'config.yaml')}")


def check_config(cfg: CfgNode, training: bool, has_weights: bool = False) -> None:
    """Check what can be checked before any work, choose the device, and register the data sets.

    Args:
        cfg: not frozen.
        training: or else evaluation alone.
        has_weights: whether the model's weights come from elsewhere than ``MODEL.WEIGHTS``.

    Raises:
        ValueError, FileNotFoundError: as :func:`setup`.
    """
    _choose_device(cfg)
    if training and cfg.SOLVER.AMP.ENABLED and cfg.MODEL.DEVICE == "cpu":
        raise ValueError("SOLVER.AMP.ENABLED is True; Detectron2 trains with AMP on GPUs only")
    if not has_weights:
        _check_weights(cfg, training)
    _check_keys(cfg)
    setup_datasets(cfg)


def prepare_trained(cfg: CfgNode) -> None:
    """Make a config ready for its trained weights, without its data sets: check what can be
    checked, choose the device, and take number and names of the classes from the checkpoint.

    Args:
        cfg: not frozen.

    Raises:
        ValueError, FileNotFoundError: as :func:`setup`.
    """
    _choose_device(cfg)
    _check_weights(cfg, training=False)
    _check_keys(cfg)
    saved = _model_config(cfg.MODEL.WEIGHTS)
    check_same_network(cfg, saved, cfg.MODEL.WEIGHTS)
    for key in CLASS_KEYS:
        if key in saved:
            cfg.merge_from_list([key, saved[key]])


def _choose_device(cfg: CfgNode) -> None:
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        logger.info(f"MODEL.DEVICE is {cfg.MODEL.DEVICE!r} but there is no GPU: using the CPU")
        cfg.MODEL.DEVICE = "cpu"


def _check_keys(cfg: CfgNode) -> None:
    get_architecture(cfg)
    if cfg.MODEL.BACKBONE.NAME in BUILDERS:
        check_keys(cfg)
        check_res5_heads(cfg)


def _check_weights(cfg: CfgNode, training: bool) -> None:
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


def _model_config(path: str) -> dict[str, str]:
    """Of the model that a checkpoint is of, as far as the file says."""
    return read_checkpoint(path).get("model_config", {}) if path.endswith(".pth") else {}
