"""BN instead of SyncBN, where there is nothing to synchronize."""

from __future__ import annotations

import logging

from detectron2.config import CfgNode
from detectron2.utils import comm

logger = logging.getLogger(__name__)


def without_needless_sync_bn(cfg: CfgNode) -> CfgNode:
    """Replace "SyncBN" by "BN" for a training in one process, or in several without GPUs.

    Returns:
        The config itself if nothing changes, otherwise a changed copy.
    """
    if cfg.MODEL.DEVICE == "cpu":
        return without_sync_bn(cfg, "torch synchronizes BN on GPUs only")
    if comm.get_world_size() == 1:
        return without_sync_bn(cfg, "there is one process")
    return cfg


def without_sync_bn(cfg: CfgNode, reason: str) -> CfgNode:
    """Copy a config with "BN" instead of "SyncBN". The log names the keys and the reason."""
    cfg = cfg.clone()
    cfg.defrost()
    changed = []
    for name, node in cfg.MODEL.items():
        if isinstance(node, CfgNode) and node.get("NORM") == "SyncBN":
            node.NORM = "BN"
            changed.append(f"MODEL.{name}.NORM")
    if changed:
        logger.info(f"BN instead of SyncBN in {', '.join(changed)}: {reason}")
    return cfg
