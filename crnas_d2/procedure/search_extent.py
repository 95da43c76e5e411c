"""What a search over one supernet evaluates: its space, its limits, and how many architectures."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from detectron2.config import CfgNode

from ..architecture import Code
from ..config import get_architecture
from ..modeling.builder_names import supernet_kind
from ..search.latencies import NotMeasured
from ..search.limits import Limits
from ..search.operation_search import greedy_evaluations
from ..spaces import OperationSpace, PathSpace, StageSpace, get_operation_space, get_stage_space


def get_space(cfg: CfgNode) -> StageSpace | OperationSpace:
    """Get the space of the supernet that a config describes."""
    architecture, supernet = get_architecture(cfg), cfg.MODEL.SUPERNET
    if supernet_kind(cfg.MODEL.BACKBONE.NAME) == "stage":
        return get_stage_space(architecture.family, supernet.STAGE_CHOICES, supernet.STAGE_WEIGHTS)
    return get_operation_space(architecture, supernet.OPERATIONS)


def get_limits(cfg: CfgNode, final_cfg: CfgNode | None, space: PathSpace) -> Limits | None:
    """Get the budgets and the cost of a stage search. None for operation codes, which have neither."""
    if not isinstance(space, StageSpace):
        return None
    return Limits.of(cfg, space, final_cfg)


def count_evaluations(cfg: CfgNode, space: PathSpace, limits: Limits | None) -> int:
    search = cfg.SEARCH
    if limits:
        return len(limits.codes)
    if search.STRATEGY != "greedy" and search.EVALUATIONS:
        return min(search.EVALUATIONS, space.size)
    return greedy_evaluations(space, search.SURVIVORS)


def planned_evaluations(cfg: CfgNode, final_cfg: CfgNode | None = None) -> int | None:
    """Count the architectures that a search will evaluate. None until latencies are known.

    Args:
        cfg, final_cfg: as in :func:`~.supernet_search.run_search`.
    """
    space = get_space(cfg)
    try:
        return count_evaluations(cfg, space, get_limits(cfg, final_cfg, space))
    except NotMeasured:
        return None


def describe_limits(cfg: CfgNode, final_cfg: CfgNode | None = None) -> str:
    """Describe how many stage codes fit each budget, or what has to be measured first.

    It is empty for operation codes.

    Args:
        cfg, final_cfg: as in :func:`~.supernet_search.run_search`.
    """
    try:
        limits = get_limits(cfg, final_cfg, get_space(cfg))
    except NotMeasured as missing:
        return f"Measured when the search begins: {missing}"
    return limits.describe() if limits else ""


def eligible_by_budget(cfg: CfgNode, final_cfg: CfgNode | None = None) -> dict[str, Sequence[Code]]:
    """List the stage codes under each budget, by the budget's name in the result.

    It is empty for operation codes.

    Args:
        cfg, final_cfg: as in :func:`~.supernet_search.run_search`.

    Raises:
        NotMeasured: latencies that determine them are not measured yet.
    """
    limits = get_limits(cfg, final_cfg, get_space(cfg))
    return {str(budget): codes for budget, codes in limits.eligible.items()} if limits else {}


def example_codes(cfg: CfgNode, final_cfg: CfgNode | None, count: int) -> list[Code]:
    """Get some of the paths that a search may evaluate: neighbors, as in a group, or random ones.

    Args:
        cfg, final_cfg: as in :func:`~.supernet_search.run_search`.
        count: maximum number of paths.
    """
    space = get_space(cfg)
    limits = get_limits(cfg, final_cfg, space)
    if not limits:
        return list(dict.fromkeys(space.sample(Random(index)) for index in range(count)))
    codes = limits.codes
    middle = max(0, len(codes) - count) // 2
    return codes[middle : middle + count]
