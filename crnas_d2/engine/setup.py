"""The setup of a run: from a command line to a checked config."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
import yaml

from detectron2.config import CfgNode, get_cfg
from detectron2.data import MetadataCatalog
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.env import seed_all_rng
from detectron2.utils.file_io import PathManager

from ..checkpoint.checkpointer import find_checkpoint
from ..config import read_config
from ..data import setup_datasets
from ..data.catalog import draws_anew, warn_of_shared_images
from ..data.image_check import check_images
from ..data.parts import table_of_training, tell
from ..data.shared_images import is_made_at_first_use
from ..data.splits import passing_draws
from ..files import write_atomically
from ..library_warnings import ignore_missing_cuda
from ..lock import check_unlocked
from ..main_process import decided_by_main
from ..paths import is_remote, real_path
from .config_check import check_network, check_resumed, check_trained
from .evaluators import check_evaluation
from .examination import NotYet, call, telling_places
from .model_check import check_model
from .terminal import open_log, open_terminal

logger = logging.getLogger(__name__)


def setup(args: argparse.Namespace) -> CfgNode:
    """Read the config, run all checks before any work, and register its datasets.

    Args:
        args: arguments from :func:`detectron2.engine.default_argument_parser`. With ``verbose``,
            the terminal shows everything that the log file has.

    Returns:
        The frozen config, which has been saved as ``OUTPUT_DIR/config.yaml``.

    Raises:
        ValueError: a value in the config is invalid here. The message names it.
        FileNotFoundError: the config or the weights do not exist.
    """
    open_terminal(getattr(args, "verbose", False))
    cfg = read_config(args.config_file, args.opts)
    check_apart([cfg], lambda folder: check_run(_drawn_into(folder, cfg), args, decide=call))
    prepare(cfg, args)
    if not args.eval_only and comm.is_main_process():
        warn_of_shared_images(cfg)
        table = table_of_training(cfg)
        if table:
            tell(table)
    return cfg


def check_apart(cfgs: Sequence[CfgNode], check: Callable[[str], object]) -> None:
    """Run checks in a temporary folder first if they would split archtrain and archval.

    So a run that is refused leaves nothing behind. The main process runs the checks, and the others
    wait.

    Args:
        cfgs: configs whose datasets are checked.
        check: runs the checks. It gets a folder for the split, which is removed afterwards.
    """

    def check_anew() -> None:
        if any(map(draws_anew, cfgs)):
            with passing_draws() as folder:
                check(folder)

    decided_by_main(check_anew)


def _drawn_into(folder: str, cfg: CfgNode) -> CfgNode:
    cfg = cfg.clone()
    cfg.DATASETS.ARCHVAL.DIR = folder
    return cfg


def prepare(cfg: CfgNode, args: argparse.Namespace) -> CfgNode:
    """Same as :func:`setup`, for a config that has already been read and possibly changed.

    Args:
        cfg: an unfrozen config.
        args: arguments, of which ``resume``, ``eval_only`` and ``config_file`` are used.
    """
    taken = check_run(cfg, args)
    comm.synchronize()  # files are written from here on
    cfg.freeze()
    open_log(cfg.OUTPUT_DIR)
    for sentence in taken:
        logger.info(f"MODEL.INIT.SETTINGS is 'take': {sentence}")
    full = cfg.dump()
    _log_setting(cfg, args, full)
    if comm.is_main_process():
        write_atomically(os.path.join(cfg.OUTPUT_DIR, "config.yaml"), full.encode())
    seed_all_rng(None if cfg.SEED < 0 else cfg.SEED + comm.get_rank())
    if not args.eval_only:
        torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK
    return cfg


def _log_setting(cfg: CfgNode, args: argparse.Namespace, full: str) -> None:
    """Write to the log file what Detectron2's setup writes, without colors."""
    logger.debug(f"Rank of current process: {comm.get_rank()}. World size: {comm.get_world_size()}")
    with ignore_missing_cuda():
        logger.debug(f"Environment info:\n{collect_env_info()}")
    logger.debug(f"Command line arguments: {args}")
    with PathManager.open(args.config_file) as file:
        logger.debug(f"Contents of args.config_file={args.config_file}:\n{file.read()}")
    logger.debug(f"Running with full config:\n{full}")
    logger.debug(f"Full config saved to {os.path.join(cfg.OUTPUT_DIR, 'config.yaml')}")


def check_run(
    cfg: CfgNode,
    args: argparse.Namespace,
    check: Callable[..., Any] = call,
    *,
    makes: bool = True,
    decide: Callable[..., Any] = decided_by_main,
) -> list[str]:
    """Run all checks at the beginning of a run.

    Nothing is written except the cached results of the checks, and the split of archtrain and
    archval.

    Args:
        cfg, args: as in :func:`prepare`.
        check: runs each check, even if an earlier one has found something.
        makes: see :func:`check_datasets`.
        decide: finds the checkpoint to resume from for all ranks. It is :func:`call` if only the
            main process runs the checks.

    Returns:
        As :func:`check_network`.

    Raises:
        ValueError, FileNotFoundError: as :func:`setup`, unless ``check`` handles it otherwise.
    """
    check = telling_places(check, args.config_file, getattr(args, "opts", ()))
    training = not args.eval_only
    checkpoint = None
    if args.resume:
        iterations = cfg.SOLVER.MAX_ITER if training else None
        checkpoint = decide(lambda: find_checkpoint(cfg.OUTPUT_DIR, iterations))
    taken = check_network(cfg, checkpoint, training=training, check=check)
    check(check_datasets, cfg, training=training, makes=makes)
    if taken is not None:
        check(check_model, cfg)
    if args.eval_only and taken is not None:
        check(check_trained, cfg, checkpoint)
    elif checkpoint is not None:
        check(check_resumed, cfg, checkpoint)
    check(_check_output, cfg, starts=training and checkpoint is None)
    if training:
        check(check_unlocked, cfg.OUTPUT_DIR)
    return taken or []


def check_datasets(cfg: CfgNode, *, training: bool, makes: bool = True) -> None:
    """Register and check the datasets of a config, their evaluators, and their images.

    Args:
        cfg: an unfrozen config, which receives the number and names of the classes.
        training: whether the model is trained. Otherwise it is only evaluated.
        makes: whether datasets that are generated on first use may be generated. If not, they are
            not checked.

    Raises:
        ValueError, FileNotFoundError: as :func:`setup`.
        NotYet: a dataset would have to be generated.
    """
    names = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
    for name in filter(is_made_at_first_use, names if not makes else ()):
        raise NotYet(f"the dataset {name!r}, which is made when it is first used")
    if training and not cfg.DATASETS.TRAIN:
        raise ValueError("DATASETS.TRAIN is (); expected the datasets on which the model trains")
    setup_datasets(cfg)
    _check_keypoints(cfg)
    check_evaluation(cfg, training=training)
    check_images(cfg, training=training)


def _check_keypoints(cfg: CfgNode) -> None:
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        if cfg.MODEL.KEYPOINT_ON and not MetadataCatalog.get(name).get("keypoint_names"):
            raise ValueError(
                f"MODEL.KEYPOINT_ON is True; expected False, as the dataset {name!r} has no "
                "keypoint_names in its metadata"
            )


def _check_output(cfg: CfgNode, *, starts: bool) -> None:
    """Refuse to overwrite files that no run has written, or the initial weights of a training."""
    folder, weights = cfg.OUTPUT_DIR, cfg.MODEL.WEIGHTS
    if not folder:
        raise ValueError("OUTPUT_DIR is ''; expected a folder for what the run writes")
    check_folder(folder)
    path = os.path.join(folder, "config.yaml")
    if os.path.isfile(path) and not _is_written_by_a_run(path):
        raise ValueError(
            f"OUTPUT_DIR is {folder!r}, where the run writes {path}; there is one already that no run "
            "has written. Move it away, or choose another OUTPUT_DIR"
        )
    if starts and weights and os.path.dirname(real_path(weights)) == real_path(folder):
        raise ValueError(
            f"MODEL.WEIGHTS is {weights!r}, which lies in OUTPUT_DIR, where the training writes its "
            "own; choose another OUTPUT_DIR, or take --resume to go on with the training there"
        )


def check_folder(folder: str) -> None:
    """Refuse a path that is not a folder and cannot become one."""
    if is_remote(folder) or os.path.isdir(folder):
        return
    above = os.path.abspath(folder)
    while not os.path.lexists(above):
        above = os.path.dirname(above)
    if not os.path.isdir(above) or not os.access(above, os.W_OK):
        reason = "may not be written in" if os.path.isdir(above) else "is no folder"
        raise ValueError(f"OUTPUT_DIR is {folder!r}; expected a folder, and {above} {reason}")


def _is_written_by_a_run(path: str) -> bool:
    """Whether a config is empty or has all keys, which none that is written by hand has."""
    if not os.path.getsize(path):
        return True
    try:
        with open(path, encoding="utf-8") as file:
            keys = yaml.safe_load(file)
    except (ValueError, yaml.YAMLError):
        return False
    return isinstance(keys, dict) and keys.keys() >= get_cfg().keys()
