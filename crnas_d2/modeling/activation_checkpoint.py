"""Activation checkpointing of stages, which trades computation for memory."""

from __future__ import annotations

import contextlib

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


class CheckpointedStage(nn.Sequential):
    """A stage that keeps only its input and recomputes its activations in the backward pass.

    Outputs, gradients, parameter names and the running statistics of its norms equal those of
    ``nn.Sequential``: the second pass through the stage leaves all buffers unchanged.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not torch.is_grad_enabled():
            return super().forward(x)
        return checkpoint(
            super().forward,
            x,
            use_reentrant=False,
            context_fn=lambda: (contextlib.nullcontext(), _CopiedBuffers(self)),
        )


class _CopiedBuffers:
    """Context in which a module works on copies of its buffers. It can be entered repeatedly."""

    def __init__(self, module: nn.Module):
        self._module = module

    def __enter__(self) -> None:
        self._originals = contextlib.ExitStack()
        for module in self._module.modules():
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, buffer.clone())
                self._originals.callback(setattr, module, name, buffer)

    def __exit__(self, *_) -> None:
        self._originals.close()
