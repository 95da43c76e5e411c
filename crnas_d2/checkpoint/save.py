"""Writes networks to safetensors files for ``MODEL.WEIGHTS``, with their settings in the header."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable

import safetensors.torch
import torch

from ..files import write_atomically
from ..paths import check_not_read, is_remote
from .description import BACKBONE_FORMAT, MODEL_FORMAT
from .names import without_counters
from .remap_report import RemapReport
from .seed_network import SeedNetwork
from .settings import as_header


def check_output(path: str, overwrite: bool, inputs: Iterable[str]) -> None:
    """Check before any work that a network can be written.

    Args:
        path: path of a local file ``*.safetensors``.
        overwrite: whether an existing file may be replaced.
        inputs: inputs of the command, which are never replaced.

    Raises:
        FileExistsError: the file exists and may not be replaced.
        FileNotFoundError: the folder does not exist.
        ValueError: the path is of another kind, or is that of an input.
    """
    if is_remote(path) or not path.endswith(".safetensors"):
        raise ValueError(f"output is {path!r}; expected a local file *.safetensors")
    if not os.path.isdir(os.path.dirname(os.path.abspath(path))):
        raise FileNotFoundError(f"output {path}: there is no such folder")
    if os.path.exists(path) and not overwrite:
        raise FileExistsError(f"output {path} exists; it is replaced with --overwrite only")
    check_not_read(path, inputs)


def save_network(
    path: str, seed: SeedNetwork, report: RemapReport | None = None
) -> dict[str, torch.Tensor]:
    """Write a network atomically, as a backbone alone, or with its neck and heads if it has any.

    The names are Detectron2's. The header has the settings that the weights need, and the codes and
    the names of the classes as far as they are known.

    Args:
        path: a local file, which is replaced if it exists.
        seed: the network.
        report: report on a remapped network, see :func:`remap_seed`.

    Returns:
        The tensors of the file, which do not include the counters of norms.
    """
    rest = seed.rest
    header = {
        "format": MODEL_FORMAT if rest else BACKBONE_FORMAT,
        "source": seed.source,
        "family": seed.family,
        "seed_network": seed.name,
        "seed_network_sha256": seed.sha256,
        **as_header(seed.settings),
    }
    if seed.architecture is not None:
        header["stage_code"] = json.dumps(seed.architecture.stage_code)
        header["operation_code"] = json.dumps(seed.architecture.operation_code)
    if rest and seed.class_names:
        header["class_names"] = json.dumps(seed.class_names)
    if report is not None:
        header.update(report.metadata())
    tensors = {_place(name, rest): tensor for name, tensor in seed.weights.items()} | dict(rest)
    written = {name: tensor.contiguous() for name, tensor in without_counters(tensors).items()}
    write_atomically(path, safetensors.torch.save(written, header))
    return written


def _place(name: str, rest: Iterable[str]) -> str:
    """Get the name of a backbone's tensor in a model, inferred from the other parts of the model."""

    def has(start: str) -> bool:
        return any(key.startswith(start) for key in rest)

    if not rest:
        return name
    if has("backbone."):
        return f"backbone.bottom_up.{name}"
    if name.startswith("res5.") and has("roi_heads.") and not has("roi_heads.box_head."):
        return f"roi_heads.{name}"  # in a C4 detector
    return f"backbone.{name}"
