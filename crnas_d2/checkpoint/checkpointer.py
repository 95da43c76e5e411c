"""Detectron2's checkpointer, strict about backbones and free of pickles that run code."""

from __future__ import annotations

import glob
import logging
import os
import pickle
from typing import Any

import torch
from safetensors import safe_open

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.utils.file_io import PathManager

from ..config import get_architecture
from ..files import is_remote, open_atomically, write_atomically
from .classes import match_class_rows, read_class_names
from .description import BACKBONE_FORMAT
from .inherit import inherit_subnet
from .names import BACKBONE_PREFIXES, RES5_IN_HEADS
from .same_model import flatten_model_config, list_changes
from .weights_file import read_checkpoint

logger = logging.getLogger(__name__)

# Name of the checkpoint with the best test result; a run never goes on from there
BEST = "model_best"


class CRCheckpointer(DetectionCheckpointer):
    """Saves and loads detectors and classifiers with CR backbones.

    * ``.pth`` is read with ``weights_only=True``, ``.safetensors`` as it is. A pickle of another kind
      is refused: tools/convert_weights.py reads it without running what is in it.
    * A safetensors file made by tools/convert_weights.py holds a backbone alone, and of a trained
      classifier another model takes the backbone alone. It must fill the model's backbone to the
      last tensor.
    * Of a supernet's checkpoint, a network of its space takes the weights that are its own there.
    * A checkpoint takes its name when it is whole, and a resume takes the newest that can be read.
    * A file of which nothing fits the model is an error instead of a warning.
    * A checkpoint keeps the keys of ``cfg.MODEL``, for :mod:`.same_model`; the rows of its classes go
      to where the model has the classes of these names.
    """

    def __init__(self, model: torch.nn.Module, save_dir: str, cfg: CfgNode, **checkpointables: Any):
        super().__init__(model, save_dir, **checkpointables)
        self._model_config = flatten_model_config(cfg)
        self._architecture = get_architecture(cfg)
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
                f"NaN ({_some(diverged)})"
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

    def _load_file(self, filename: str) -> dict[str, Any]:
        if filename.endswith(".safetensors"):
            with safe_open(filename, framework="pt") as file:
                state_dict = {key: file.get_tensor(key) for key in file.keys()}
                is_backbone = (file.metadata() or {}).get("format") == BACKBONE_FORMAT
            if is_backbone:
                state_dict = self._as_part_of_the_model(state_dict, filename)
            return {"model": state_dict}
        if not filename.endswith(".pth"):
            raise ValueError(
                f"weights {filename}: expected .pth or .safetensors; "
                "tools/convert_weights.py converts pickles of ImageNet weights"
            )
        checkpoint = super()._load_file(filename)
        if self._is_of_a_supernet(checkpoint):
            checkpoint = {**checkpoint, "model": self._inherited(checkpoint, filename)}
        if self._is_of_a_classifier(checkpoint):
            return {"model": self._backbone_of_the_classifier(checkpoint, filename)}
        if not self.model.state_dict().keys() & {
            key.removeprefix("module.") for key in checkpoint["model"]
        }:
            raise ValueError(
                f"weights {filename}: none of the {len(checkpoint['model'])} tensors "
                f"({_some(checkpoint['model'])}) has a name in the model; "
                "tools/convert_weights.py converts ImageNet weights of torchvision and timm"
            )
        return checkpoint

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        config = checkpoint.get("model_config", {})
        if saved := read_class_names(config):
            checkpoint["model"], report = match_class_rows(
                checkpoint["model"], saved, self.model, read_class_names(self._model_config)
            )
            if str(report):
                logger.info(f"classes of the checkpoint: {report}")
        return super()._load_model(checkpoint)

    def _torch_load(self, filename: str) -> dict[str, Any]:
        return torch.load(filename, map_location="cpu", weights_only=True)

    def _is_of_a_supernet(self, checkpoint: dict[str, Any]) -> bool:
        """Whether it is the checkpoint of a supernet, and this model is something else."""
        key = "MODEL.BACKBONE.NAME"
        saved = checkpoint.get("model_config", {}).get(key, "")
        return "supernet" in saved and "supernet" not in self._model_config[key]

    def _inherited(self, checkpoint: dict[str, Any], filename: str) -> dict[str, torch.Tensor]:
        saved, architecture = checkpoint["model_config"], self._architecture
        if "stage_supernet" in saved["MODEL.BACKBONE.NAME"]:
            path = architecture.stage_code
        else:
            path = architecture.operation_code
            key, own = "MODEL.CR.STAGE_CODE", list(architecture.stage_code)
            if saved[key] != str(own):
                raise ValueError(
                    f"weights {filename} are of a dilation supernet of the stage code {saved[key]}; "
                    f"expected {own}, the {key} of the model"
                )
        logger.info(f"{filename} is of a supernet: loading the weights of its path {list(path)}")
        subnet = inherit_subnet(checkpoint["model"], path)
        backbone = {key: t for key, t in subnet.items() if key.startswith("backbone.")}
        wanted = self.model.state_dict()
        missing = _missing_of_the_backbone(subnet, wanted)
        if missing and not self._is_of_a_classifier(checkpoint):
            raise ValueError(
                f"weights {filename} are of a supernet in a detector of another kind than the model: "
                f"{len(missing)} tensor(s) of the backbone missing ({_some(missing)})"
            )
        misshapen = _misshapen(backbone, wanted)
        if misshapen:
            raise ValueError(
                f"weights {filename} are of a supernet with other channels than the model: "
                f"{len(misshapen)} tensor(s) of another shape ({_some(misshapen)})"
            )
        return subnet

    def _is_of_a_classifier(self, checkpoint: dict[str, Any]) -> bool:
        """Whether it is the checkpoint of a classifier, and this model is something else."""
        key = "MODEL.META_ARCHITECTURE"
        saved = checkpoint.get("model_config", {}).get(key)
        return saved == "ImageClassifier" != self._model_config[key]

    def _backbone_of_the_classifier(
        self, checkpoint: dict[str, Any], filename: str
    ) -> dict[str, torch.Tensor]:
        backbone, head = {}, []
        for key, tensor in checkpoint["model"].items():
            if key.startswith("backbone."):
                backbone[key.removeprefix("backbone.")] = tensor
            else:
                head.append(key)
        logger.info(
            f"{filename} is of a classifier: loading its backbone ({len(backbone)} tensors) "
            f"without its head ({', '.join(head)})"
        )
        changed = list_changes(
            self._model_config,
            checkpoint["model_config"],
            ("MODEL.CR.OPERATION_CODE", "MODEL.RESNETS.STRIDE_IN_1X1", "MODEL.PIXEL_"),
        )
        if changed:
            logger.warning(
                f"{filename} was trained with other values, which change what its backbone "
                "computes:\n  " + "\n  ".join(changed)
            )
        return self._as_part_of_the_model(backbone, filename)

    def _as_part_of_the_model(
        self, backbone: dict[str, torch.Tensor], filename: str
    ) -> dict[str, torch.Tensor]:
        wanted = self.model.state_dict()
        prefix = _backbone_prefix(wanted)
        in_heads = any(key.startswith(RES5_IN_HEADS) for key in wanted)
        state_dict = {}
        for key, tensor in backbone.items():
            place = "roi_heads." if in_heads and key.startswith("res5.") else prefix
            if place + key in wanted or not key.endswith("num_batches_tracked"):  # not in FrozenBN
                state_dict[place + key] = tensor
        missing = _missing_of_the_backbone(state_dict, wanted)
        left_over = [key for key in state_dict if key not in wanted]
        misshapen = _misshapen(state_dict, wanted)
        problems = [
            f"{len(keys)} tensor(s) {what} ({_some(keys)})"
            for what, keys in (
                ("missing", missing),
                ("left over", left_over),
                ("of another shape", misshapen),
            )
            if keys
        ]
        if problems:
            raise ValueError(
                f"weights {filename} are of another backbone than the model's: "
                + ", ".join(problems)
            )
        return state_dict


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


def _backbone_prefix(wanted: dict[str, torch.Tensor]) -> str:
    """What stands before the names of the backbone's tensors in a model."""
    return next(p for p in BACKBONE_PREFIXES if any(key.startswith(p) for key in wanted))


def _missing_of_the_backbone(
    state_dict: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]
) -> list[str]:
    """The tensors that the backbone of a model has, with res5 where that lies in the RoI heads, and
    a state dict has not."""
    return [
        key
        for key in wanted
        if key.startswith((_backbone_prefix(wanted), RES5_IN_HEADS))
        and key not in state_dict
        and not key.endswith("num_batches_tracked")
    ]


def _misshapen(state_dict: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> list[str]:
    """The tensors of another shape than those of the model, with both shapes."""
    return [
        f"{key} {tuple(tensor.shape)} for {tuple(wanted[key].shape)}"
        for key, tensor in state_dict.items()
        if key in wanted and tensor.shape != wanted[key].shape
    ]


def _some(keys) -> str:
    keys = list(keys)
    return ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")
