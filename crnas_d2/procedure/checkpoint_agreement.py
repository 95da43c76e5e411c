"""How well the last checkpoints of a supernet agree in ranking the codes of its short list."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from detectron2.config import CfgNode
from detectron2.utils import comm

from ..architecture import Code, format_code
from ..checkpoint.checkpointer import FINAL, PERIODIC
from ..checkpoint.trained import load_trained
from ..engine import CRTrainer, terminal
from ..engine.setup import prepare
from ..engine.sync_bn import without_sync_bn
from ..evaluation.evaluator import ArchitectureEvaluator
from ..evaluation.rank_agreement import pairwise_taus
from ..files import file_sha256, read_json, write_json
from ..lock import folder_lock
from ..main_process import decided_by_main
from ..search.ledger import Ledger
from ..search.progress import Progress
from ..search.shortlist_result import ShortlistResult
from ..search.study import Study
from .identity import evaluation_settings
from .outputs import LEDGER_FILE
from .search_extent import get_space
from .search_keys import settled
from .steps import Step

if TYPE_CHECKING:
    from .procedure import Procedure

FOLDER = "checkpoints"
FILE = "checkpoints.json"


def compare_checkpoints(procedure: Procedure, step: Step) -> None:
    """Evaluate the codes of a short list with each checkpoint of the supernet that was kept.

    :data:`FILE` is written into the folder of the short list, unless there are fewer than two
    checkpoints (see ``SOLVER.CHECKPOINTS_TO_KEEP``) or codes. Evaluations are kept in one ledger
    for each checkpoint, so that an interrupted comparison resumes. Every rank has to call this
    function.

    Args:
        procedure: the procedure.
        step: the short list, which has finished.
    """
    folder = procedure.path(step.name)
    search = next(it for it in procedure.steps if it.name == step.architecture)
    cfg, space = procedure.config(search), get_space(procedure.config(search))
    files = decided_by_main(lambda: kept_checkpoints(cfg))
    result = decided_by_main(lambda: ShortlistResult.read(folder))
    codes = sorted(candidate.code for candidate in result.candidates if candidate.code in space)
    if min(len(files), len(codes)) < 2:
        return
    tables = {}
    for file in files:
        name = os.path.splitext(os.path.basename(file))[0]
        cfg = procedure.config(search)
        cfg.MODEL.WEIGHTS, cfg.OUTPUT_DIR = file, os.path.join(folder, FOLDER, name)
        cfg.SEARCH.HALVING.ENABLED = False
        args = argparse.Namespace(resume=False, eval_only=True, config_file=search.config)
        tables[name] = dict(zip(codes, _score(prepare(cfg, args), codes)))
    terminal.open_log(folder)
    if comm.is_main_process():
        scored = {
            name: {code: score for code, score in table.items() if score is not None}
            for name, table in tables.items()
        }
        taus = [[*pair, tau] for pair, tau in pairwise_taus(scored).items()]
        scores = {n: {format_code(c): s for c, s in t.items()} for n, t in tables.items()}
        write_json(os.path.join(folder, FILE), {"taus": taus, "scores": scores})


def read_taus(folder: str) -> list[list[Any]]:
    """Read the comparison of checkpoints from the folder of a short list.

    Returns:
        A list of [checkpoint, checkpoint, Kendall's tau] for each pair. Empty if they were not
        compared.
    """
    path = os.path.join(folder, FILE)
    return read_json(path)["taus"] if os.path.isfile(path) else []


def kept_checkpoints(cfg: CfgNode) -> list[str]:
    """List the files of a supernet's checkpoints, from the oldest to the final one.

    The periodic checkpoint of the last iteration is left out, as it equals the final one.

    Args:
        cfg: config of the search over the supernet.
    """
    folder, last = os.path.dirname(cfg.MODEL.WEIGHTS), f"model_{cfg.SOLVER.MAX_ITER - 1:07d}.pth"
    names = sorted(name for name in filter(PERIODIC.fullmatch, os.listdir(folder)) if name != last)
    return [os.path.join(folder, name) for name in (*names, f"{FINAL}.pth")]


def _score(cfg: CfgNode, codes: Sequence[Code]) -> list[float | None]:
    """Get the metric of codes on archval, with the weights of one checkpoint."""
    cfg = settled(cfg)
    model = CRTrainer.build_model(without_sync_bn(cfg, "an evaluation needs no other"))
    load_trained(model, cfg, cfg.MODEL.WEIGHTS, part=model)
    evaluator = ArchitectureEvaluator(cfg, model)
    with contextlib.ExitStack() as stack:
        ledger = None
        if comm.is_main_process():
            stack.enter_context(folder_lock(cfg.OUTPUT_DIR))
            settings = evaluation_settings(cfg, file_sha256(cfg.MODEL.WEIGHTS))
            path = os.path.join(cfg.OUTPUT_DIR, LEDGER_FILE)
            ledger = stack.enter_context(Ledger(path, settings))
        progress = Progress(cfg.OUTPUT_DIR, cfg.SEARCH.METRIC, len(codes), evaluator.image_passes)
        return Study(cfg, evaluator, ledger, stack.enter_context(progress))(codes)
