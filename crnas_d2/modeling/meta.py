"""Building networks without their values, for their shapes and costs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

# What initializes a tensor with random values, and is told to a mode as one call
DRAWS = frozenset(
    {
        nn.init.kaiming_normal_,
        nn.init.kaiming_uniform_,
        nn.init.normal_,
        nn.init.uniform_,
        torch.Tensor.normal_,
        torch.Tensor.uniform_,
    }
)


@contextlib.contextmanager
def on_meta() -> Iterator[None]:
    """Build the networks within a ``with`` block on the meta device, where no memory is allocated.

    Initial values are not drawn. PyTorch would trace each draw in Python, for nothing, which takes
    half of the time of building a large supernet.
    """
    with torch.device("meta"), _WithoutDraws():
        yield


class _WithoutDraws(TorchFunctionMode):
    """Leaves tensors on the meta device as they are where random values would be drawn."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in DRAWS:
            tensor = args[0] if args else kwargs["tensor"]
            if tensor.is_meta:
                return tensor
        return func(*args, **kwargs)
