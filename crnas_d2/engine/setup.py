"""From a command line to a config that is ready to run."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Callable, Mapping, Sequence
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
from ..checkpoint.classes import CLASS_KEYS
from ..checkpoint.description import CONVENTIONS
from ..checkpoint.same_model import check_same_model, check_same_network
from ..checkpoint.seed_network import Facts, read_facts
from ..checkpoint.settings import MODES, check_settings, take_settings
from ..checkpoint.start import check_start
from ..checkpoint.weights_file import read_checkpoint, read_weights_file
from ..config import get_architecture, read_config
from ..config_ranges import list_faults
from ..data import setup_datasets
from ..data.catalog import draws_anew, warn_of_shared_images
from ..data.parts import table_of_training, tell
from ..data.picture_check import check_pictures
from ..data.shared_images import is_made_at_first_use
from ..data.splits import passing_draws
from ..files import describe_error, is_remote, real_path, write_atomically
from ..library_warnings import ignore_missing_cuda
from ..lock import check_unlocked
from ..main_process import decided_by_main
from ..modeling import BUILDERS
from ..modeling.keys import check_keys, check_res5_heads
from .evaluators import check_evaluation
from .examination import NotYet, call, telling_places
from .model_check import check_model, check_parts
from .terminal import open_log, open_terminal

logger = logging.getLogger(__name__)


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
    """Make checks once before they are made, where they would draw archtrain and archval: of a run
    that is refused nothing stays. The main process makes them, the others wait.

    Args:
        cfgs: whose data sets are checked.
        check: makes them. It gets a folder for what is drawn, which is removed after it.
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
    """As :func:`setup`, for a config that was read already. It may be changed.

    Args:
        cfg: not frozen.
        args: of which ``resume``, ``eval_only`` and ``config_file`` are used.
    """
    taken = check_run(cfg, args)
    comm.synchronize()  # as the next thing is that files are written
    cfg.freeze()
    open_log(cfg.OUTPUT_DIR)
    for sentence in taken:
        logger.info(f"MODEL.INIT.SETTINGS is 'take': {sentence}")
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


def check_run(
    cfg: CfgNode,
    args: argparse.Namespace,
    check: Callable[..., Any] = call,
    *,
    makes: bool = True,
    decide: Callable[..., Any] = decided_by_main,
) -> list[str]:
    """All checks that a run begins with. Nothing is written but what checks remember,
    and archtrain and archval.

    Args:
        cfg, args: as in :func:`prepare`.
        check: runs each of them, also where an earlier one has found something.
        makes: see :func:`check_data_sets`.
        decide: finds the checkpoint to resume from, for all processes; :func:`call` where the main
            process makes the checks alone.

    Returns:
        As :func:`check_config`.

    Raises:
        ValueError, FileNotFoundError: as :func:`setup`; or what ``check`` does instead.
    """
    check = telling_places(check, args.config_file, getattr(args, "opts", ()))
    training = not args.eval_only
    checkpoint = None
    if args.resume:
        iterations = cfg.SOLVER.MAX_ITER if training else None
        checkpoint = decide(lambda: find_checkpoint(cfg.OUTPUT_DIR, iterations))
    taken = check_network(cfg, checkpoint, training=training, check=check)
    check(check_data_sets, cfg, training=training, makes=makes)
    if taken is not None:
        check(check_model, cfg)
    if args.eval_only and taken is not None:
        check(_check_trained, cfg, checkpoint)
    elif checkpoint is not None:
        check(_check_resumed, cfg, checkpoint)
    check(_check_output, cfg, starts=training and checkpoint is None)
    if training:
        check(check_unlocked, cfg.OUTPUT_DIR)
    return taken or []


def check_config(
    cfg: CfgNode, checkpoint: str | None = None, *, training: bool, has_weights: bool = True
) -> list[str]:
    """:func:`check_network` and :func:`check_data_sets`."""
    taken = check_network(cfg, checkpoint, training=training, has_weights=has_weights)
    check_data_sets(cfg, training=training)
    return taken


def check_data_sets(cfg: CfgNode, *, training: bool, makes: bool = True) -> None:
    """Register the data sets of a config, check them and whether they can be evaluated, and look at
    their pictures.

    Args:
        cfg: not frozen. It receives number and names of the classes.
        training: or else evaluation alone.
        makes: data sets that are made at first use, or else they are not checked.

    Raises:
        ValueError, FileNotFoundError: as :func:`setup`.
        NotYet: a data set would be made.
    """
    names = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
    for name in filter(is_made_at_first_use, names if not makes else ()):
        raise NotYet(f"the data set {name!r}, which is made when it is first used")
    if training and not cfg.DATASETS.TRAIN:
        raise ValueError("DATASETS.TRAIN is (); expected the data sets on which the model trains")
    setup_datasets(cfg)
    _check_keypoints(cfg)
    check_evaluation(cfg, training=training)
    check_pictures(cfg, training=training)


def _check_keypoints(cfg: CfgNode) -> None:
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        if cfg.MODEL.KEYPOINT_ON and not MetadataCatalog.get(name).get("keypoint_names"):
            raise ValueError(
                f"MODEL.KEYPOINT_ON is True; expected False, as the data set {name!r} has no "
                "keypoint_names in its metadata"
            )


def check_network(
    cfg: CfgNode,
    checkpoint: str | None = None,
    *,
    training: bool,
    has_weights: bool = True,
    check: Callable[..., Any] = call,
) -> list[str] | None:
    """Check what can be checked before any work and without the data, and choose the device.

    Args:
        cfg: not frozen. With ``MODEL.INIT.SETTINGS`` "take" it receives what its weights need.
        checkpoint: from which a training goes on, instead of ``MODEL.WEIGHTS``.
        training: or else evaluation alone.
        has_weights: or else they come from an earlier step, and are not there yet.
        check: as in :func:`check_run`.

    Returns:
        What was taken from the weights, a sentence for each key; None where they have a fault.

    Raises:
        ValueError, FileNotFoundError: as :func:`setup`.
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
    """Check that there are weights, and that their settings are the config's."""
    if checkpoint is None:
        _check_weights(cfg, training=training)
    return settle_settings(cfg, checkpoint)


def settle_settings(cfg: CfgNode, checkpoint: str | None = None) -> list[str]:
    """Compare the settings that the weights of a config need with the config's own, or take them,
    as ``MODEL.INIT.SETTINGS`` wants it. Nothing is known of backbones from elsewhere.

    Args, Returns:
        See :func:`check_config`.

    Raises:
        ValueError: they are others, or nothing tells them.
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


def _check_trained(cfg: CfgNode, checkpoint: str | None = None) -> None:
    """Refuse weights that are to be evaluated and are of another network."""
    check_same_network(cfg, _model_config(cfg, checkpoint), checkpoint or cfg.MODEL.WEIGHTS)
    _check_start(cfg, checkpoint)


def _check_resumed(cfg: CfgNode, checkpoint: str) -> None:
    """Refuse a checkpoint of another training."""
    check_same_model(cfg, read_checkpoint(checkpoint).get("model_config", {}), checkpoint)


def _facts(cfg: CfgNode, checkpoint: str | None = None) -> Facts:
    """Of the checkpoint, or else of the weights that the config names."""
    init = cfg.MODEL.INIT
    if checkpoint is not None:
        return read_facts(checkpoint)
    return read_facts(cfg.MODEL.WEIGHTS, init.SOURCE or None, init.PREFIX)


def _model_config(cfg: CfgNode, checkpoint: str | None = None) -> Mapping[str, str]:
    """What they keep of the config of their model."""
    if _is_known(cfg):
        return _facts(cfg, checkpoint).model_config
    return read_weights_file(checkpoint or cfg.MODEL.WEIGHTS, cfg.MODEL.INIT.PREFIX).model_config


def _is_known(cfg: CfgNode) -> bool:
    """Whether the backbone is one of this project."""
    return cfg.MODEL.BACKBONE.NAME in BUILDERS


def _check_output(cfg: CfgNode, *, starts: bool) -> None:
    """Refuse to write over what is no run's, or over the weights from which a training starts."""
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
    """Refuse what is no folder, and cannot become one."""
    if is_remote(folder) or os.path.isdir(folder):
        return
    above = os.path.abspath(folder)
    while not os.path.lexists(above):
        above = os.path.dirname(above)
    if not os.path.isdir(above) or not os.access(above, os.W_OK):
        reason = "may not be written in" if os.path.isdir(above) else "is no folder"
        raise ValueError(f"OUTPUT_DIR is {folder!r}; expected a folder, and {above} {reason}")


def _is_written_by_a_run(path: str) -> bool:
    """Whether a config has all keys, as nobody writes it by hand, or nothing in it."""
    if not os.path.getsize(path):
        return True
    try:
        with open(path, encoding="utf-8") as file:
            keys = yaml.safe_load(file)
    except (ValueError, yaml.YAMLError):
        return False
    return isinstance(keys, dict) and keys.keys() >= get_cfg().keys()


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
    for sentence in settle_settings(cfg):
        logger.info(f"MODEL.INIT.SETTINGS is 'take': {sentence}")
    _check_keys(cfg)
    _check_trained(cfg)
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
        except Exception as error:  # whatever a handler raises
            reason = f", which cannot be read: {describe_error(error)}"
            raise FileNotFoundError(f"MODEL.WEIGHTS is {weights!r}{reason}") from error
        if not found:
            raise FileNotFoundError(f"MODEL.WEIGHTS {weights!r}: no such file")
