"""Merge values into a config, and check that each has an existing key and the right type."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from detectron2.config import CfgNode as CN

from .paths import expand_path

KINDS = {
    bool: "True or False",
    int: "a whole number",
    float: "a number with a point",
    str: "a text",
    list: "a list",
    tuple: "a list",
}

# Keys that hold a path, and the keys below DATASETS that declare custom datasets. Each entry of
# the latter is a list of a name, followed by this number of paths.
PATHS = (
    "MODEL.WEIGHTS",
    "OUTPUT_DIR",
    "DATASETS.ARCHVAL.DIR",
    "DATASETS.CACHE_DIR",
    "SEARCH.FINAL",
    "SEARCH.LATENCY.FILE",
    "SEARCH.RECIPE.SEED_WEIGHTS",
    "SEARCH.RECIPE.STAGE_PRETRAINING",
    "SEARCH.RECIPE.STAGE_SUPERNET",
    "SEARCH.RECIPE.DILATION_PRETRAINING",
    "SEARCH.RECIPE.DILATION_SUPERNET",
    "SEARCH.RECIPE.FINAL_PRETRAINING",
)
CUSTOM_DATASETS = {"COCO_JSON": 2, "IMAGE_FOLDERS": 1, "VOC_DIRS": 1}


def merge_values(cfg: CN, values: Mapping[str, Any], file: str) -> None:
    """Merge nested values into a config, in place, expanding ``~`` and variables in paths.

    Args:
        values: nested keys and values, as a YAML file has them.
        file: path of the file that has them, for error messages.

    Raises:
        ValueError: a key does not exist, or a value has the wrong type.
    """
    for key, value in leaves(values):
        _merge(cfg, key, value, f"config file {file}: ")


def merge_opts(cfg: CN, opts: Sequence[Any]) -> None:
    """Merge the alternating keys and values of a command line into a config, in place.

    Raises:
        ValueError: see :func:`merge_values`. Also raised if a value is missing.
    """
    options = [key for key in opts[::2] if str(key).startswith("--")]
    if options:
        raise ValueError(f"{options[0]} is behind a config key; expected options before keys")
    if len(opts) % 2:
        raise ValueError(f"the last config key {opts[-1]!r} has no value; expected keys and values")
    for key, value in zip(opts[::2], opts[1::2]):
        _merge(cfg, key, value, "")


def _merge(cfg: CN, key: str, value: Any, source: str) -> None:
    parent, _, name = key.rpartition(".")
    node = _node(cfg, parent)
    if not isinstance(node, CN) or name not in node:
        similar = difflib.get_close_matches(key, [key for key, _ in leaves(cfg)], n=1)
        hint = f"; is it {similar[0]}?" if similar else ""
        raise ValueError(f"{source}there is no config key {key}{hint}")
    default = node[name]
    if isinstance(default, CN) and value == {}:
        return
    if isinstance(default, CN):
        raise ValueError(f"{source}{key} is {value!r}; expected keys below it")
    try:
        node.merge_from_other_cfg(CN({name: value}))
    except (AssertionError, ValueError):
        kind = KINDS.get(type(default), "another value")
        raise ValueError(
            f"{source}{key} is {value!r}; expected {kind}, such as {default!r}"
        ) from None
    node[name] = _expand_paths(key, node[name])


def _expand_paths(key: str, value: Any) -> Any:
    if key in PATHS and isinstance(value, str):
        return expand_path(value)
    dataset = key.removeprefix("DATASETS.")
    if dataset in CUSTOM_DATASETS and isinstance(value, list):
        return [map_paths(expand_path, dataset, entry) for entry in value]
    return value


def map_paths(change: Callable[[str], str], key: str, entry: Any) -> Any:
    """Apply a function to the paths in an entry of a list of custom datasets.

    Args:
        change: maps a path to the new one.
        key: a key of ``CUSTOM_DATASETS``.
        entry: an entry of the list. If it is not a list itself, it is returned unchanged, as
            datasets are checked when they are registered.
    """
    if not isinstance(entry, (list, tuple)):
        return entry
    end = 1 + CUSTOM_DATASETS[key]
    paths = (change(x) if isinstance(x, str) else x for x in entry[1:end])
    return [*entry[:1], *paths, *entry[end:]]


def leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Iterate over the full names of nested keys, such as "MODEL.CR.FAMILY", and their values."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _node(cfg: CN, key: str) -> Any:
    """Get the node or value at a dotted key, or None if there is none."""
    node: Any = cfg
    for name in filter(None, key.split(".")):
        node = node.get(name) if isinstance(node, CN) else None
    return node
