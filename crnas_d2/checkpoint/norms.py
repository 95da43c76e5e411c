"""What kind of norm a network's tensors need."""

from __future__ import annotations

from collections.abc import Mapping

import torch


def find_norm(tensors: Mapping[str, torch.Tensor]) -> str:
    """The only kind of norm, as in ``MODEL.RESNETS.NORM``, in which a network computes what it was
    trained to.

    "FrozenBN" where the means and variances of all norms were never measured: those of Caffe2's
    networks and what was trained from them are affine maps, and norms that were folded into the
    convolutions have become the identity and a bias. In training, another batch norm would put the
    statistics of its batches in their place. "GN" where there are no means and variances. Empty where
    any batch norm will do, as where all norms are still as they were initialised.

    Args:
        tensors: of the network, by names that end as PyTorch's.
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
