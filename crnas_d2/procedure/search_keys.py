"""The keys of a search, with all automatic values resolved."""

from __future__ import annotations

from detectron2.config import CfgNode

from ..evaluation.metric import check_metric_name
from ..modeling.builder_names import neck_of, supernet_kind

WITHOUT_STATISTICS = {"", "FrozenBN", "GN", "LN"}  # norms without running statistics that change


def settled(cfg: CfgNode) -> CfgNode:
    """Copy a config with all automatic values of ``SEARCH`` resolved.

    Raises:
        ValueError: values of ``SEARCH`` contradict each other.
    """
    cfg = cfg.clone()
    cfg.defrost()
    search = cfg.SEARCH
    of_stages = supernet_kind(cfg.MODEL.BACKBONE.NAME) == "stage"
    norms = _norms(cfg)
    mixed = not norms.issubset(WITHOUT_STATISTICS)
    if search.BN.MODE == "auto":
        search.BN.MODE = "recalibrate" if of_stages and mixed else "running"
    if search.BN.MODE == "recalibrate" and not mixed:
        raise ValueError(
            "SEARCH.BN.MODE is 'recalibrate'; expected 'running', as the norms of the backbone "
            f"({', '.join(sorted(filter(None, norms))) or 'none'}) have no statistics of batches"
        )
    if search.BN.MODE == "recalibrate" and not of_stages and search.STRATEGY == "greedy":
        raise ValueError(
            "SEARCH.BN.MODE is 'recalibrate'; the greedy search evaluates another path on each "
            "mini-batch, so expected 'running'"
        )
    exactly = search.BUDGET_IS == "equal" and not search.TOLERANCE
    if of_stages and exactly and search.COST == "latency":
        raise ValueError(
            f"SEARCH.TOLERANCE is {search.TOLERANCE}; expected more, as SEARCH.COST is 'latency' and "
            "no two latencies are equal, or SEARCH.BUDGET_IS 'at_most'"
        )
    if search.AMP and cfg.MODEL.DEVICE == "cpu":
        raise ValueError("SEARCH.AMP is True; expected False, as there is no GPU")
    if search.IMAGES_PER_BATCH == 0:
        on_gpu = 8 if of_stages or search.STRATEGY != "greedy" else 4
        search.IMAGES_PER_BATCH = 1 if cfg.MODEL.DEVICE == "cpu" else on_gpu
    check_metric_name(cfg)
    if search.HALVING.ENABLED and (not of_stages or len(search.BUDGETS) > 1):
        raise ValueError(
            "SEARCH.HALVING.ENABLED is True; expected False, except in a stage search of one budget"
        )
    if len(cfg.DATASETS.TEST) != 1:
        raise ValueError(f"DATASETS.TEST is {cfg.DATASETS.TEST}; expected archval alone")
    cfg.freeze()
    return cfg


def _norms(cfg: CfgNode) -> set[str]:
    """Get the kinds of norm in a backbone and its neck."""
    neck = neck_of(cfg.MODEL.BACKBONE.NAME)
    norms = {cfg.MODEL.RESNETS.NORM}
    if neck == "nasfpn":
        norms.add(cfg.MODEL.NAS_FPN.NORM)
    elif neck:
        norms.add(cfg.MODEL.FPN.NORM)
    return norms
