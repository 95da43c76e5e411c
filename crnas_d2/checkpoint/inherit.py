"""From the weights of a supernet to those of one of its networks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch

from ..architecture import FAMILIES

StateDict = dict[str, torch.Tensor]


def inherit_subnet(supernet: Mapping[str, torch.Tensor], path: Sequence[int]) -> StateDict:
    """The weights of the final network that a path of a trained supernet stands for.

    Args:
        supernet: state dict of a :class:`StageSupernet` or :class:`DilationSupernet`, alone or
            inside a whole detector.
        path: a stage code for the first, an operation code for the second.

    Returns:
        State dict of the :class:`CRResNet` or :class:`CRMobileNetV2` with that code, alone or
        inside the detector as given. Tensors are shared with ``supernet``, not copied.

    Raises:
        ValueError: these are no weights of a supernet, or it does not have the path.
    """
    path = list(path)
    chosen = _choices(supernet, path)
    subnet, used = {}, set()
    for key, tensor in supernet.items():
        unit, op, rest = _split(key)
        if unit is None:
            subnet[key] = tensor
        elif chosen.get(unit) == op:
            subnet[f"{unit}.{rest}"] = tensor
            used.add(unit)
    if missing := sorted(chosen.keys() - used):
        raise ValueError(
            f"path {path}: the supernet has no choice {chosen[missing[0]]} at {missing[0]}"
        )
    return subnet


def _split(key: str) -> tuple[str | None, str, str]:
    """A key as choice unit, chosen candidate and the rest; None where it belongs to no unit."""
    unit, found, rest = key.partition(".ops.")
    return (unit, *rest.split(".", 1)) if found else (None, "", key)


def _choices(supernet: Mapping[str, torch.Tensor], path: Sequence[int]) -> dict[str, str]:
    """The candidate that the path chooses in each unit."""
    units = {unit for unit, _, _ in map(_split, supernet) if unit is not None}
    if not units:
        raise ValueError("these weights have no choice blocks: expected those of a supernet")
    for family in FAMILIES.values():
        stages = "|".join(family.stages)
        pattern = re.compile(rf"(?:^|.*\.)({stages})(?:\.(\d+)\.\w+)?")
        matches = {unit: pattern.fullmatch(unit) for unit in units}
        if all(matches.values()):
            break
    else:
        raise ValueError(f"the choice blocks {sorted(units)[:3]}, ... belong to no known family")

    places = {unit: (match[1], match[2]) for unit, match in matches.items()}
    has_branches = any(block is None for _, block in places.values())
    index = {}
    for stage in family.stages:
        blocks = {block for name, block in places.values() if name == stage}
        if has_branches or stage in family.single:
            index[stage, None] = len(index)
        else:
            index.update({(stage, str(block)): len(index) + block for block in range(len(blocks))})
    if len(path) != len(index):
        raise ValueError(f"path {path} has {len(path)} entries; the supernet's have {len(index)}")
    return {unit: str(path[index[place]]) for unit, place in places.items()}
