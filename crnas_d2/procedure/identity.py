"""By what a step of a procedure is known again."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping

from detectron2.config import CfgNode

from ..config import default_config, flatten_config, list_differences
from ..files import file_sha256, is_remote, read_json

# Keys that change where and how a step runs, and not what comes out
FREE_KEYS = (
    "OUTPUT_DIR",
    "MODEL.WEIGHTS",
    "MODEL.DEVICE",
    "DATALOADER.NUM_WORKERS",
    "DATASETS.CACHE_DIR",
    "DATASETS.CHECK_PICTURES",
    "DATASETS.NEAR_COPIES",
    "SOLVER.CHECKPOINT_PERIOD",
    "SOLVER.CHECKPOINTS_TO_KEEP",
)


def identify(cfg: CfgNode, *, searches: bool) -> dict[str, str]:
    """All that a step's product depends on: its config, and the content of the weights it names.

    Args:
        cfg: of the step. Its weights are there.
        searches: whether the keys of SEARCH count.
    """
    ignored = (*FREE_KEYS, "SEARCH.RECIPE.") if searches else (*FREE_KEYS, "SEARCH.")
    keys = flatten_config(cfg)
    identity = {key: value for key, value in keys.items() if not key.startswith(ignored)}
    weights = cfg.MODEL.WEIGHTS
    if is_remote(weights):
        identity["weights"] = weights
    elif weights:
        identity["weights"] = _sha256(weights, os.stat(weights).st_mtime_ns)
    return identity


def refuse_changes(path: str, identity: Mapping[str, str]) -> None:
    """
    Args:
        path: of a file with the identity of the step as it was begun; it need not be there.
        identity: of the step now.

    Raises:
        ValueError: they differ. The message lists where.
    """
    if not os.path.isfile(path):
        return
    # A key that an earlier version did not have stood at its default.
    defaults = {k: v for k, v in flatten_config(default_config()).items() if k in identity}
    differences = list_differences(defaults | read_json(path), identity)
    if differences:
        raise ValueError(
            "\n  ".join([f"{os.path.dirname(path)} was begun with another config:", *differences])
            + "\nGo on with the config there, choose another OUTPUT_DIR, or move that folder and "
            "those of the later steps away."
        )


@functools.lru_cache
def _sha256(path: str, modified: int) -> str:
    return file_sha256(path)
