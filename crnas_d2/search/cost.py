"""What an architecture may cost: the constraint of equation (1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from detectron2.config import CfgNode

from ..analysis import analyze_detector
from ..architecture import Architecture, get_family
from ..config import set_architecture
from ..modeling.builder_names import without_supernet
from ..spaces import StageSpace
from ..architecture import Code

Cost = Callable[[Code], float]


def get_cost(name: str, space: StageSpace, cfg: CfgNode) -> Cost:
    """The cost of a stage code, as ``SEARCH.COST`` names it.

    Args:
        name: "blocks", "weighted" or "gmacs", see :mod:`crnas_d2.config`.
        space: of the stage codes.
        cfg: of a detector of the space's family, whose backbone's multiply-adds count for "gmacs".

    Raises:
        ValueError: there is no such cost.
    """
    if name == "blocks":
        return sum
    if name == "weighted":
        return space.cost
    if name == "gmacs":
        return _multiply_adds(space, cfg)
    raise ValueError(f"SEARCH.COST is {name!r}; expected 'blocks', 'weighted' or 'gmacs'")


def _multiply_adds(space: StageSpace, cfg: CfgNode) -> Cost:
    """All blocks of a stage but the first cost the same, so two depths of each stage tell all."""
    stages = get_family(space.family).stages
    shortest = [choices[0] for choices in space.choices]

    def measure(stage_code: Sequence[int]) -> int:
        variant = plain_detector(cfg)
        set_architecture(variant, Architecture(stage_code))
        return analyze_detector(variant).backbone_macs

    fixed = measure(shortest)
    added = [0] * len(stages)
    for index, choices in enumerate(space.choices):
        if len(choices) > 1:
            deeper = list(shortest)
            deeper[index] += 1
            added[index] = measure(deeper) - fixed

    def gmacs(code: Code) -> float:
        blocks = zip(code, shortest, added, strict=True)
        return (fixed + sum((n - least) * macs for n, least, macs in blocks)) / 1e9

    return gmacs


def plain_detector(cfg: CfgNode) -> CfgNode:
    """A copy of a detector's config, not frozen, with the network of its codes as the backbone, in
    place of a supernet."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.BACKBONE.NAME = without_supernet(cfg.MODEL.BACKBONE.NAME)
    return cfg
