"""Converts ImageNet weights of torchvision, timm and Detectron2's model zoo for CR backbones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from ..modeling.meta import on_meta
from .description import CONVENTIONS, Description
from .infer import Shapes, infer_arguments
from .names import COUNTER, Naming, find_naming
from .norms import find_norm
from .weights_file import as_float32, some


def convert(
    state_dict: Mapping[str, Any], source: str | None = None
) -> tuple[dict[str, torch.Tensor], Description]:
    """Convert the weights of an ImageNet classifier to those of a backbone.

    The network is inferred from names and shapes. The result is float32, may share memory with the
    input, and has exactly the keys of the backbone with ``norm="FrozenBN"``. Other batch norms have
    an additional counter ``num_batches_tracked``, which they add themselves when the weights are
    loaded.

    Norms that are a mere affine map, as in Detectron1's pickles, get mean 0 and variance 1, as in
    Detectron2, and the description has ``norm="FrozenBN"``, as no other norm preserves the map.

    timm's resnetaa and resnetblur have the same tensors as a plain ResNet and cannot be told from
    one.

    Args:
        state_dict: tensors or NumPy arrays, with the names of torchvision, timm or Caffe2.
        source: a key of ``CONVENTIONS``. By default it is inferred from the names: those of a
            ResNet, which torchvision and timm share, are attributed to torchvision; those of Caffe2
            to FAIR for a ResNeXt, and to MSRA otherwise.

    Raises:
        ValueError: no backbone has exactly these tensors. The message lists the keys that are
            missing, left over or of another shape.
    """
    naming = find_naming(state_dict)
    if source is not None and source not in naming.sources:
        raise ValueError(
            f"source is {source!r}; expected {' or '.join(naming.sources)}, "
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
        what = f"by its names ({naming.mark}*) it is a {naming.family}, but"
        raise ValueError(f"{what} {describe_fault(shapes) or error}") from None
    source = source or _likely_source(naming, arguments)
    settings = CONVENTIONS[source].settings()
    stride = settings.pop("MODEL.RESNETS.STRIDE_IN_1X1")
    if arguments.get("block") == "bottleneck":
        arguments["stride_in_1x1"] = CONVENTIONS[source].stride_in_1x1
        settings["MODEL.RESNETS.STRIDE_IN_1X1"] = stride
    norm = "FrozenBN" if is_affine else find_norm(weights)
    if norm == "GN":
        raise ValueError(
            "its norms have no means and variances, as group norms; expected batch norms"
        )
    if norm:
        arguments["norm"] = settings["MODEL.RESNETS.NORM"] = norm
    description = Description(source, naming.family, arguments, tuple(dropped), settings)
    check_complete(shapes, description, keys)
    return weights, description


def check_complete(
    shapes: Shapes, description: Description, keys: Mapping[str, str] | None = None
) -> None:
    """Check that tensors are exactly those of the network in a description.

    Args:
        shapes: shapes of the tensors of a backbone by name. Whole stages may be missing.
        description: description of the network.
        keys: names of the tensors in the file, where they differ.

    Raises:
        ValueError: the tensors differ. The message lists the differences.
    """
    keys = keys or {}
    with on_meta():
        expected = description.build(norm="FrozenBN").state_dict()
    if description.arguments.get("norm") == "GN":
        expected = {name: t for name, t in expected.items() if "running_" not in name}
    stages = {name.partition(".")[0] for name in shapes}
    missing = [name for name in expected if name not in shapes and name.partition(".")[0] in stages]
    left_over = [keys.get(name, name) for name in shapes if name not in expected]
    misshapen = [
        f"{keys.get(name, name)} {shape} instead of {tuple(expected[name].shape)}"
        for name, shape in shapes.items()
        if name in expected and shape != tuple(expected[name].shape)
    ]
    problems = [
        f"{len(names)} {what}: {some(names)}"
        for what, names in (
            ("missing", missing),
            ("left over", left_over),
            ("of another shape", misshapen),
        )
        if names
    ]
    if problems:
        fault = describe_fault(shapes)
        raise ValueError(
            f"{fault}; most like {description}"
            if fault
            else f"the tensors are not those of any backbone; most like {description}\n  "
            + "\n  ".join(problems)
        )


def describe_fault(names: Iterable[str]) -> str:
    """Describe a known reason why tensors belong to no CR backbone. Empty if there is none."""
    names = list(names)
    deformable = [name for name in names if "_offset." in name]
    if deformable:
        return f"its convolutions are deformable ({deformable[0]}, ...); expected plain ones"
    biases = [name for name in names if name.endswith(".bias")]
    if biases and not any(".norm." in name for name in names):
        return (
            f"its norms were folded into the convolutions, which have biases instead ({biases[0]}, "
            "...); expected norms"
        )
    return ""


def _rename(state_dict: Mapping[str, Any], naming: Naming) -> tuple[dict[str, str], list[str]]:
    """Map each name in the backbone to a key of the file, and list the keys without a name."""
    keys: dict[str, str] = {}
    unused = []
    for key in state_dict:
        if naming.is_unused(key):
            unused.append(key)
        elif not key.endswith(COUNTER):
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
    if naming.affine_norms and arguments["num_groups"] > 1:
        return "fair"
    return naming.sources[0]
