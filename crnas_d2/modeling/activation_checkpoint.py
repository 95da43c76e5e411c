"""Stages that trade computation for memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


class CheckpointedStage(nn.Sequential):
    """A stage that keeps its input alone and recomputes its activations in the backward pass.

    Values, gradients, parameter names and the running statistics of its norms are those of
    ``nn.Sequential``: the second pass through the stage leaves all buffers as they are.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not torch.is_grad_enabled():
            return super().forward(x)
        return checkpoint(
            super().forward,
            x,
            use_reentrant=False,
            context_fn=lambda: (contextlib.nullcontext(), self._copied_buffers()),
        )

    @contextlib.contextmanager
    def _copied_buffers(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for module in self.modules():
                for name, buffer in module.named_buffers(recurse=False):
                    setattr(module, name, buffer.clone())
                    stack.callback(setattr, module, name, buffer)
            yield
