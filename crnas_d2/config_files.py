"""Find and read config files, by path, by the name of a shipped one, or as ``crnas_d2://NAME``."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import IO, Any

import yaml

from detectron2.utils.file_io import PathHandler, PathManager

from .config_values import leaves
from .paths import expand_path, is_remote

BASE = "_BASE_"
# Keys that hold a path to weights
WEIGHTS = ("MODEL.WEIGHTS", "SEARCH.RECIPE.SEED_WEIGHTS")
SHIPPED = "crnas_d2://"
# Network in the names of the shipped configs, by the published name without "SCR-" or "CR-"
NETWORKS: Mapping[str, str] = MappingProxyType(
    {
        "ResNet18": "R_18",
        "ResNet50": "R_50",
        "ResNet101": "R_101",
        "ResNeXt50": "X_50_32x4d",
        "ResNeXt101": "X_101_32x4d",
        "MobileNetV2": "MNV2",
    }
)
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's is about ten times as fast


def configs_dir() -> str:
    """Get the folder of the YAML configs, in the installed package or at the top of a checkout."""
    package = os.path.dirname(os.path.abspath(__file__))
    installed = os.path.join(package, "configs")
    return installed if os.path.isdir(installed) else os.path.join(package, "..", "configs")


def find_config_file(name: str) -> str:
    """Find the path of a config file.

    Args:
        name: a path or a URL, in which ``~`` and environment variables are expanded. If no such
            file exists, the name of a shipped config, such as
            ``COCO-Detection/faster_rcnn_CR_R_50_FPN_1x.yaml``. A shipped config is also named
            explicitly by ``crnas_d2://NAME``.

    Raises:
        FileNotFoundError: there is no such config.
        ValueError: it is a folder.
    """
    path = expand_path(name)
    if path.startswith(SHIPPED):
        path = _shipped(path.removeprefix(SHIPPED))
    elif not is_remote(path) and not os.path.exists(path):
        path = _shipped(path) if os.path.isfile(_shipped(path)) else path
    if not is_remote(path) and os.path.isdir(path):
        raise ValueError(f"config file {name!r} is a folder; expected a YAML file")
    if not PathManager.isfile(path):
        raise FileNotFoundError(
            f"config file {name!r}: no such file, and none of that name comes with crnas_d2"
        )
    return path


def name_in_configs(architecture: str) -> str:
    """Get a published architecture's name in those of configs, such as "CR_R_50" of "CR-ResNet50"."""
    kind, _, network = architecture.rpartition("-")
    return f"{kind}_{NETWORKS[network]}" if kind else NETWORKS[network]


def config_name(path: str) -> str:
    """Get the name of a shipped config from its path, or the relative path of any other one."""
    name = os.path.relpath(os.path.realpath(path), os.path.realpath(configs_dir()))
    return os.path.relpath(path) if name.startswith(os.pardir) else name


def read_config_files(path: str) -> list[tuple[str, dict[str, Any]]]:
    """Read a config file and its bases.

    Args:
        path: a path from :func:`find_config_file`. Executable content is refused. ``_BASE_`` is one
            name or a list of names, each of which is relative to the file itself or of the form
            ``crnas_d2://NAME``.

    Returns:
        The path and the content of each file, bases first. A later entry overrides an earlier one.

    Raises:
        FileNotFoundError: a base does not exist.
        ValueError: a file does not hold a mapping of keys in YAML, or is a base of itself.
    """
    return _read(path, ())


def _read(path: str, readers: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
    content = _read_yaml(path)
    _find_weights(content, path)
    bases = content.pop(BASE, [])
    files = []
    for base in bases if isinstance(bases, list) else [bases]:
        what = f"config file {path}: {BASE} is {base!r}"
        if not isinstance(base, str):
            raise ValueError(f"{what}; expected a file")
        found = expand_path(base)
        if found.startswith(SHIPPED):
            found = _shipped(found.removeprefix(SHIPPED))
        elif not is_remote(found):
            found = os.path.join(os.path.dirname(path), found)
        if not PathManager.isfile(found):
            raise FileNotFoundError(f"{what}; there is no file {found}")
        if any(os.path.realpath(found) == os.path.realpath(file) for file in (path, *readers)):
            raise ValueError(f"{what}, which makes it a base of itself")
        files += _read(found, (path, *readers))
    return [*files, (path, content)]


def _read_yaml(path: str) -> dict[str, Any]:
    try:
        with PathManager.open(path, "r") as file:
            content = yaml.load(file, LOADER)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"config file {path} is not YAML: {reason}") from None
    if not isinstance(content, dict):
        kind = "nothing" if content is None else f"a {type(content).__name__}"
        raise ValueError(f"config file {path} holds {kind}; expected keys with values")
    try:
        list(leaves(content))
    except RecursionError:
        raise ValueError(f"config file {path}: an alias is a part of what it names") from None
    return content


def _find_weights(content: dict[str, Any], path: str) -> None:
    """Resolve relative paths to weights against the config's folder, if the weights exist there."""
    for key in WEIGHTS:
        *parents, name = key.split(".")
        node: Any = content
        for parent in parents:
            node = node.get(parent) if isinstance(node, dict) else None
        weights = node.get(name) if isinstance(node, dict) else None
        if isinstance(weights, str) and weights and not is_remote(path):
            beside = os.path.join(os.path.dirname(os.path.abspath(path)), expand_path(weights))
            if os.path.isfile(beside):
                node[name] = beside


def _shipped(name: str) -> str:
    return os.path.normpath(os.path.join(configs_dir(), name))


class _ShippedConfigs(PathHandler):
    """Lets Detectron2 open ``crnas_d2://NAME``, as in ``cfg.merge_from_file("crnas_d2://...")``."""

    def _get_supported_prefixes(self) -> list[str]:
        return ["crnas_d2:/"]  # Detectron2 joins a base to a file at the top with one slash

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        return _shipped(path.removeprefix("crnas_d2:").lstrip("/"))

    def _isfile(self, path: str, **kwargs: Any) -> bool:
        return os.path.isfile(self._get_local_path(path))

    def _open(self, path: str, mode: str = "r", **kwargs: Any) -> IO[Any]:
        return open(self._get_local_path(path), mode)


PathManager.register_handler(_ShippedConfigs(), allow_override=True)


def place_of(
    fault: str, files: Sequence[tuple[str, Mapping[str, Any]]], opts: Sequence[Any]
) -> str:
    """Describe where the value that a fault is about was set.

    Args:
        fault: a sentence that begins with the key.
        files: the result of :func:`read_config_files`, in which a later file
            overrides an earlier one.
        opts: alternating keys and values of the command line.

    Returns:
        "in FILE" or "on the command line". Empty if nothing has set the value.
    """
    key = re.match(r"[A-Z][A-Z0-9_.]*", fault)
    if not key:
        return ""
    if key[0] in opts[::2]:
        return "on the command line"
    return next(
        (f"in {path}" for path, values in reversed(files) if key[0] in dict(leaves(values))), ""
    )
