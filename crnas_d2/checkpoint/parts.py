"""The parts of a model other than the stages, each of which is taken from a trained network or new."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import nn

from .classes import find_class_rows, match_class_rows
from .names import StateDict, without_counters
from .remap import find_stages
from .seed_network import SeedNetwork
from .weights_file import some

logger = logging.getLogger(__name__)


NECK = "neck"
OUTPUTS = ", outputs of classes"  # appended to the name of a part
LAYERS_BEFORE = {"roi_heads.box_predictor": "roi_heads.box_head"}
ABSENT = "there is none"
PART = re.compile(r"(backbone\.top_block|roi_heads\.\w+|\w+)\..+")


def name_part(key: str) -> str:
    """Get the part of a model, other than the stages of its backbone, that a tensor belongs to."""
    part = match[1] if (match := PART.fullmatch(key)) else key
    return NECK if part == "backbone" else part


def take_parts(seed: SeedNetwork, model: nn.Module, names: tuple[str, ...]) -> StateDict:
    """Take the parts of a model other than the stages from a trained network, and log each of them.

    A part is taken if all of its tensors fit. Any other part is new and stays as it is in the
    model. A pyramid may have fewer levels than that of the network. The outputs of classes are a
    part of their own, which is matched by the names of the classes, and is new if the layers before
    it are.

    Args:
        seed: the trained network, of which all tensors outside of the backbone are considered.
        model: the model, which is not changed.
        names: names of its classes. Empty if they are unknown.

    Returns:
        Tensors by their names in the model, without those that are new.
    """
    stages = tuple(f"{path}." for path in find_stages(model).values())
    of_classes = find_class_rows(model)

    def part_of(key: str) -> str:
        return name_part(key) + OUTPUTS if key in of_classes else name_part(key)

    own: dict[str, StateDict] = defaultdict(dict)
    for key, tensor in model.state_dict().items():
        if not key.startswith(stages):
            own[part_of(key)][key] = tensor
    given, classes = match_class_rows(seed.rest, seed.class_names, model, names)
    there: dict[str, StateDict] = defaultdict(dict)
    for key, tensor in {**given, **{key: seed.rest[key] for key in classes.left_out}}.items():
        there[part_of(key)][key] = tensor

    state, absent = {}, []
    new: set[str] = set()
    of_others = set(map(part_of, classes.left_out))
    for part, tensors in own.items():
        reason = _why_new(tensors, there.pop(part, {}), is_pyramid=part == NECK)
        layers = part.removesuffix(OUTPUTS)
        if not reason and part in of_others:
            reason = "they are of other classes"
        elif not reason and not new.isdisjoint({layers, LAYERS_BEFORE.get(layers)}):
            reason = "they belong to other layers"
        if not reason:
            taken = {key: given[key] for key in tensors if key in given}
            logger.info(f"from {seed.name}: {part} ({len(taken)} tensors)")
            state.update(taken)
            continue
        new.add(part)
        if reason == ABSENT:
            absent.append(part)
        else:
            logger.info(f"new: {part}; in {seed.name} {reason}")
    if absent:
        logger.info(f"new, as {seed.name} has none: {', '.join(absent)}")
    if there:
        logger.info(f"not used of {seed.name}: {', '.join(there)}")
    if str(classes) and not of_classes.keys().isdisjoint([*state, *classes.left_out]):
        logger.info(f"classes of {seed.name}: {classes}")
    return state


def _why_new(own: StateDict, there: StateDict, is_pyramid: bool) -> str:
    """Explain why a part of a model cannot take the tensors of a file. Empty if it can.

    Args:
        own: tensors of the model.
        there: tensors of the file.
        is_pyramid: whether the file may have further levels.
    """
    own, there = without_counters(own), without_counters(there)
    misshapen = list_misshapen(there, own)
    lacking = [key for key in own if key not in there]
    more = [key for key in there if key not in own]
    if not there:
        return ABSENT
    if misshapen:
        return f"{len(misshapen)} tensor(s) have another shape ({some(misshapen)})"
    if lacking:
        return f"{len(lacking)} of its tensors are not there ({some(lacking)})"
    if more and not is_pyramid:
        return f"it has {len(more)} tensor(s) more ({some(more)})"
    return ""


def list_misshapen(given: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor]) -> list[str]:
    """List the tensors whose shapes differ from those of a model, with both shapes."""
    return [
        f"{key} {tuple(tensor.shape)} for {tuple(own[key].shape)}"
        for key, tensor in given.items()
        if key in own and tensor.shape != own[key].shape
    ]
