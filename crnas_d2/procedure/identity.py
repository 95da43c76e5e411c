"""What uniquely identifies a step of a procedure, and the ledger of a search."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from detectron2.config import CfgNode

from ..config import default_config, flatten_config, list_differences
from ..config_effects import Effect, forget_trainings, with_effect
from ..data.identity import Seen, identify_data
from ..files import file_sha256
from ..paths import is_remote
from ..search.cost import OF_CODES_ALONE
from ..search.latencies import latency_file

PROCESSES = "processes"
# Keys that a search depends on, except those that its weights and its data imply
OF_A_SEARCH = ("MODEL.", "INPUT.", "TEST.", "SEARCH.")
SAID_OTHERWISE = ("MODEL.INIT.", "MODEL.CLASS_NAMES")


@dataclass(frozen=True)
class Identity:
    """Everything that the product of a step depends on, as strings.

    Attributes:
        work: identifies the files of the step: the checkpoints of a training, the ledger of a
            search. If it changes, the step cannot resume.
        verdict: identifies the end of the step: the tests of a training, the choice of a search. If
            only this changes, the end is repeated from the same files.
    """

    work: Mapping[str, str]
    verdict: Mapping[str, str]

    def list_changes(self, there: Identity) -> tuple[list[str], list[str]]:
        """List the differences of work and of verdict from an earlier identity.

        A key that did not exist then is taken to have been at its default.
        """
        defaults = flatten_config(default_config())
        pairs = ((there.work, self.work), (there.verdict, self.verdict))
        work, verdict = (
            list_differences(
                {k: v for k, v in defaults.items() if k in now} | forget_trainings(before, now), now
            )
            for before, now in pairs
        )
        return work, verdict


def identify(
    cfg: CfgNode,
    seen: Seen,
    *,
    searches: bool,
    final_cfg: CfgNode | None = None,
    processes: int = 1,
) -> Identity:
    """Get the identity of a step.

    Args:
        cfg: config of the step. Its weights have to exist. Its custom datasets are registered
            here.
        seen: see :func:`~crnas_d2.data.identity.identify_data`.
        searches: whether the step searches. Otherwise it trains.
        final_cfg: config of the detector that a search is for.
        processes: number of processes that share the work. A training depends on it, a search does
            not.
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
    """Get everything that an architecture's result depends on, for opening the ledger.

    Args:
        cfg: settled config of a search, whose datasets are registered.
        weights_sha256: SHA-256 of the supernet's weights.
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
    """Compute the SHA-256 of a product of a step. None if the file does not exist."""
    return file_sha256(path) if os.path.isfile(path) else None
