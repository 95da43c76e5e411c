"""By what a step of a procedure, and the ledger of a search, are known again."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from detectron2.config import CfgNode

from ..config import default_config, flatten_config, list_differences
from ..config_effects import Effect, forget_trainings, with_effect
from ..data.identity import Seen, identify_data
from ..files import file_sha256, is_remote
from ..search.cost import OF_CODES_ALONE
from ..search.latencies import latency_file

PROCESSES = "processes"
# What a search depends on, less what its weights and its data say
OF_A_SEARCH = ("MODEL.", "INPUT.", "TEST.", "SEARCH.")
SAID_OTHERWISE = ("MODEL.INIT.", "MODEL.CLASS_NAMES")


@dataclass(frozen=True)
class Identity:
    """All that the product of a step depends on, as texts.

    Attributes:
        work: what its files belong to: the checkpoints of a training, the ledger of a search. With
            another one the step cannot go on.
        verdict: what its end depends on beside: the tests of a training, the choice of a search.
            With another one the step ends again, from the same files.
    """

    work: Mapping[str, str]
    verdict: Mapping[str, str]

    def list_changes(self, there: Identity) -> tuple[list[str], list[str]]:
        """Where the work and the verdict are not those of an earlier identity. A key that is new
        since then stood at its default there."""
        defaults = flatten_config(default_config())
        pairs = ((there.work, self.work), (there.verdict, self.verdict))
        return tuple(
            list_differences(
                {k: v for k, v in defaults.items() if k in now} | forget_trainings(before, now), now
            )
            for before, now in pairs
        )


def identify(
    cfg: CfgNode,
    seen: Seen,
    *,
    searches: bool,
    final_cfg: CfgNode | None = None,
    processes: int = 1,
) -> Identity:
    """The identity of a step.

    Args:
        cfg: of the step. Its weights are there; its own data sets are registered here.
        seen: see :func:`~crnas_d2.data.identity.identify_data`.
        searches: or else it trains.
        final_cfg: of the detector that a search is for.
        processes: that share the work. A training depends on it, a search does not.
    """
    cfg = cfg.clone()
    flat = flatten_config(cfg)
    weights = _weights(cfg.MODEL.WEIGHTS)
    if not searches:
        flat = {key: value for key, value in flat.items() if not key.startswith("SEARCH.")}
        work = with_effect(flat, Effect.WEIGHTS, Effect.TRAINING)
        work |= weights | identify_data(cfg, cfg.DATASETS.TRAIN, seen)
        verdict = with_effect(flat, Effect.SCORES)
        verdict |= identify_data(cfg, cfg.DATASETS.TEST, seen)
        return Identity({**work, PROCESSES: str(processes)}, verdict)
    work = _settings(cfg, flat) | weights | _data_of_search(cfg, seen)
    verdict = {k: v for k, v in with_effect(flat, Effect.CHOICE).items() if k not in work}
    if final_cfg:
        final_cfg = final_cfg.clone()
        if cfg.SEARCH.COST not in OF_CODES_ALONE:
            network = flatten_config(final_cfg.MODEL, "SEARCH.FINAL: MODEL.")
            verdict |= {k: v for k, v in network.items() if not k.endswith("MODEL.WEIGHTS")}
        verdict |= identify_data(final_cfg, final_cfg.DATASETS.TEST, seen)
    if cfg.SEARCH.COST == "latency":
        verdict["latencies"] = product_sha256(latency_file(cfg)) or "not there"
    return Identity(work, verdict)


def evaluation_settings(cfg: CfgNode, weights_sha256: str) -> dict[str, str]:
    """All that the results of an architecture depend on, by key; what the ledger is opened with.

    Args:
        cfg: of a search, settled; its data sets are registered.
        weights_sha256: of the supernet.
    """
    settings = _settings(cfg, flatten_config(cfg)) | {"weights": weights_sha256}
    return settings | _data_of_search(cfg.clone(), {})


def _settings(cfg: CfgNode, flat: Mapping[str, str]) -> dict[str, str]:
    return {
        key: value
        for key, value in with_effect(flat, Effect.WEIGHTS, Effect.SCORES).items()
        if key.startswith(OF_A_SEARCH) and not key.startswith(SAID_OTHERWISE)
    }


def _data_of_search(cfg: CfgNode, seen: Seen) -> dict[str, str]:
    names = list(cfg.DATASETS.TEST)
    if cfg.SEARCH.BN.MODE != "running":
        names += cfg.DATASETS.TRAIN
    return identify_data(cfg, names, seen)


def _weights(path: str) -> dict[str, str]:
    if not path:
        return {}
    return {"weights": path if is_remote(path) else product_sha256(path) or "not there"}


def product_sha256(path: str) -> str | None:
    """SHA-256 of a file that a step has left; None where it is not there."""
    return file_sha256(path) if os.path.isfile(path) else None
