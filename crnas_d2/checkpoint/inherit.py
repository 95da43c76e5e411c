"""Extracts the weights of a single network from those of a supernet."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

import torch

from ..architecture import FAMILIES, Family
from .names import StateDict

# a stage and the index of a block in it, to which an entry of a path belongs
Place = tuple[str, int]


def inherit_subnet(supernet: Mapping[str, torch.Tensor], path: Sequence[int]) -> StateDict:
    """Get the weights of the final network that a path of a trained supernet stands for.

    Args:
        supernet: state dict of a :class:`StageSupernet` or :class:`DilationSupernet`, by itself or
            inside a whole detector.
        path: a stage code for the former, an operation code for the latter.

    Returns:
        State dict of the :class:`CRResNet` or :class:`CRMobileNetV2` with that code, by itself or
        inside the detector as given. Tensors are shared with ``supernet``, not copied.

    Raises:
        ValueError: these are not the weights of a supernet, or it does not have the path.
    """
    family, choice_keys = _find_choices(supernet)
    chosen = _choose(list(path), family, choice_keys.values())
    subnet: dict[str, torch.Tensor] = {}
    entries: dict[str, int] = {}
    for key, tensor in supernet.items():
        match = choice_keys.get(key)
        if match is None:
            subnet[key] = tensor
            continue
        name = f"{match['unit']}.{match['rest']}"
        entry, wanted, is_stage = int(match["entry"]), chosen[_place(match)], match["block"] is None
        # What the choice of a stage does not have itself, it shares with the next smaller one.
        if entry == wanted or (is_stage and entries.get(name, 0) < entry < wanted):
            subnet[name], entries[name] = tensor, entry
    return subnet


def _find_choices(supernet: Iterable[str]) -> tuple[Family, dict[str, re.Match]]:
    """Find the family, and a regex match for each key of a candidate of a choice block.

    A unit is a whole stage in a stage supernet, and a layer of a block in a dilation supernet.
    """
    for family in FAMILIES.values():
        stage = rf"(?P<stage>{'|'.join(family.stages)})"
        unit = rf"(?P<unit>(?:.+\.)?{stage}(?:\.(?P<block>\d+)\.\w+)?)"
        pattern = re.compile(unit + r"\.ops\.(?P<entry>\d+)\.(?P<rest>.+)")
        found = {key: match for key in supernet if (match := pattern.fullmatch(key))}
        if found:
            return family, found
    keys = list(supernet)
    raise ValueError(
        f"no choice blocks in these weights ({len(keys)} keys: {', '.join(keys[:3])}, ...); "
        "expected the state dict of a supernet"
    )


def _place(match: re.Match) -> Place:
    return match["stage"], int(match["block"] or 0)


def _choose(path: list[int], family: Family, matches: Collection[re.Match]) -> dict[Place, int]:
    """Get the entry of the path at each place, after checking that the supernet has it."""
    candidates = defaultdict(set)
    for match in matches:
        candidates[_place(match)].add(int(match["entry"]))
    has_branches = all(match["block"] is None for match in matches)

    # A supernet whose features come from earlier stages lacks the last stages, but its paths do
    # not.
    last = max(family.stages.index(stage) for stage, _ in candidates)
    complete = family.single.issuperset(family.stages[last + 1 :])
    stages = family.stages if complete else family.stages[: last + 1]
    for stage in family.single.intersection(stages):
        candidates[stage, 0] = {1 if has_branches else 0}

    places = sorted(candidates, key=lambda place: (stages.index(place[0]), place[1]))
    if len(path) < len(places) or (complete and len(path) > len(places)):
        raise ValueError(f"path {path} has {len(path)} entries; the supernet's have {len(places)}")
    chosen = dict(zip(places, path))
    for (stage, block), entry in chosen.items():
        expected = sorted(candidates[stage, block])
        if entry not in expected:
            where = stage if has_branches else f"{stage}.{block}"
            raise ValueError(
                f"path {path}: {entry!r} at {where}; the supernet has {expected} there"
            )
    return chosen
