"""Detectron2's checkpointer, strict about backbones and free of pickles that run code."""

from __future__ import annotations

from typing import Any

import torch
from safetensors import safe_open

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode

BACKBONE_FORMAT = (
    "crnas_d2.backbone"  # metadata entry "format" of a file that holds a backbone alone
)
BACKBONE_PREFIXES = ("backbone.bottom_up.", "backbone.", "")


class CRCheckpointer(DetectionCheckpointer):
    """Saves and loads detectors with CR backbones.

    * ``.pth`` is read with ``weights_only=True``, ``.safetensors`` as it is. A pickle of another kind
      is refused: tools/convert_weights.py reads it without running what is in it.
    * A safetensors file made by tools/convert_weights.py holds a backbone alone; it must fill the
      model's backbone to the last tensor.
    * A file of which nothing fits the model is an error instead of a warning.
    * A checkpoint keeps the keys of ``cfg.MODEL``, for :func:`check_same_model`.
    """

    def __init__(self, model: torch.nn.Module, save_dir: str, cfg: CfgNode, **checkpointables: Any):
        super().__init__(model, save_dir, **checkpointables)
        self._model_config = flatten_model_config(cfg)

    def save(self, name: str, **kwargs: Any) -> None:
        super().save(name, model_config=self._model_config, **kwargs)

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
        if not self.model.state_dict().keys() & {
            key.removeprefix("module.") for key in checkpoint["model"]
        }:
            raise ValueError(
                f"weights {filename}: none of the {len(checkpoint['model'])} tensors "
                f"({_some(checkpoint['model'])}) has a name in the model; "
                "tools/convert_weights.py converts ImageNet weights of torchvision and timm"
            )
        return checkpoint

    def _torch_load(self, filename: str) -> dict[str, Any]:
        return torch.load(filename, map_location="cpu", weights_only=True)

    def _as_part_of_the_model(
        self, backbone: dict[str, torch.Tensor], filename: str
    ) -> dict[str, torch.Tensor]:
        wanted = self.model.state_dict()
        prefix = next(p for p in BACKBONE_PREFIXES if any(key.startswith(p) for key in wanted))
        state_dict = {prefix + key: tensor for key, tensor in backbone.items()}
        missing = [
            key
            for key in wanted
            if key.startswith(prefix)
            and key not in state_dict
            and not key.endswith("num_batches_tracked")
        ]
        left_over = [key for key in state_dict if key not in wanted]
        misshapen = [
            f"{key} {tuple(tensor.shape)} for {tuple(wanted[key].shape)}"
            for key, tensor in state_dict.items()
            if key in wanted and tensor.shape != wanted[key].shape
        ]
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


def flatten_model_config(cfg: CfgNode) -> dict[str, str]:
    """All keys below ``cfg.MODEL`` with their values, less the two that name no part of the model."""

    def walk(node: CfgNode, prefix: str) -> dict[str, str]:
        flat = {}
        for key, value in node.items():
            if isinstance(value, CfgNode):
                flat.update(walk(value, f"{prefix}{key}."))
            else:
                flat[prefix + key] = str(list(value) if isinstance(value, tuple) else value)
        return flat

    flat = walk(cfg.MODEL, "MODEL.")
    del flat["MODEL.DEVICE"], flat["MODEL.WEIGHTS"]
    return flat


def check_same_model(
    cfg: CfgNode, saved: dict[str, str], filename: str, below: str = "MODEL."
) -> None:
    """Refuse a checkpoint of another model.

    Args:
        cfg: the config in use.
        saved: the entry "model_config" of a checkpoint. Keys that it does not have are not compared.
        filename: of the checkpoint, for the message.
        below: compare the keys that start so.

    Raises:
        ValueError: a key has another value; the message shows both.
    """
    changed = [
        f"{key}: {saved[key]} in the checkpoint, {value} in the config"
        for key, value in flatten_model_config(cfg).items()
        if key.startswith(below) and saved.get(key, value) != value
    ]
    if changed:
        raise ValueError(
            f"{filename} is of another model than the config:\n  " + "\n  ".join(changed)
        )


def _some(keys) -> str:
    keys = list(keys)
    return ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")
