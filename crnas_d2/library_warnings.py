"""Warnings of other packages about each other, which no user of this one can act on."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator

# What torch 2.15 says of Detectron2's and fvcore's calls.
MESHGRID = r"torch\.meshgrid: in an upcoming release"  # by each anchor generator
SCRIPT = r"`torch\.jit\.script` is deprecated"  # by functions of the losses, boxes and layers
AMP = r"`torch\.cuda\.amp\."  # by Detectron2's trainer
BUFFERS = "`broadcast_buffers` is deprecated"  # by Detectron2's create_ddp_model
FX_TRACING = "is_fx_tracing will return true"  # by the RoI pooler
NO_CUDA = "No CUDA runtime is found"  # by the description of the environment


def ignore_library_warnings() -> None:
    """Silence those that come when Detectron2 is imported, and those that its models raise."""
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
    """Within it, torch does not warn that it finds a compiler of CUDA and no GPU."""
    log, unheeded = logging.getLogger("torch.utils.cpp_extension"), _Without(NO_CUDA)
    log.addFilter(unheeded)
    try:
        yield
    finally:
        log.removeFilter(unheeded)


class _Without(logging.Filter):
    """Lets all records pass but those that begin with a text."""

    def __init__(self, text: str):
        super().__init__()
        self._text = text

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(self._text)
