"""ImageNet weights of torchvision, timm and Detectron2's model zoo as weights of the backbones here."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

import safetensors.torch
import torch

from ..files import check_not_read, is_remote, write_atomically
from .description import CONVENTIONS, Description
from .infer import Shapes, infer_arguments
from .names import Naming, find_naming
from .weights_file import as_float32, read_weights_file


def convert(
    state_dict: Mapping[str, Any], source: str | None = None
) -> tuple[dict[str, torch.Tensor], Description]:
    """Turn the weights of an ImageNet classifier into those of a backbone.

    What network it is, is told by names and shapes. The result is float32, may share memory with
    the input, and has exactly the keys of the backbone with ``norm="FrozenBN"``. What other batch
    norms have beside these, the counter ``num_batches_tracked``, they fill in by themselves when
    they are loaded.

    Norms that are an affine map alone, as in Detectron1's pickles, receive mean 0 and variance 1, as
    in Detectron2, and the arguments in the description a ``norm="FrozenBN"``: no other norm leaves
    the map as it is.

    timm's resnetaa and resnetblur have the same tensors as a plain ResNet and are taken for one.

    Args:
        state_dict: tensors or NumPy arrays, under the names of torchvision, timm or Caffe2.
        source: a key of ``CONVENTIONS``. By default told by the names: a ResNet's, the same in
            torchvision and timm, are taken for torchvision's; Caffe2's for FAIR's if it is a ResNeXt,
            otherwise for MSRA's.

    Raises:
        ValueError: no backbone has exactly these tensors. The message has the keys that are missing,
            left over or of another shape.
    """
    naming = find_naming(state_dict)
    if source is not None and source not in naming.sources:
        raise ValueError(
            f"source {source!r}: expected {' or '.join(naming.sources)}, "
            f"whose names the state dict has ({naming.mark}*)"
        )
    keys, dropped = _rename(state_dict, naming)
    weights = {name: as_float32(key, state_dict[key]) for name, key in keys.items()}
    is_affine = naming.affine_norms and not any("running_" in name for name in weights)
    if is_affine:
        _add_identity_statistics(weights)

    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    try:
        arguments = infer_arguments(naming.family, shapes)
    except ValueError as error:
        raise ValueError(
            f"by its names ({naming.mark}*) it is a {naming.family}, but {error}"
        ) from None
    source = source or _likely_source(naming, arguments)
    if arguments.get("block") == "bottleneck":
        arguments["stride_in_1x1"] = CONVENTIONS[source].stride_in_1x1
    if is_affine:
        arguments["norm"] = "FrozenBN"
    description = Description(source, naming.family, arguments, tuple(dropped))
    _check_complete(shapes, keys, description)
    return weights, description


def save_backbone(path: str, weights: Mapping[str, torch.Tensor], description: Description) -> None:
    """Write the result of :func:`convert` as safetensors, whole or not at all.

    Args:
        path: a local file; one that is there is replaced.
    """
    write_atomically(path, safetensors.torch.save(dict(weights), description.metadata()))


def convert_file(
    input_path: str,
    output_path: str,
    *,
    source: str | None = None,
    prefix: str = "",
    overwrite: bool = False,
) -> tuple[dict[str, torch.Tensor], Description]:
    """Read, convert and save; returns what :func:`convert` does.

    Args:
        input_path: see :func:`read_weights_file`.
        output_path: a local file ``*.safetensors``.
        source: see :func:`convert`.
        prefix: see :func:`read_weights_file`.
        overwrite: replace a file that is there.

    Raises:
        FileExistsError: there is one, and it may not be replaced.
        FileNotFoundError: there is no input, or no folder for the output.
        ValueError: as in :func:`read_weights_file` and :func:`convert`, or for the name of the output.
    """
    check_output(output_path, overwrite, [input_path])
    state_dict = read_weights_file(input_path, prefix).tensors
    try:
        weights, description = convert(state_dict, source)
    except ValueError as error:
        raise ValueError(f"{input_path}: {error}") from None
    save_backbone(output_path, weights, description)
    return weights, description


def check_output(path: str, overwrite: bool, inputs: Iterable[str]) -> None:
    """Check that a backbone can be written.

    Args:
        path: of a local file ``*.safetensors``.
        overwrite: replace a file that is there.
        inputs: what the command reads, which is never replaced.

    Raises:
        FileExistsError, FileNotFoundError, ValueError: as in :func:`convert_file`.
    """
    if is_remote(path) or not path.endswith(".safetensors"):
        raise ValueError(f"output {path}: expected a local file *.safetensors")
    if not os.path.isdir(os.path.dirname(os.path.abspath(path))):
        raise FileNotFoundError(f"output {path}: there is no such folder")
    if os.path.exists(path) and not overwrite:
        raise FileExistsError(f"output {path} exists; it is replaced with --overwrite only")
    check_not_read(path, inputs)


def _rename(state_dict: Mapping[str, Any], naming: Naming) -> tuple[dict[str, str], list[str]]:
    """The key of each of the backbone's names, and the keys without a name."""
    keys, unused = {}, []
    for key in state_dict:
        if naming.is_unused(key):
            unused.append(key)
        elif not key.endswith("num_batches_tracked"):
            name = naming.rename(key)
            if name in keys:
                raise ValueError(f"keys {keys[name]} and {key} are the same tensor {name}")
            keys[name] = key
    return keys, unused


def _add_identity_statistics(weights: dict[str, torch.Tensor]) -> None:
    for name in [name for name in weights if name.endswith(".norm.weight")]:
        norm = name.removesuffix("weight")
        weights[norm + "running_mean"] = torch.zeros_like(weights[name])
        weights[norm + "running_var"] = torch.ones_like(weights[name])


def _likely_source(naming: Naming, arguments: Mapping[str, Any]) -> str:
    if "fair" in naming.sources and arguments["num_groups"] > 1:
        return "fair"
    return naming.sources[0]


def _check_complete(shapes: Shapes, keys: Mapping[str, str], description: Description) -> None:
    with torch.device("meta"):
        expected = description.build(norm="FrozenBN").state_dict()
    missing = [name for name in expected if name not in shapes]
    left_over = [keys.get(name, name) for name in shapes if name not in expected]
    misshapen = [
        f"{keys.get(name, name)} {shape} instead of {tuple(expected[name].shape)}"
        for name, shape in shapes.items()
        if name in expected and shape != tuple(expected[name].shape)
    ]
    problems = [
        f"{len(names)} {what}: {', '.join(names)}"
        for what, names in (
            ("missing", missing),
            ("left over", left_over),
            ("of another shape", misshapen),
        )
        if names
    ]
    if problems:
        raise ValueError(
            f"the tensors are not those of any backbone; most like {description}\n  "
            + "\n  ".join(problems)
        )
