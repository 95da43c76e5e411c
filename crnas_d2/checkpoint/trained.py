"""Weights that have to be there as a whole."""

from __future__ import annotations

import torch
from torch import nn

from detectron2.config import CfgNode

from .checkpointer import CRCheckpointer


def load_trained(model: nn.Module, cfg: CfgNode, weights: str, part: nn.Module) -> None:
    """Load weights into a model, of which a part has to get all of its parameters.

    Args:
        model: of the config.
        cfg: see :class:`CRCheckpointer`.
        weights: what :class:`CRCheckpointer` loads.
        part: the model itself or a module in it.

    Raises:
        ValueError: the file has no values for some parameters of the part.
    """
    parameters = dict(part.named_parameters())
    for parameter in parameters.values():
        parameter.detach().fill_(torch.nan)
    CRCheckpointer(model, "", cfg).load(weights)
    missing = [name for name, parameter in parameters.items() if parameter.isnan().any()]
    if missing:
        raise ValueError(
            f"weights {weights!r} have no values for {len(missing)} parameters of the "
            f"{type(part).__name__}, such as {missing[0]}; expected the checkpoint of a trained one"
        )
