"""Detectron2's checkpointer, but strict about backbones and free of pickles that run code."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterable
from typing import Any

import torch

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.utils.file_io import PathManager

from ..files import open_atomically, write_atomically
from ..main_process import decided_by_main
from ..paths import is_remote
from .same_model import check_same_model, flatten_model_config, list_changes
from .start import start
from .weights_file import find_model_config, read_checkpoint, some

logger = logging.getLogger(__name__)

# Names of the checkpoint at the end of a training, and of the one with the best test result
FINAL, BEST = "model_final", "model_best"
OF_OPTIMIZER = "_trainer"  # key of the optimizer's part in the state of Detectron2's trainer
PERIODIC = re.compile(r"model_\d{7}\.pth")


class CRCheckpointer(DetectionCheckpointer):
    """Saves and loads detectors and classifiers with CR backbones.

    * A checkpoint of the model itself is loaded unchanged. From any other file of weights the model
      starts as described in :func:`start`, and never with a random backbone.
    * A checkpoint appears under its name once it is complete, and a resume takes the latest
      readable one.
    * A checkpoint contains the keys of ``cfg.MODEL``, for :mod:`.same_model`.
    * If a training averages its weights, the averaged ones are the model in a checkpoint, and the
      trained ones belong to the state of the training.
    * The latest ``SOLVER.CHECKPOINTS_TO_KEEP`` checkpoints of a training are kept. The final and
      the best one, which are meant for use, lack the state of the optimizer. A longer training
      resumes from the one of the same iteration that is saved before the final one.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        save_dir: str,
        cfg: CfgNode,
        averaged: torch.nn.Module | None = None,
        **checkpointables: Any,
    ):
        """
        Args:
            model: the model to train or to evaluate.
            save_dir, checkpointables: see :class:`DetectionCheckpointer`.
            cfg: config of the model.
            averaged: the same model with averaged weights, if there are any.
        """
        super().__init__(model, save_dir, **checkpointables)
        self._saved = self.model if averaged is None else averaged
        self._cfg = cfg
        self._model_config = flatten_model_config(cfg)
        self._last: str | None = None

    def save(self, name: str, **kwargs: Any) -> None:
        """Save a checkpoint as Detectron2 does, but never leave a partial file on the disk.

        Args:
            name: name of the file without its extension.
            kwargs: further entries. A training passes its ``iteration``.

        Raises:
            FloatingPointError: the model has diverged. The previous checkpoint remains the last
                one.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        diverged = [key for key, p in self._saved.named_parameters() if not p.isfinite().all()]
        if diverged:
            raise FloatingPointError(
                f"{name}.pth is not saved: {len(diverged)} parameter(s) of the model have Inf or "
                f"NaN ({some(diverged)})"
            )
        if name == FINAL and "iteration" in kwargs:
            resumable = f"model_{kwargs['iteration']:07d}"
            if self._last != self._path(resumable):
                self.save(resumable, **kwargs)
        data = {"model": self._saved.state_dict(), "model_config": self._model_config, **kwargs}
        data.update({key: value.state_dict() for key, value in self.checkpointables.items()})
        if name in (FINAL, BEST):
            data = _without_optimizer(data)
        path = self._path(name)
        self.logger.info(f"Saving checkpoint to {path}")
        with (
            self.path_manager.open(path, "wb") if is_remote(path) else open_atomically(path)
        ) as file:
            torch.save(data, file)
        if name != BEST:
            self.tag_last_checkpoint(f"{name}.pth")
            self._last = path
            self._remove_older(f"{name}.pth")

    def _path(self, name: str) -> str:
        return os.path.join(self.save_dir, f"{name}.pth")

    def _remove_older(self, last: str) -> None:
        """Remove all checkpoints but the last one, the final one, and the latest others."""
        if is_remote(self.save_dir):
            return
        others = {*filter(PERIODIC.fullmatch, os.listdir(self.save_dir)), f"{FINAL}.pth"} - {last}
        newest = _newest_first(self.save_dir, others)
        for name in newest[self._cfg.SOLVER.CHECKPOINTS_TO_KEEP - 1 :]:
            if name != f"{FINAL}.pth":
                os.remove(os.path.join(self.save_dir, name))

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        path = os.path.join(self.save_dir, "last_checkpoint")
        if is_remote(path):
            super().tag_last_checkpoint(last_filename_basename)
        else:
            write_atomically(path, last_filename_basename.encode())

    def has_checkpoint(self) -> bool:
        return bool(self.get_checkpoint_file())

    def get_checkpoint_file(self) -> str:
        if self._last is None:
            self._last = find_checkpoint(self.save_dir, self._cfg.SOLVER.MAX_ITER) or ""
        return self._last

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """Resume or load as Detectron2 does. The main process chooses the checkpoint for all ranks.

        Raises:
            ValueError: the run to resume belongs to another model, or has other classes.
        """
        if resume:
            self._last = decided_by_main(self.get_checkpoint_file)
        if resume and self.has_checkpoint():
            last = self.get_checkpoint_file()
            check_same_model(self._cfg, read_checkpoint(last).get("model_config", {}), last)
        return super().resume_or_load(path, resume=resume)

    def _load_file(self, filename: str) -> dict[str, Any]:
        if self._is_of_the_model(filename):
            return read_checkpoint(filename, into_memory=True)
        return {"model": start(filename, self.model, self._cfg)}

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        incompatible = super()._load_model(checkpoint)
        if self._saved is not self.model:
            self._saved.load_state_dict(self.model.state_dict())
        return incompatible

    def _is_of_the_model(self, filename: str) -> bool:
        """Whether a file is a checkpoint of this very model, from which a training can resume."""
        try:
            checkpoint = read_checkpoint(filename)
        except ValueError:
            return False
        saved = find_model_config(checkpoint)
        return bool(saved) and not list_changes(self._model_config, saved, "")


def find_checkpoint(folder: str, iterations: int | None = None) -> str | None:
    """Find the checkpoint from which a run in a folder resumes.

    It is the last one saved or, if that is damaged, the latest intact one, but never the best one.
    Skipped checkpoints are logged.

    Args:
        folder: folder of the run.
        iterations: number of iterations of the training to resume, which needs the state of the
            optimizer: a longer training than before resumes from before the final checkpoint. None
            if only the weights are used.

    Returns:
        The path of the checkpoint. None if there is none.

    Raises:
        ValueError: there are checkpoints, but the run cannot resume from any of them.
    """
    tag = os.path.join(folder, "last_checkpoint")
    if not PathManager.isfile(tag):
        return None
    with PathManager.open(tag, "rb") as file:
        last = file.read().decode(errors="replace").strip()
    passed_over = {last, f"{BEST}.pth"}
    others = [n for n in PathManager.ls(folder) if n.endswith(".pth") and n not in passed_over]
    if last and not others and not PathManager.isfile(os.path.join(folder, last)):
        logger.warning(f"{folder} has no checkpoint any more, not even {last}: the run begins anew")
        return None
    if not is_remote(folder):
        others = _newest_first(folder, others)
    faults = []
    for name in [last, *others]:
        try:
            if not name:
                raise ValueError(f"{tag} is empty")
            path = os.path.join(folder, name)
            _check_goes_on(path, iterations)
        except (OSError, ValueError) as error:
            faults.append(str(error))
            logger.warning(f"passing over a checkpoint: {error}")
        else:
            return path
    raise ValueError(f"there is no checkpoint in {folder} to go on from:\n  " + "\n  ".join(faults))


def _check_goes_on(path: str, iterations: int | None) -> None:
    """Check that a run can resume from a file.

    Raises:
        FileNotFoundError, ValueError: it cannot.
    """
    trainer = read_checkpoint(path).get("trainer")
    if trainer is None:
        raise ValueError(f"{path} has no state of a training run")
    if iterations is None or os.path.basename(path) != f"{FINAL}.pth" or OF_OPTIMIZER in trainer:
        return
    done = trainer["iteration"] + 1
    if done < iterations:
        raise ValueError(
            f"{path} ends a training of {done} iterations, without the state of the optimizer that "
            f"one of {iterations} needs"
        )


def _without_optimizer(data: dict[str, Any]) -> dict[str, Any]:
    trainer = {key: value for key, value in data.get("trainer", {}).items() if key != OF_OPTIMIZER}
    return {**data, "trainer": trainer} if "trainer" in data else data


def _newest_first(folder: str, names: Iterable[str]) -> list[str]:
    """Sort those of the names that exist in a folder, latest first."""
    ages = {}
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            ages[name] = os.stat(os.path.join(folder, name)).st_mtime_ns
    return sorted(ages, key=lambda name: (ages[name], name), reverse=True)
