"""Networks as safetensors files that ``MODEL.WEIGHTS`` takes, with what they need in the header."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable

import safetensors.torch
import torch

from ..files import check_not_read, is_remote, write_atomically
from .description import BACKBONE_FORMAT, MODEL_FORMAT
from .names import without_counters
from .remap_report import RemapReport
from .seed_network import SeedNetwork
from .settings import as_header


def check_output(path: str, overwrite: bool, inputs: Iterable[str]) -> None:
    """Check before any work that a network can be written.

    Args:
        path: of a local file ``*.safetensors``.
        overwrite: replace a file that is there.
        inputs: what the command reads, which is never replaced.

    Raises:
        FileExistsError: there is a file, and it may not be replaced.
        FileNotFoundError: there is no such folder.
        ValueError: the path is another, or that of an input.
    """
    if is_remote(path) or not path.endswith(".safetensors"):
        raise ValueError(f"output {path}: expected a local file *.safetensors")
    if not os.path.isdir(os.path.dirname(os.path.abspath(path))):
        raise FileNotFoundError(f"output {path}: there is no such folder")
    if os.path.exists(path) and not overwrite:
        raise FileExistsError(f"output {path} exists; it is replaced with --overwrite only")
    check_not_read(path, inputs)


def save_network(
    path: str, seed: SeedNetwork, report: RemapReport | None = None
) -> dict[str, torch.Tensor]:
    """Write a network, whole or not at all: a backbone alone, or with the neck and heads that are
    there, by Detectron2's names.

    The header has the settings that the weights need, and the codes and the names of the classes as
    far as they are known.

    Args:
        path: a local file; one that is there is replaced.
        seed: the network.
        report: of a remapped network, see :func:`remap_seed`.

    Returns:
        The tensors of the file. The counters of norms are not among them.
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
    """What a model calls a tensor of its backbone, told by what it has beside."""

    def has(start: str) -> bool:
        return any(key.startswith(start) for key in rest)

    if not rest:
        return name
    if has("backbone."):
        return f"backbone.bottom_up.{name}"
    if name.startswith("res5.") and has("roi_heads.") and not has("roi_heads.box_head."):
        return f"roi_heads.{name}"  # of a C4 detector
    return f"backbone.{name}"
