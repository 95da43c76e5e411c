"""The short list: the best codes of a ranking are trained individually, and one of them goes on."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from detectron2.config import CfgNode
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm

from ..architecture import Code, format_code
from ..config import flatten_config, get_architecture, set_architecture
from ..engine import terminal
from ..engine.forecast import Work
from ..engine.step import DivergedError
from ..main_process import decided_by_main
from ..search.result import RESULT_FILE, read_ranking
from ..search.shortlist_result import RungResult, ShortlistResult
from ..search.shortlisting import Candidate, find_winner, mean_score, pick_candidates, promote
from ..search.training_ledger import TrainingLedger, TrainingRow
from .identity import Identity, product_sha256
from .outputs import LEDGER_FILE
from .shortlist_plan import Field, ShortlistPlan, shorten
from .standing import Standing
from .state import MODEL_FILE, StepState
from .step_run import run_in_folder, start_from, train
from .steps import Step
from .work import images_of, work_of_training

if TYPE_CHECKING:
    from .procedure import Procedure

OF_A_CANDIDATE = ("MODEL.CR.STAGE_CODE", "MODEL.CR.OPERATION_CODE")
FAILED = "failed"  # key of the reason in the results of a failed training

logger = logging.getLogger(__name__)


def run_shortlist(procedure: Procedure, step: Step) -> Mapping[str, Any]:
    """Train the candidates of a short list, and write which of them goes on.

    Finished trainings are not repeated, and an interrupted one resumes. Every rank has to call this
    function.

    Returns:
        The metric of the winner in its longest training, averaged over the seeds.

    Raises:
        AllFailedError: every candidate failed.
    """
    result = _Shortlist(procedure, step).run()
    if comm.is_main_process():
        result.write(procedure.path(step.name))
    logger.info(f"{step.name}:\n{result.table()}")
    return {result.metric: mean_score(result.scores[result.winner])} if result.rungs else {}


def identify_shortlist(procedure: Procedure, step: Step) -> Identity:
    """Get the identity of a short list.

    Its work is what all of its trainings have in common, and its verdict is what chooses among
    them. If only the verdict changes, the choice is repeated, but not the trainings that stay the
    same.
    """
    plan = ShortlistPlan.of_step(procedure, step)
    identity = procedure.identify(plan.cfg)
    work = {key: value for key, value in identity.work.items() if key not in OF_A_CANDIDATE}
    if plan.pretraining:
        before = procedure.identify(plan.pretraining).work
        work |= {
            f"SEARCH.RECIPE.FINAL_PRETRAINING: {key}": value
            for key, value in before.items()
            if key not in OF_A_CANDIDATE
        }
    search = plan.cfg.SEARCH
    verdict = {
        **identity.verdict,
        **flatten_config(procedure.recipe.cfg.SEARCH.RECIPE.SHORTLIST, "SEARCH.RECIPE.SHORTLIST."),
        "SEARCH.METRIC": search.METRIC,
        "SEARCH.SEED": str(search.SEED),
        "baseline": format_code(get_architecture(procedure.baseline(step.budget)).stage_code),
        "ranking": product_sha256(procedure.path(step.architecture, RESULT_FILE)) or "not there",
    }
    return Identity(work, verdict)


class _Shortlist:
    """One run of a short list."""

    def __init__(self, procedure: Procedure, step: Step):
        self._procedure, self._step = procedure, step
        self._plan = ShortlistPlan.of_step(procedure, step)
        self._field = Field.of_step(procedure, step)
        self._folder = procedure.path(step.name)
        self._ledger: TrainingLedger | None = None
        self._left = self._plan.work  # after the current training
        self._trained = 0
        self._pretrained: dict[Code, str] = {}  # files of the weights that candidates start from

    def run(self) -> ShortlistResult:
        plan, field = self._plan, self._field
        terminal.open_log(self._folder)
        if comm.is_main_process():
            self._ledger = TrainingLedger(os.path.join(self._folder, LEDGER_FILE))
        candidates = decided_by_main(self._pick)
        told = [f"{format_code(c.code)} ({c.origin})" for c in candidates]
        logger.info(f"{self._step.name}: {plan.size}: {', '.join(told)}")
        codes, rungs = [candidate.code for candidate in candidates], []
        pairs = itertools.zip_longest(plan.rungs, plan.rungs[1:])
        for number, (rung, after) in enumerate(pairs, start=1):
            result = self._run_rung(number, rung.share, codes)
            if after:
                codes = promote(result.scores, field.baseline, after.candidates)
                result = dataclasses.replace(result, went_on=codes)
                logger.info(f"Rung {number}: {', '.join(map(format_code, codes))} go on")
            rungs.append(result)
        winner = find_winner(rungs[-1].scores, field.baseline) if rungs else field.baseline
        search = plan.cfg.SEARCH
        return ShortlistResult(
            of=field.of,
            search=self._step.architecture,
            budget=self._step.budget,
            metric=search.METRIC,
            seeds=plan.seeds,
            candidates=candidates,
            rungs=rungs,
            winner=winner,
            architecture=field.architecture(winner),
        )

    def _pick(self) -> list[Candidate]:
        field, search = self._field, self._plan.cfg.SEARCH
        folder = self._procedure.path(self._step.architecture)
        ranking = read_ranking(folder, self._step.budget)
        arguments = (self._plan.codes, field.others, field.draw, search.SEED)
        return pick_candidates(ranking, field.baseline, *arguments)

    def _run_rung(self, number: int, share: float, codes: Sequence[Code]) -> RungResult:
        """Train candidates with each seed."""
        cfg, seeds = shorten(self._plan.cfg, share), self._plan.seeds
        scores = {code: [self._train(number, cfg, code, seed) for seed in seeds] for code in codes}
        return RungResult(share, cfg.SOLVER.MAX_ITER, images_of(cfg), scores)

    def _train(self, rung: int, cfg: CfgNode, code: Code, seed: int) -> float | None:
        """Train a candidate with one seed and get its score. None if it failed."""
        text, plan = format_code(code), self._plan
        self._trained += 1
        part = f"training {self._trained} of {plan.trainings}"
        cfg = self._of_candidate(cfg, code)
        if plan.pretraining:
            start_from(cfg, self._pretrain(code, part))
        iterations, images = cfg.SOLVER.MAX_ITER, images_of(cfg)
        cfg.SEED = seed
        # Folders are named by what makes a training distinct, so that it is found again in another
        # rung.
        schedule = f"iterations_{iterations}"
        if plan.pretraining:
            schedule += f"_after_{shorten(plan.pretraining, plan.share).SOLVER.MAX_ITER}"
        cfg.OUTPUT_DIR = os.path.join(self._folder, schedule, text, f"seed_{seed}")
        standing = self._run(cfg, plan.file, (), part, Work(plan.test_images, images))
        metrics = flatten(standing.results)
        reason = standing.results.get(FAILED, "")
        score = metrics.get(plan.cfg.SEARCH.METRIC)
        if not reason and score is None:
            reason = f"{plan.cfg.SEARCH.METRIC} is no number"
        if self._ledger:
            status = FAILED if reason else "done"
            numbers = (code, rung, seed, iterations, images, status, metrics, reason)
            self._ledger.record(TrainingRow(*numbers, standing.seconds))
        told = f"failed: {reason}" if reason else f"{plan.cfg.SEARCH.METRIC} {score:.2f}"
        logger.info(f"Rung {rung} of {len(plan.rungs)}, {text}, seed {seed}: {told}")
        return score

    def _pretrain(self, code: Code, part: str) -> str:
        """Get the file of the weights from which all trainings of a candidate start."""
        plan = self._plan
        if code not in self._pretrained:
            cfg = self._of_candidate(shorten(plan.pretraining, plan.share), code)
            schedule = f"pretraining_{cfg.SOLVER.MAX_ITER}"
            cfg.OUTPUT_DIR = os.path.join(self._folder, schedule, format_code(code))
            pixels = work_of_training(cfg).pixels / self._left.pixels
            work = Work(backward=images_of(cfg) * pixels)
            self._run(cfg, plan.pretraining_file, (MODEL_FILE,), f"{part}, pre-training", work)
            self._pretrained[code] = os.path.join(cfg.OUTPUT_DIR, MODEL_FILE)
        return self._pretrained[code]

    def _of_candidate(self, cfg: CfgNode, code: Code) -> CfgNode:
        cfg = cfg.clone()
        cfg.defrost()
        set_architecture(cfg, self._field.architecture(code))
        return cfg

    def _run(
        self, cfg: CfgNode, file: str, products: Sequence[str], part: str, work: Work
    ) -> Standing:
        """Run a training unless it is finished, and keep only the products of its weights.

        The terminal shows it as a part of the step.
        """
        folder = cfg.OUTPUT_DIR
        left = self._left
        left = Work(left.forward - work.forward, left.backward - work.backward, left.pixels)
        self._left = left

        def look() -> Standing:
            state = StepState.read(folder)
            identity = self._procedure.identify(cfg)
            return Standing.of(folder, state, identity) if state else Standing()

        standing = decided_by_main(look)
        standing.refuse_changes()
        if not standing.done:
            terminal.begin_part(part, left)
            run_in_folder(
                folder,
                lambda: self._procedure.identify(cfg),
                products,
                lambda: _train_or_fail(cfg.clone(), file, products),
            )
            terminal.open_log(self._folder)
            standing = decided_by_main(look)
        if comm.is_main_process():
            _remove_weights(folder, products)
        return standing


def _train_or_fail(cfg: CfgNode, file: str, products: Sequence[str]) -> Mapping[str, Any]:
    """Train and return the test results, or the reason for a divergence, which makes the code lose."""
    try:
        return train(cfg, file)
    except FloatingPointError as error:
        # With several processes, an error that only one of them knows would let that one go on
        # alone.
        told = comm.get_world_size() == 1 or isinstance(error, DivergedError)
        if not told or products:
            raise
        return {FAILED: str(error)}


def flatten(results: Mapping[str, Any]) -> dict[str, float | None]:
    """Flatten results to names such as "bbox/AP"."""
    return {
        key: value for key, value in flatten_results_dict(dict(results)).items() if key != FAILED
    }


def _remove_weights(folder: str, products: Sequence[str]) -> None:
    """Remove the checkpoints of a finished training except its products.

    Predictions of its test that are stored twice are removed as well.
    """
    predictions = os.path.join("inference", "instances_predictions.pth")
    names = [name for name in os.listdir(folder) if name.endswith(".pth")]
    for name in {*names, "last_checkpoint", predictions} - {*products}:
        with contextlib.suppress(FileNotFoundError):
            os.remove(os.path.join(folder, name))
