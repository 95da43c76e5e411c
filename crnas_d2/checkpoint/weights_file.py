"""Reads the tensors in a file of weights of any format, without running anything in it."""

from __future__ import annotations

import logging
import pickle
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from safetensors import safe_open

from detectron2.utils.file_io import PathManager

from . import pickles
from .file_formats import EXPECTED, PICKLE, SAFETENSORS, TORCH, tell_format

logger = logging.getLogger(__name__)

# Entries in which training scripts store the model's state dict among other things
WRAPPERS = (
    *("state_dict", "model_state_dict", "model_state", "model", "blobs", "net", "network"),
    *("module", "state_dict_ema", "model_ema", "ema_state_dict", "ema_state", "ema"),
)
# Prefixes that wrappers add to all names: DataParallel, torch.compile, Lightning
COMMON_PREFIXES = ("module.", "_orig_mod.", "model.")
MOST_NESTED = 3  # nested wrappers
SHOWN = 5  # number of names in a message
TENSORS = (torch.Tensor, np.ndarray)
# Suffixes of the tensors with which a layer computes. Other integer tensors are tables and masks
OF_A_LAYER = ("weight", "bias", "running_mean", "running_var", "_w", "_b")
INTEGERS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


@dataclass(frozen=True)
class WeightsFile:
    """The content of a file of weights.

    Attributes:
        path: path of the file, as given.
        tensors: tensors by name, float32 apart from counters. They may be read lazily from the
            file.
        header: metadata of a safetensors file.
        model_config: values by config key in a checkpoint of this project.
        author: author of a pickle of Detectron2's model zoo.
    """

    path: str
    tensors: Mapping[str, torch.Tensor]
    header: Mapping[str, str] = field(default_factory=dict)
    model_config: Mapping[str, str] = field(default_factory=dict)
    author: str = ""


def read_weights_file(path: str, prefix: str = "") -> WeightsFile:
    """Read the state dict in a file, without running anything in the file.

    The format is detected by the content. The state dict may be an entry of the file, such as
    "state_dict" or "model". A common prefix that a wrapper has added to all names, such as
    "module.", is removed.

    Args:
        path: any path that ``PathManager`` supports. Remote files are cached.
        prefix: take only the tensors with this prefix, which is removed; or, in a file with several
            state dicts, the one in the entry of this name, such as "state_dict_ema" or "teacher".
            It is ignored for a checkpoint of this project, all of whose names are known.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or does not hold weights, no tensor has the prefix, or a
            tensor is not finite or has integers. The message names the file and the fault.
    """
    content, header = _read_content(path)
    config, author = find_model_config(content), dict(_items(content)).get("__author__")
    tensors = _check_tensors(_unwrap(content, path, "" if config else prefix), path)
    return WeightsFile(path, tensors, header, config, author if isinstance(author, str) else "")


def find_model_config(content: Any) -> dict[str, str]:
    """Get the config values in the content of a checkpoint of this project. Empty for other files.

    Other projects have configs of other kinds under the same name.
    """
    config = dict(_items(content)).get("model_config")
    if isinstance(config, dict) and all(
        isinstance(key, str) and key.startswith(("MODEL.", "INPUT.")) and isinstance(value, str)
        for key, value in config.items()
    ):
        return config
    return {}


def read_checkpoint(path: str, into_memory: bool = False) -> dict[str, Any]:
    """Read a whole checkpoint of this project.

    Args:
        path: path of the checkpoint.
        into_memory: read all tensors at once, instead of lazily from the disk.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file has another format, or is damaged.
    """
    local = PathManager.get_local_path(path)
    if tell_format(local, path) != TORCH:
        raise ValueError(f"{path} is cut off, or not in the zip format of torch.save")
    try:
        return _load_torch(local, mmap=not into_memory, weights_only=True)
    except (RuntimeError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path} cannot be read as a checkpoint: {error}") from error


def as_float32(key: str, value: Any) -> torch.Tensor:
    """Convert a value to a float32 tensor.

    Args:
        key: name of the value, for the error message.
        value: a tensor or array of a floating-point type.
    """
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        return torch.from_numpy(np.require(value, np.float32, ["C", "W"]))
    if isinstance(value, torch.Tensor) and value.is_floating_point():
        return value.detach().to("cpu", torch.float32).contiguous()
    kind = getattr(value, "dtype", type(value).__name__)
    raise ValueError(f"{key} is {kind}; expected a tensor or array of floating point")


def _read_content(path: str) -> tuple[Any, dict[str, str]]:
    """Read the content of a file, and its header."""
    local = PathManager.get_local_path(path)
    kind = tell_format(local, path)
    try:
        if kind == SAFETENSORS:
            with safe_open(local, framework="pt") as file:
                return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}
        if kind == PICKLE:
            with open(local, "rb") as file:
                return pickles.load(file), {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about classes without source code in an old file
            mmap = kind == TORCH
            return _load_torch(local, mmap, weights_only=False, pickle_module=pickles), {}
    except pickles.ForeignClasses as error:
        raise ValueError(f"{path} {_describe_foreign(error, path, kind)}") from None
    except OSError:
        raise
    except Exception as error:  # readers may raise anything on a damaged file
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path} cannot be read as weights: {reason}; {EXPECTED}") from error


def _load_torch(local: str, mmap: bool, **options: Any) -> Any:
    if mmap and not local.endswith(".safetensors"):
        return torch.load(local, map_location="cpu", mmap=True, **options)
    # torch.load infers the format from this extension
    with open(local, "rb") as file:
        return torch.load(file, map_location="cpu", **options)


def _describe_foreign(error: pickles.ForeignClasses, path: str, kind: str) -> str:
    load = f"torch.load({path!r}, weights_only=False)"
    if kind == PICKLE:
        load = f"pickle.load(open({path!r}, 'rb'))"
    content, part = error.content, ".state_dict()"
    if isinstance(content, dict):
        entry = next((entry for entry in WRAPPERS if entry in content), None)
        is_plain = entry is None or isinstance(content[entry], dict)
        part = ("" if entry is None else f"[{entry!r}]") + ("" if is_plain else part)
    what = "needs"
    if any(name.startswith("torch.nn.modules.") for name in error.names):
        what = "holds a whole model, not its state dict alone, and needs"
    names = ", ".join(error.names[:3]) + (", ..." if len(error.names) > 3 else "")
    return (
        f"{what} {names}, which could run code and is not imported; where you trust the file, save "
        f"the state dict alone: torch.save({load}{part}, 'weights.pth')"
    )


def _unwrap(content: Any, path: str, prefix: str) -> dict[str, Any]:
    """Get the state dict in the entries of a file, without the prefix of its names."""
    for _ in range(MOST_NESTED):
        entries = [key for key, value in _items(content) if _holds_tensors(value)]
        asked, _, rest = prefix.partition(".")
        entry: str | None
        if asked in entries:
            entry, prefix = asked, rest
        else:
            entry = next((wrapper for wrapper in WRAPPERS if wrapper in entries), None)
        if entry is None:
            break
        others = [other for other in entries if other != entry]
        if entry != asked and (others or "ema" in entry.split("_")):
            logger.warning(
                f"{path}: taking its entry {entry!r}, not {', '.join(map(repr, others)) or 'another'}; "
                "MODEL.INIT.PREFIX or --prefix names another one"
            )
        content = content[entry]
    tensors = {key: value for key, value in _items(content) if isinstance(value, TENSORS)}
    if not tensors:
        raise ValueError(f"{path} holds no dict of named tensors, but {_describe(content)}")
    left_out = [key for key, _ in _items(content) if key not in tensors]
    if left_out:
        logger.info(f"{path}: leaving out what are no tensors: {some(left_out)}")
    return _without_prefix(tensors, path, prefix)


def _items(content: Any) -> list[tuple[str, Any]]:
    if not isinstance(content, dict):
        return []
    return [(key, value) for key, value in content.items() if isinstance(key, str)]


def _holds_tensors(value: Any) -> bool:
    return any(
        isinstance(part, TENSORS) or (key in WRAPPERS and isinstance(part, dict))
        for key, part in _items(value)
    )


def _describe(content: Any) -> str:
    if not isinstance(content, dict):
        return f"a {type(content).__name__}"
    entries = [f"{key!r} ({type(value).__name__})" for key, value in content.items()]
    return f"{some(entries) or 'nothing'}; MODEL.INIT.PREFIX or --prefix takes an entry by its name"


def _without_prefix(tensors: dict[str, Any], path: str, prefix: str) -> dict[str, Any]:
    if prefix[-1:].isalnum():
        prefix += "."
    stripped = _strip_common(tensors)
    for named in (tensors, stripped):
        chosen = {k.removeprefix(prefix): v for k, v in named.items() if k.startswith(prefix)}
        if prefix and chosen:
            return _strip_common(chosen)
    if prefix:
        there = dict.fromkeys(f"{key.partition('.')[0]}." for key in stripped if "." in key)
        raise ValueError(
            f"{path}: none of the {len(tensors)} tensors has a name that begins with {prefix!r}; "
            f"expected one of {', '.join(there) or 'none'}"
        )
    return stripped


def _strip_common(tensors: dict[str, Any]) -> dict[str, Any]:
    while tensors:
        common = [p for p in COMMON_PREFIXES if all(key.startswith(p) for key in tensors)]
        if not common:
            break
        tensors = {key.removeprefix(common[0]): value for key, value in tensors.items()}
    return tensors


def _check_tensors(tensors: dict[str, Any], path: str) -> dict[str, torch.Tensor]:
    checked, left_out = {}, []
    for key, value in tensors.items():
        if isinstance(value, torch.Tensor):
            is_counter = value.numel() == 1 and value.dtype in INTEGERS
        else:
            is_counter = value.size == 1 and value.dtype.kind in "bui"
        try:
            checked[key] = torch.as_tensor(value) if is_counter else as_float32(key, value)
        except ValueError as error:
            if key.endswith(OF_A_LAYER):
                raise ValueError(f"{path}: {error}") from None
            left_out.append(key)
    if left_out:
        logger.info(f"{path}: leaving out what are no floating-point numbers: {some(left_out)}")
    diverged = [key for key, tensor in checked.items() if not tensor.isfinite().all()]
    if diverged:
        raise ValueError(f"{path}: {len(diverged)} tensor(s) have Inf or NaN ({some(diverged)})")
    return checked


def some(names: Iterable[Any]) -> str:
    """Format the first of some names."""
    names = [str(name) for name in names]
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
