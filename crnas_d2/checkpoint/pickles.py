"""Pickles of NumPy arrays, read without running anything that is in them."""

from __future__ import annotations

import codecs
import pickle
from collections import OrderedDict
from typing import Any, BinaryIO

import numpy as np


def load_arrays(file: BinaryIO) -> Any:
    """Unpickle plain containers, strings, numbers and NumPy arrays; any protocol, Python 2's too.

    Strings of Python 2 are taken as latin1, as Detectron2 takes them.

    Raises:
        pickle.UnpicklingError: the pickle asks for anything else; the message names it. Nothing of
            what it asks for is imported or called.
        Exception: the file is no pickle, or a damaged one; see :class:`pickle.Unpickler`.
    """
    return _ArrayUnpickler(file, encoding="latin1").load()


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        # numpy.core became numpy._core in NumPy 2
        allowed = _allowed_globals()
        try:
            return allowed[module.replace("numpy._core.", "numpy.core."), name]
        except KeyError:
            names = sorted(".".join(key) for key in allowed)
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}; of a pickle with weights only {', '.join(names)} "
                "are accepted"
            ) from None


def _allowed_globals() -> dict[tuple[str, str], Any]:
    array = np.zeros(1)
    return {
        ("collections", "OrderedDict"): OrderedDict,
        ("_codecs", "encode"): _encode,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("numpy.core.multiarray", "_reconstruct"): array.__reduce_ex__(4)[0],
        ("numpy.core.multiarray", "scalar"): array[0].__reduce__()[0],
        ("numpy.core.numeric", "_frombuffer"): array.__reduce_ex__(5)[0],
    }


def _encode(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes in protocols 0 to 2; other codecs could be anybody's code."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"it asks for the codec {encoding!r}; expected 'latin1'")
    return codecs.encode(text, "latin1")
