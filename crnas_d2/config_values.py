"""Values that go into a config: each one must have a key, and be of its kind."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from detectron2.config import CfgNode as CN

from .files import expand_path

KINDS = {
    bool: "True or False",
    int: "a whole number",
    float: "a number with a point",
    str: "a text",
    list: "a list",
    tuple: "a list",
}

# Keys that are paths, and the keys below DATASETS of own data sets: lists whose entries have a name
# and then so many paths.
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
DATA_SETS = {"COCO_JSON": 2, "IMAGE_FOLDERS": 1, "VOC_DIRS": 1}


def merge_values(cfg: CN, values: Mapping[str, Any], file: str) -> None:
    """Put values into a config, in place; ``~`` and variables in paths are expanded.

    Args:
        values: nested, as a YAML file has them.
        file: that has them, for the errors.

    Raises:
        ValueError: there is no such key, or a value is not of its kind.
    """
    for key, value in leaves(values):
        _merge(cfg, key, value, f"config file {file}: ")


def merge_opts(cfg: CN, opts: Sequence[Any]) -> None:
    """Put the keys and values of a command line, in turn, into a config, in place.

    Raises:
        ValueError: as :func:`merge_values`, or a value is missing.
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
    data_set = key.removeprefix("DATASETS.")
    if data_set in DATA_SETS and isinstance(value, list):
        return [map_paths(expand_path, data_set, entry) for entry in value]
    return value


def map_paths(change: Callable[[str], str], key: str, entry: Any) -> Any:
    """An entry of a list of own data sets with its paths changed.

    Args:
        key: of ``DATA_SETS``.
        entry: what is no list stays as it is: it is checked when the data sets are registered.
    """
    if not isinstance(entry, (list, tuple)):
        return entry
    end = 1 + DATA_SETS[key]
    paths = (change(x) if isinstance(x, str) else x for x in entry[1:end])
    return [*entry[:1], *paths, *entry[end:]]


def leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All keys of nested ones, by their full names, such as "MODEL.CR.FAMILY", and their values."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _node(cfg: CN, key: str) -> Any:
    """What is at a key of dots; None where there is nothing."""
    node: Any = cfg
    for name in filter(None, key.split(".")):
        node = node.get(name) if isinstance(node, CN) else None
    return node
