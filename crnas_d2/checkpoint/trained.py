"""Loading of weights that have to be complete."""

from __future__ import annotations

import torch
from torch import nn

from detectron2.config import CfgNode

from .checkpointer import CRCheckpointer


def load_trained(model: nn.Module, cfg: CfgNode, weights: str, part: nn.Module) -> None:
    """Load weights into a model, and check that a part of it gets all of its values.

    Args:
        model: model of the config.
        cfg: see :class:`CRCheckpointer`.
        weights: any file that :class:`CRCheckpointer` loads.
        part: the model itself or a module in it.

    Raises:
        ValueError: the file has no values for some parameters or statistics of the part.
    """
    tensors = {key: t for key, t in part.state_dict().items() if t.is_floating_point()}
    for tensor in tensors.values():
        tensor.fill_(torch.nan)
    CRCheckpointer(model, "", cfg).load(weights)
    missing = [key for key, tensor in tensors.items() if tensor.isnan().any()]
    if missing:
        raise ValueError(
            f"weights {weights!r} have no values for {len(missing)} tensors of the "
            f"{type(part).__name__}, such as {missing[0]}; expected the checkpoint of a trained one"
        )
