"""What an architecture costs: what the constraint of equation (1) limits."""

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
    """The cost of a stage code, which it is called with.

    Attributes:
        unit: of the numbers, such as "M parameters".
        measure: gives the number for a stage code.
    """

    unit: str
    measure: Callable[[Code], float]

    def __call__(self, code: Code) -> float:
        return self.measure(code)


def get_cost(name: str, cfg: CfgNode, space: StageSpace, detector: CfgNode) -> Cost:
    """A cost by its name.

    Args:
        name: as in ``SEARCH.COST``.
        cfg: of the search.
        space: of the stage codes.
        detector: config of a detector of the space's family, which a stage code is put into.

    Raises:
        ValueError: there is no such cost, or the detector cannot be counted.
        NotMeasured: latencies are not all there.
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


# By SEARCH.COST
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
OF_CODES_ALONE = ("blocks", "weighted")  # the costs that do not depend on the detector


def _counted(
    name: str,
    cfg: CfgNode,
    space: StageSpace,
    detector: CfgNode,
    amount: Callable[[DetectorCost], int],
) -> Callable[[Code], int]:
    """An amount of the detector of each stage code, for an image of ``SEARCH.COST_SIZE``."""

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
    """As ``count``, for backbones of which all blocks of a stage but the first are alike: two depths
    of each stage tell those of all codes of the space; others are counted."""
    shortest = tuple(choices[0] for choices in space.choices)
    fixed = count(shortest)
    added = [0] * len(shortest)
    for index, choices in enumerate(space.choices):
        if len(choices) > 1:
            deeper = shortest[:index] + (shortest[index] + 1,) + shortest[index + 1 :]
            added[index] = count(deeper) - fixed

    def sum_up(code: Code) -> int:
        if code not in space:  # whose stages may have other depths where the space has but one
            return count(tuple(code))
        blocks = zip(code, shortest, added, strict=True)
        return fixed + sum((number - least) * amount for number, least, amount in blocks)

    return sum_up


def plain_detector(cfg: CfgNode) -> CfgNode:
    """A copy of a detector's config, not frozen, with the network of its codes as the backbone, in
    place of a supernet."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.BACKBONE.NAME = without_supernet(cfg.MODEL.BACKBONE.NAME)
    return cfg
