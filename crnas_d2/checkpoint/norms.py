"""The kind of norm that a network's tensors need."""

from __future__ import annotations

from collections.abc import Mapping

import torch


def find_norm(tensors: Mapping[str, torch.Tensor]) -> str:
    """Find the only kind of norm with which a network computes what it was trained to compute.

    The result is a value of ``MODEL.RESNETS.NORM``. It is "FrozenBN" if the means and variances of
    all norms were never measured: those of Caffe2's networks and of their descendants are affine
    maps, and norms that were folded into the convolutions have become the identity and a bias. In
    training, another batch norm would replace them by the statistics of its batches. It is "GN" if
    there are no means and variances. It is empty if any batch norm will do, or if all norms still
    have their initial values.

    Args:
        tensors: tensors of the network, with names that end like PyTorch's.
    """
    means = [t for name, t in tensors.items() if name.endswith("running_mean")]
    variances = [t for name, t in tensors.items() if name.endswith("running_var")]
    if not variances:
        return "GN" if any(name.endswith("norm.weight") for name in tensors) else ""
    if any(mean.any() for mean in means) or not all(map(_is_constant, variances)):
        return ""
    norms = [name.removesuffix("running_var") for name in tensors if name.endswith("running_var")]
    weights = [tensors[f"{norm}weight"] for norm in norms if f"{norm}weight" in tensors]
    biases = [tensors[f"{norm}bias"] for norm in norms if f"{norm}bias" in tensors]
    is_fresh = all(((weight == 0) | (weight == 1)).all() for weight in weights)
    return "" if is_fresh and not any(bias.any() for bias in biases) else "FrozenBN"


def _is_constant(tensor: torch.Tensor) -> bool:
    return bool(torch.isclose(tensor, tensor.flatten()[0], rtol=1e-5).all())
