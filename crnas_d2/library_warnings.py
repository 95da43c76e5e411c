"""Silence warnings of other packages about each other, on which users of this one cannot act."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator

# What torch 2.15 says about calls in Detectron2 and fvcore
MESHGRID = r"torch\.meshgrid: in an upcoming release"  # every anchor generator
SCRIPT = r"`torch\.jit\.script` is deprecated"  # functions of the losses, boxes and layers
AMP = r"`torch\.cuda\.amp\."  # Detectron2's trainer
BUFFERS = "`broadcast_buffers` is deprecated"  # Detectron2's create_ddp_model
FX_TRACING = "is_fx_tracing will return true"  # the RoI pooler
NO_CUDA = "No CUDA runtime is found"  # the description of the environment


def ignore_library_warnings() -> None:
    """Silence the warnings of importing Detectron2 and of running its models."""
    warnings.filterwarnings("ignore", MESHGRID, UserWarning, r"torch\.functional")
    warnings.filterwarnings("ignore", AMP, FutureWarning, r"detectron2\.engine\.train_loop")
    warnings.filterwarnings("ignore", BUFFERS, FutureWarning, r"detectron2\.engine\.defaults")
    logging.getLogger("torch.fx._symbolic_trace").addFilter(_Without(FX_TRACING))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", SCRIPT, FutureWarning, r"torch\.jit\._script")
        warnings.filterwarnings("ignore", SCRIPT, DeprecationWarning, r"torch\.jit\._script")
        import detectron2.modeling  # noqa: F401


@contextlib.contextmanager
def ignore_missing_cuda() -> Iterator[None]:
    """Silence torch's warning that it finds a CUDA compiler but no GPU, within a ``with`` block."""
    log, unheeded = logging.getLogger("torch.utils.cpp_extension"), _Without(NO_CUDA)
    log.addFilter(unheeded)
    try:
        yield
    finally:
        log.removeFilter(unheeded)


class _Without(logging.Filter):
    """Drops the records that begin with a given text."""

    def __init__(self, text: str):
        super().__init__()
        self._text = text

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(self._text)
