"""Checks that a checkpoint belongs to the model that a config describes."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping

from detectron2.config import CfgNode
from detectron2.modeling import BACKBONE_REGISTRY

from ..architecture import Architecture
from ..config import flatten_config
from ..config_effects import Effect, effect_of
from ..modeling.builder_names import supernet_kind, without_family, without_supernet
from ..spaces import get_stage_space
from .classes import CLASS_NAMES, describe_difference, read_class_names

ModelConfig = Mapping[str, str]  # the entry "model_config" of a checkpoint

BUILDER = "MODEL.BACKBONE.NAME"
SHARE_BLOCKS = "MODEL.SUPERNET.SHARE_BLOCKS"  # of a stage supernet
# Keys other than the codes and choices that determine a network's tensors or their meaning
NETWORK_KEYS = (
    "MODEL.META_ARCHITECTURE",
    BUILDER,
    "MODEL.CR.FAMILY",
    "MODEL.CR.BLOCK",
    "MODEL.CR.WIDTH_MULTIPLIER",
    "MODEL.RESNETS.NUM_GROUPS",
    "MODEL.RESNETS.WIDTH_PER_GROUP",
    "MODEL.RESNETS.STEM_OUT_CHANNELS",
    "MODEL.RESNETS.RES2_OUT_CHANNELS",
    "MODEL.RESNETS.RES5_DILATION",
    "MODEL.FPN.OUT_CHANNELS",
    "MODEL.NAS_FPN.OUT_CHANNELS",
    "MODEL.NAS_FPN.NUM_CELLS",
    SHARE_BLOCKS,
)


def flatten_model_config(cfg: CfgNode) -> dict[str, str]:
    """Flatten ``cfg.MODEL`` without the keys of where the model runs and how it starts.

    ``INPUT.FORMAT``, the order of the channels, is added.
    """
    flat = {**flatten_config(cfg.MODEL, "MODEL."), "INPUT.FORMAT": str(cfg.INPUT.FORMAT)}
    not_of_it = ("MODEL.DEVICE", "MODEL.WEIGHTS", "MODEL.INIT.")
    return {key: value for key, value in flat.items() if not key.startswith(not_of_it)}


def check_same_model(
    cfg: CfgNode, saved: ModelConfig, filename: str, below: str | tuple[str, ...] = ""
) -> None:
    """Refuse to resume from a checkpoint whose model differs in anything that affects weights.

    Args:
        cfg: the config in use.
        saved: config values in the checkpoint. Keys that it lacks are not compared, nor are names
            of classes if one of the two has none.
        filename: name of the checkpoint, for the message.
        below: prefix or prefixes of the keys to compare.

    Raises:
        ValueError: a key has another value. The message shows both.
    """
    _refuse(list_changes(flatten_model_config(cfg), saved, below), filename)


def check_same_network(cfg: CfgNode, saved: ModelConfig, filename: str) -> None:
    """Refuse to evaluate the weights of another network, as :func:`check_same_model` does.

    Anything that an evaluation may change is not compared, such as thresholds or the kind of norm,
    nor what :func:`check_settings` compares. A supernet may have fewer choices than the one that
    was trained, and the weights of a supernet may be used for a network of its space. The classes
    may be in another order, see :func:`match_class_rows`.
    """
    used = flatten_model_config(cfg)
    inherits = bool(supernet_kind(saved.get(BUILDER, ""))) and not supernet_kind(used[BUILDER])
    changed = _changed_keys(_network(used), _network(saved, plain=inherits))
    if not inherits:
        changed += _lacking_choices(used, saved)
    if describe_difference(read_class_names(saved), read_class_names(used)):
        changed.append(CLASS_NAMES)
    _refuse(_show(changed, used, saved), filename)


def list_changes(used: ModelConfig, saved: ModelConfig, below: str | tuple[str, ...]) -> list[str]:
    """List the keys with a prefix that affect the trained weights and differ from a checkpoint.

    Each is shown with both values.
    """
    changed = [
        key
        for key in _changed_keys(used, saved)
        if key.startswith(below) and effect_of(key) in (Effect.WEIGHTS, Effect.TRAINING)
    ]
    return _show(changed, used, saved)


def _changed_keys(used: ModelConfig, saved: ModelConfig) -> list[str]:
    return [
        key
        for key, value in used.items()
        if _normal(key, saved.get(key, value)) != _normal(key, value)
        and not (key == CLASS_NAMES and "[]" in (saved[key], value))
    ]


def _normal(key: str, value: str) -> str:
    """Normalize the string of a value.

    Tuples are written as lists, as in a dumped config, a builder has its current name, and an
    operation code without dilation is empty.
    """
    if key == "MODEL.CR.OPERATION_CODE" and not any(ast.literal_eval(value)):
        return "[]"
    return without_family(re.sub(r",?\)", "]", value.replace("(", "[")))


def _show(keys: list[str], used: ModelConfig, saved: ModelConfig) -> list[str]:
    return [
        (
            f"{key}: {_show_classes(used, saved)}"
            if key == CLASS_NAMES
            else f"{key}: {saved[key]} in the checkpoint, {used[key]} in the config"
        )
        for key in keys
    ]


def _show_classes(used: ModelConfig, saved: ModelConfig) -> str:
    there, here = read_class_names(saved), read_class_names(used)
    difference = describe_difference(there, here)
    if difference:
        return difference
    place = next(i for i, pair in enumerate(zip(there, here)) if len({*pair}) > 1)
    return (
        f"the same {len(here)} in another order: the one of index {place} is {there[place]!r} in the "
        f"checkpoint, {here[place]!r} in the data. The state of the optimizer has that order: give "
        "the categories the ids that they had, or start a new training from the checkpoint, as "
        "MODEL.WEIGHTS"
    )


def _refuse(changed: list[str], filename: str) -> None:
    if changed:
        raise ValueError(
            f"{filename} is of another model than the config:\n  " + "\n  ".join(changed)
        )


def _network(flat: ModelConfig, plain: bool = False) -> dict[str, str]:
    """Get the keys of a network, which are equal for equal networks.

    Args:
        flat: flat config.
        plain: describe a single network of a supernet instead of the supernet.
    """
    network = {key: flat[key] for key in NETWORK_KEYS if key in flat}
    name = flat.get(BUILDER, "")
    if plain:
        name = without_supernet(name)
    if name in BACKBONE_REGISTRY:  # it may have several names
        network[BUILDER] = without_family(BACKBONE_REGISTRY.get(name).__name__)
    if network.get("MODEL.CR.FAMILY") != "resnet":
        network.pop("MODEL.CR.BLOCK", None)
    if plain or supernet_kind(name) != "stage":
        network.pop(SHARE_BLOCKS, None)
    if not plain and supernet_kind(name) != "stage" and "MODEL.CR.STAGE_CODE" in flat:
        codes = [ast.literal_eval(flat[f"MODEL.CR.{key}_CODE"]) for key in ("STAGE", "OPERATION")]
        architecture = Architecture(*codes)
        network["MODEL.CR.STAGE_CODE"] = str(list(architecture.stage_code))
        if not supernet_kind(name):
            network["MODEL.CR.OPERATION_CODE"] = str(list(architecture.operation_code))
    return network


def _lacking_choices(used: ModelConfig, saved: ModelConfig) -> list[str]:
    """Get the key of a supernet's choices if the trained one lacks some of them."""
    kind = {"stage": "STAGE_CHOICES", "dilation": "OPERATIONS"}.get(
        supernet_kind(used[BUILDER]) or ""
    )
    key = f"MODEL.SUPERNET.{kind}"
    if key not in saved:
        return []

    def choices(flat: ModelConfig) -> list[set[int]]:
        entries = ast.literal_eval(flat[key])
        if kind == "OPERATIONS":
            return [set(entries)]
        return list(map(set, get_stage_space(flat["MODEL.CR.FAMILY"], entries).choices))

    there, wanted = choices(saved), choices(used)
    if len(there) == len(wanted) and all(w <= t for w, t in zip(wanted, there)):
        return []
    return [key]
