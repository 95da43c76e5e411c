"""The cost of an architecture, which the constraint of equation (1) limits."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from detectron2.config import CfgNode

from ..analysis import DetectorCost, analyze_detector
from ..architecture import Architecture, Code
from ..config import set_architecture
from ..modeling import BUILDERS
from ..modeling.builder_names import without_supernet
from ..spaces import StageSpace
from .latencies import Latencies


@dataclass(frozen=True)
class Cost:
    """A cost function of stage codes.

    Attributes:
        unit: unit of the cost, such as "M parameters".
        measure: computes the cost of a stage code.
    """

    unit: str
    measure: Callable[[Code], float]

    def __call__(self, code: Code) -> float:
        return self.measure(code)


def get_cost(name: str, cfg: CfgNode, space: StageSpace, detector: CfgNode) -> Cost:
    """Get a cost function by its name.

    Args:
        name: name of the cost, as in ``SEARCH.COST``.
        cfg: config of the search.
        space: space of the stage codes.
        detector: config of a detector of the space's family, into which stage codes are put.

    Raises:
        ValueError: there is no such cost, or the detector cannot be counted.
        NotMeasured: some latencies are missing.
    """
    if name not in COSTS:
        expected = ", ".join(map(repr, COSTS))
        raise ValueError(f"SEARCH.COST is {name!r}; expected one of {expected}")
    return COSTS[name](cfg, space, detector)


def _blocks(cfg: CfgNode, space: StageSpace, detector: CfgNode) -> Cost:
    return Cost("blocks", sum)


def _weighted(cfg: CfgNode, space: StageSpace, detector: CfgNode) -> Cost:
    return Cost("weighted blocks", lambda code: float(space.cost(code)))


def _gmacs(cfg: CfgNode, space: StageSpace, detector: CfgNode) -> Cost:
    count = _counted("gmacs", cfg, space, detector, lambda cost: cost.backbone_macs)
    return Cost(f"backbone GMACs{_at_size(cfg)}", lambda code: count(code) / 1e9)


def _detector_gmacs(cfg: CfgNode, space: StageSpace, detector: CfgNode) -> Cost:
    count = _counted("detector_gmacs", cfg, space, detector, lambda cost: cost.macs)
    return Cost(f"detector GMACs{_at_size(cfg)}", lambda code: count(code) / 1e9)


def _parameters(cfg: CfgNode, space: StageSpace, detector: CfgNode) -> Cost:
    count = _counted("parameters", cfg, space, detector, lambda cost: cost.parameters)
    return Cost("M parameters", lambda code: count(code) / 1e6)


def _latency(cfg: CfgNode, space: StageSpace, detector: CfgNode) -> Cost:
    return Cost("ms", Latencies.read(cfg, space))


def _at_size(cfg: CfgNode) -> str:
    height, width = cfg.SEARCH.COST_SIZE
    return f" at {height} x {width}"


# By name in SEARCH.COST
COSTS: Mapping[str, Callable[[CfgNode, StageSpace, CfgNode], Cost]] = MappingProxyType(
    {
        "blocks": _blocks,
        "weighted": _weighted,
        "gmacs": _gmacs,
        "detector_gmacs": _detector_gmacs,
        "parameters": _parameters,
        "latency": _latency,
    }
)
OF_CODES_ALONE = ("blocks", "weighted")  # costs that do not depend on the detector


def _counted(
    name: str,
    cfg: CfgNode,
    space: StageSpace,
    detector: CfgNode,
    amount: Callable[[DetectorCost], int],
) -> Callable[[Code], int]:
    """Count a quantity of the detector with each stage code, for an image of ``SEARCH.COST_SIZE``."""

    @functools.cache
    def count(code: Code) -> int:
        variant = plain_detector(detector)
        set_architecture(variant, Architecture(code))
        try:
            return amount(analyze_detector(variant, tuple(cfg.SEARCH.COST_SIZE)))
        except ValueError as error:
            raise ValueError(f"SEARCH.COST is {name!r}: {error}") from None

    is_ours = plain_detector(detector).MODEL.BACKBONE.NAME in BUILDERS
    return _sum_of_blocks(space, count) if is_ours else lambda code: count(tuple(code))


def _sum_of_blocks(space: StageSpace, count: Callable[[Code], int]) -> Callable[[Code], int]:
    """Speed up ``count`` for backbones in which all blocks of a stage but the first are alike.

    Two depths of each stage determine the counts of all codes in the space. Other codes are counted
    directly.
    """
    shortest = tuple(choices[0] for choices in space.choices)
    fixed = count(shortest)
    added = [0] * len(shortest)
    for index, choices in enumerate(space.choices):
        if len(choices) > 1:
            deeper = shortest[:index] + (shortest[index] + 1,) + shortest[index + 1 :]
            added[index] = count(deeper) - fixed

    def sum_up(code: Code) -> int:
        if code not in space:  # it may differ in a stage that has only one depth in the space
            return count(tuple(code))
        blocks = zip(code, shortest, added, strict=True)
        return fixed + sum((number - least) * amount for number, least, amount in blocks)

    return sum_up


def plain_detector(cfg: CfgNode) -> CfgNode:
    """Copy a detector's config, unfrozen, with a single network instead of a supernet."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.BACKBONE.NAME = without_supernet(cfg.MODEL.BACKBONE.NAME)
    return cfg
