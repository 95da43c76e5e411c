"""Reads pickles of tensors and NumPy arrays without running anything in them.

``torch.load`` takes this module as its ``pickle_module``.
"""

from __future__ import annotations

import codecs
import functools
import io
import pickle
import sys
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np
import torch

# Classes that describe a training and occur in checkpoints beside the weights. They are never
# instantiated. Like everything that is not needed for weights, they are replaced by a stand-in.
HARMLESS = {
    "argparse": {"Namespace"},
    "builtins": {
        *("bool", "bytearray", "complex", "dict", "float", "frozenset", "int", "list", "long"),
        *("object", "range", "set", "slice", "str", "tuple", "unicode", "xrange"),
    },
    "collections": {"Counter", "defaultdict", "deque"},
    "copyreg": {"_reconstructor"},
    "datetime": {"date", "datetime", "time", "timedelta", "timezone"},
    "decimal": {"Decimal"},
    "detectron2.config.config": {"CfgNode"},
    "fvcore.common.config": {"CfgNode"},
    "lightning.fabric.utilities.data": {"AttributeDict"},
    "lightning_fabric.utilities.data": {"AttributeDict"},
    "mmcv.utils.config": {"ConfigDict"},
    "mmengine.config.config": {"ConfigDict"},
    "mmengine.logging.history_buffer": {"HistoryBuffer"},
    "omegaconf.base": {"Container", "ContainerMetadata", "Metadata", "Node"},
    "omegaconf.dictconfig": {"DictConfig"},
    "omegaconf.listconfig": {"ListConfig"},
    "omegaconf.nodes": {"AnyNode", "BooleanNode", "FloatNode", "IntegerNode", "StringNode"},
    "pathlib": {"Path", "PosixPath", "PurePath", "PurePosixPath", "PureWindowsPath", "WindowsPath"},
    "pytorch_lightning.utilities.parsing": {"AttributeDict"},
    "torch": {"Size", "Tensor", "device"},
    "torch._tensor": {"Tensor"},
    "torch.nn.parameter": {"Parameter"},
    "torch.serialization": {"_get_layout"},
    "torch.storage": {"UntypedStorage"},
    "types": {"SimpleNamespace"},
    "typing": {"Any"},
    "uuid": {"UUID"},
    "yacs.config": {"CfgNode"},
}
# Names in newer and older versions of Python
HARMLESS["pathlib._local"] = HARMLESS["pathlib"]
HARMLESS["__builtin__"] = HARMLESS["builtins"]
HARMLESS["copy_reg"] = HARMLESS["copyreg"]


class ForeignClasses(pickle.UnpicklingError):
    """A pickle asks for classes or functions that could run code.

    Attributes:
        names: their names with the modules, in the order of the file.
        content: what was read, with stand-ins in place of them. None if even that failed.
    """

    def __init__(self, names: list[str], content: Any):
        super().__init__(f"it asks for {', '.join(names)}, which could run code")
        self.names = names
        self.content = content


class Unpickler(pickle.Unpickler):
    """Reads plain containers, strings, numbers, tensors and NumPy arrays of any protocol.

    Strings of Python 2 are decoded as latin1, as in Detectron2. Nothing that a pickle asks for is
    imported or called: everything but the weights is replaced by an inert stand-in.
    """

    def __init__(self, file: BinaryIO, **kwargs: Any):
        super().__init__(file, encoding="latin1")
        self._foreign: dict[str, None] = {}

    def load(self) -> Any:
        """Load the next object.

        Raises:
            ForeignClasses: the pickle asks for more than weights and :data:`HARMLESS`.
            Exception: the file is not a pickle, or is damaged; see :class:`pickle.Unpickler`.
        """
        content = None
        try:
            content = super().load()
        except Exception:  # a stand-in cannot do everything that the class could
            if not self._foreign:
                raise
        if self._foreign:
            raise ForeignClasses([*self._foreign], content)
        return content

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy._core.", "numpy.core.")  # NumPy 2's name
        if (module, name) in _of_weights():
            return _of_weights()[module, name]
        if module == "torch" and isinstance(vars(torch).get(name), (torch.dtype, torch.qscheme)):
            return getattr(torch, name)
        if name not in HARMLESS.get(module, ()) and module != "torch._utils":
            self._foreign[f"{module}.{name}"] = None
        return type(f"{module}.{name}", (_StandIn,), {})


def load(file: BinaryIO, **kwargs: Any) -> Any:
    """Load the next object of a file; see :class:`Unpickler`."""
    return Unpickler(file).load()


class _StandIn:
    """Accepts anything that a pickle does to an object, and ignores it."""

    dtype = torch.uint8  # like a storage without a type of its own
    dump_patches = False  # like a module of PyTorch 0.4 and older

    def __new__(cls, *args: Any, **kwargs: Any) -> _StandIn:
        return object.__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any):
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> _StandIn:
        return self

    def ignore(self, *args: Any) -> None:
        pass

    __setstate__ = __setitem__ = append = extend = add = update = ignore


class _Function:
    """A function whose attributes no pickle can change."""

    __slots__ = ("_call",)
    _call: Callable

    def __init__(self, call: Any):
        object.__setattr__(self, "_call", call)

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)

    def __setattr__(self, name: str, value: Any) -> None:
        raise pickle.UnpicklingError(f"it sets {name} of a function")


@functools.cache
def _of_weights() -> dict[tuple[str, str], Any]:
    array = np.zeros(1)
    rebuild = _Function(lambda *args: torch._utils._rebuild_tensor(*args[:4]))
    return {
        ("collections", "OrderedDict"): OrderedDict,
        ("_codecs", "encode"): _Function(_encode),
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("numpy.core.multiarray", "_reconstruct"): array.__reduce_ex__(4)[0],
        ("numpy.core.multiarray", "scalar"): array[0].__reduce__()[0],
        ("numpy.core.numeric", "_frombuffer"): _Function(array.__reduce_ex__(5)[0]),
        ("torch._utils", "_rebuild_tensor"): rebuild,
        ("torch._utils", "_rebuild_tensor_v2"): rebuild,
        ("torch._utils", "_rebuild_qtensor"): _Function(torch._utils._rebuild_qtensor),
        ("torch._utils", "_rebuild_parameter"): _Function(lambda data, *args: data),
        ("torch._utils", "_rebuild_parameter_with_state"): _Function(lambda data, *args: data),
        ("torch._tensor", "_rebuild_from_type_v2"): _Function(_rebuild_as_plain),
        ("torch.storage", "_load_from_bytes"): _Function(_load_storage),
    }


def _rebuild_as_plain(rebuild: Callable, kind: Any, args: tuple, state: Any) -> Any:
    return rebuild(*args)


def _load_storage(content: bytes) -> Any:
    """Load a storage that pickle, without torch.save, has written."""
    file = io.BytesIO(content)
    here = sys.modules[__name__]
    return torch.load(file, map_location="cpu", weights_only=False, pickle_module=here)


def _encode(text: str, encoding: str) -> bytes:
    """Encode bytes that Python 3 has written in protocols 0 to 2. Other codecs could run any code."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"it asks for the codec {encoding!r}; expected 'latin1'")
    return codecs.encode(text, "latin1")
