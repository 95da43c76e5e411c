"""Detectron2's checkpointer, strict about backbones and free of pickles that run code."""

from __future__ import annotations

import glob
import logging
import os
import pickle
from typing import Any

import torch

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.utils.file_io import PathManager

from ..files import is_remote, open_atomically, write_atomically
from ..main_process import decided_by_main
from .same_model import check_same_model, flatten_model_config, list_changes
from .start import start
from .weights_file import find_model_config, read_checkpoint, some

logger = logging.getLogger(__name__)

# Name of the checkpoint with the best test result; a run never goes on from there
BEST = "model_best"


class CRCheckpointer(DetectionCheckpointer):
    """Saves and loads detectors and classifiers with CR backbones.

    * A checkpoint of the model itself is loaded as it is; from any other file of weights the model
      starts as :func:`start` says, and never with a random backbone.
    * A checkpoint takes its name when it is whole, and a resume takes the newest that can be read.
    * A checkpoint keeps the keys of ``cfg.MODEL``, for :mod:`.same_model`.
    """

    def __init__(self, model: torch.nn.Module, save_dir: str, cfg: CfgNode, **checkpointables: Any):
        super().__init__(model, save_dir, **checkpointables)
        self._cfg = cfg
        self._model_config = flatten_model_config(cfg)
        self._last: str | None = None

    def save(self, name: str, **kwargs: Any) -> None:
        """As in Detectron2, but whatever happens, no file on disk is ever half written.

        Raises:
            FloatingPointError: the model has diverged; what was saved before stays the last one.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        diverged = [key for key, p in self.model.named_parameters() if not p.isfinite().all()]
        if diverged:
            raise FloatingPointError(
                f"{name}.pth is not saved: {len(diverged)} parameter(s) of the model have Inf or "
                f"NaN ({some(diverged)})"
            )
        data = {"model": self.model.state_dict(), "model_config": self._model_config, **kwargs}
        data.update({key: value.state_dict() for key, value in self.checkpointables.items()})
        path = os.path.join(self.save_dir, f"{name}.pth")
        self.logger.info(f"Saving checkpoint to {path}")
        if is_remote(path):
            opened = self.path_manager.open(path, "wb")
        else:
            self._remove_leftovers()
            opened = open_atomically(path)
        with opened as file:
            torch.save(data, file)
        if name != BEST:
            self.tag_last_checkpoint(f"{name}.pth")
            self._last = path

    def _remove_leftovers(self) -> None:
        """Remove the temporary files of runs that were killed while they saved."""
        for path in glob.glob(os.path.join(glob.escape(self.save_dir), "*.pth.*.tmp")):
            os.remove(path)

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
            self._last = find_checkpoint(self.save_dir) or ""
        return self._last

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """As in Detectron2; the main process chooses the checkpoint for all.

        Raises:
            ValueError: the run to go on with is of another model, or of other classes.
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

    def _is_of_the_model(self, filename: str) -> bool:
        """Whether it is a checkpoint of this very model, with which a training may go on."""
        try:
            checkpoint = read_checkpoint(filename)
        except (ValueError, RuntimeError, pickle.UnpicklingError):
            return False
        saved = find_model_config(checkpoint)
        return bool(saved) and not list_changes(self._model_config, saved, "")


def find_checkpoint(folder: str) -> str | None:
    """The checkpoint from which a run in a folder goes on.

    It is the last one saved, or, where that cannot be read, the newest that can; and never the
    best one. What is passed over is logged.

    Returns:
        Its path; None where there is none.

    Raises:
        ValueError: there are checkpoints and none of them can be read.
    """
    tag = os.path.join(folder, "last_checkpoint")
    if not PathManager.isfile(tag):
        return None
    with PathManager.open(tag, "rb") as file:
        last = file.read().decode(errors="replace").strip()
    passed_over = {last, f"{BEST}.pth"}
    others = [n for n in PathManager.ls(folder) if n.endswith(".pth") and n not in passed_over]
    if not is_remote(folder):
        others.sort(key=lambda name: os.path.getmtime(os.path.join(folder, name)), reverse=True)
    faults = []
    for name in [last, *others]:
        try:
            if not name:
                raise ValueError(f"{tag} is empty")
            path = os.path.join(folder, name)
            if "trainer" not in read_checkpoint(path):
                raise ValueError(f"{path} has no state of a training run")
        except (OSError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
            faults.append(str(error))
            logger.warning(f"passing over a checkpoint: {error}")
        else:
            return path
    raise ValueError(f"no checkpoint in {folder} can be read:\n  " + "\n  ".join(faults))
