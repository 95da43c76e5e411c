"""Any file of weights as one that holds a backbone alone, with the settings that it needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import safetensors.torch
import torch

from ..files import write_atomically
from .convert import check_output
from .description import Description
from .seed_network import read_seed_network


def convert_file(
    input_path: str,
    output_path: str,
    *,
    source: str | None = None,
    prefix: str = "",
    pixel_mean: Sequence[float] | None = None,
    pixel_std: Sequence[float] | None = None,
    overwrite: bool = False,
) -> tuple[dict[str, torch.Tensor], Description]:
    """Read, convert and save.

    Args:
        input_path, source, prefix, pixel_mean, pixel_std: see :func:`read_seed_network`.
        output_path: a local file ``*.safetensors``.
        overwrite: replace a file that is there.

    Returns:
        The weights of the backbone, and which network it is.

    Raises:
        FileExistsError: there is one, and it may not be replaced.
        FileNotFoundError: there is no input, or no folder for the output.
        ValueError: as in :func:`read_seed_network`, or for the name of the output.
    """
    check_output(output_path, overwrite, [input_path])
    seed = read_seed_network(input_path, source, prefix, pixel_mean, pixel_std)
    try:
        description = seed.describe()
    except ValueError as error:
        raise ValueError(f"{input_path}: {error}") from None
    weights = {n: t for n, t in seed.weights.items() if not n.endswith("num_batches_tracked")}
    save_backbone(output_path, weights, description)
    return weights, description


def save_backbone(path: str, weights: Mapping[str, torch.Tensor], description: Description) -> None:
    """Write the result of :func:`convert` as safetensors, whole or not at all.

    Args:
        path: a local file; one that is there is replaced.
    """
    contiguous = {name: tensor.contiguous() for name, tensor in weights.items()}
    write_atomically(path, safetensors.torch.save(contiguous, description.metadata()))
