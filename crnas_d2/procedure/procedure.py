"""The hierarchical search procedure of section 3.3, from a recipe to a trained detector."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import itertools
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from detectron2.config import CfgNode
from detectron2.utils import comm

from ..architecture import Architecture
from ..config import get_architecture, set_architecture
from ..data.copies import copies_between_parts, tell_copies
from ..data.identity import Seen
from ..data.parts import tell
from ..engine import terminal
from ..engine.config_check import check_network, settle_settings
from ..engine.setup import prepare
from ..lock import folder_lock
from ..main_process import decided_by_main
from ..search.baseline import scaled_code
from ..search.cost import plain_detector
from ..search.latencies import NotMeasured
from ..search.result import ARCHITECTURE_FILE, RESULT_FILE, read_architectures
from .checkpoint_agreement import compare_checkpoints
from .checks import check_before_run, check_space
from .identity import Identity, identify
from .judgement import judge
from .latency import is_cost, measure_if_cost
from .outcome import Outcome
from .outputs import report_if_possible
from .overview import overview, split_tables
from .products import describe_end, write_products
from .recipe import Recipe, folder_of
from .roles import check_roles
from .search_extent import eligible_by_budget, get_space
from .shortlist import identify_shortlist, run_shortlist
from .shortlist_plan import put_on_archtrain, search_of
from .standing import Standing
from .state import MODEL_FILE, StepState
from .step_run import run_in_folder, start_from, train
from .steps import Kind, Step, describe_start, plan
from .supernet_search import run_search

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Procedure:
    """Runs the steps of a recipe one after the other, each in a folder of ``OUTPUT_DIR``.

    A finished step is not run again, an interrupted one resumes, and one that was begun with other
    settings is refused. The main process decides which case applies.

    Attributes:
        recipe: the recipe.
        steps: the steps of the recipe, in order.
        output: ``OUTPUT_DIR``.
        start: the result of :func:`describe_start`.
    """

    def __init__(self, recipe: Recipe, processes: int | None = None):
        """
        Args:
            recipe: the recipe.
            processes: number of processes that share the work. By default those of this job.

        Raises:
            ValueError, FileNotFoundError: the config of a step has a fault. Nothing has been done
                then.
        """
        self.recipe = recipe
        self.steps = plan(recipe)
        check_roles(recipe)
        self.start = describe_start(recipe, self.steps)
        self.output = recipe.cfg.OUTPUT_DIR
        self._processes = processes or comm.get_world_size()
        self._standings: dict[str, Standing] = {}
        self._seen: Seen = {}
        self._outcomes: dict[str, Outcome] = {}

    def run(self, report: Callable[[Sequence[str]], object] = lambda changed: None) -> str:
        """Run all steps that are not finished.

        Args:
            report: called on the main process with a list of budgets, after each step that has run
                and after the last step of a budget.

        Returns:
            The table of the detectors that were trained, or the architecture that was found.

        Raises:
            ValueError, FileNotFoundError: a config or a file on disk has a fault.
        """
        self._standings = decided_by_main(self.look)
        check_before_run(self)
        lock = folder_lock(self.output) if comm.is_main_process() else None
        with lock or contextlib.nullcontext():
            self._run_all(report)
        return decided_by_main(lambda: describe_end(self))

    def _run_all(self, report: Callable[[Sequence[str]], object]) -> None:
        for line in self.start:
            logger.info(line)
        if comm.is_main_process():
            for table in split_tables(self, makes=True):
                tell(table)
            comparisons = itertools.chain(*self.look_at_searches(copies_between_parts))
            tell_copies(tuple(comparisons), self.output)
        self._measure_latencies()
        overviews = overview(self)
        last = {step.name for budget in self.recipe.budgets for step in self.steps_of(budget)[-1:]}
        for number, step in enumerate(self.steps, start=1):
            title = f"Step {number} of {len(self.steps)}, {step.name}"
            standing = self._standings[step.name]
            if not standing.done:  # its inputs exist by now
                standing = self._standings[step.name] = decided_by_main(lambda: self._look_at(step))
            if standing.done:
                told = (
                    f"is the same network as {standing.folder}"
                    if standing.folder
                    else "done already"
                )
                logger.info(f"{title}: {told}")
            else:
                logger.info(f"{title}: {standing.why or 'begins'}")
                began = time.perf_counter()
                later = [
                    of_later.work
                    for after, of_later in zip(self.steps[number:], overviews[number:])
                    if not (of_later.done or self._twin_stands_for(after))
                ]
                pixels = overviews[number - 1].work.pixels
                with terminal.step(step.name, number, len(overviews), pixels, later):
                    standing.refuse_changes()
                    self._run(step)
                logger.info(f"{title}: took {time.perf_counter() - began:.0f} s")
            if comm.is_main_process() and (not standing.done or step.name in last):
                changed = [step.budget] if step.budget else self.recipe.budgets
                for budget in changed:
                    write_products(self, budget)
                with report_if_possible():
                    report(changed)

    def _measure_latencies(self) -> None:
        """Measure latencies that are the cost of a search, before the first step.

        If no code fits a budget, nothing has been trained in vain.
        """
        final = self.final_config()
        for step in self.searches:
            cfg = self.config(step)
            check_network(cfg, training=False, has_weights=False)
            space = get_space(cfg)
            if is_cost(space, cfg) and not self._standings[step.name].done:
                measure_if_cost(cfg, final, space)
                check_space(cfg, final)

    def look_at_searches(self, look: Callable[[CfgNode, CfgNode | None], T]) -> list[T]:
        """Apply a function to the configs of each search and of the final detector.

        Returns:
            The distinct results in order.
        """
        final = self.final_config()
        seen = [look(self.config(step), final) for step in self.searches]
        return [it for index, it in enumerate(seen) if it not in seen[:index]]

    def _run(self, step: Step) -> None:
        run = {Kind.TRAINING: self._train, Kind.SEARCH: self._search}
        run[Kind.SHORTLIST] = self._shorten
        products = (RESULT_FILE, ARCHITECTURE_FILE) if step.finds else (MODEL_FILE,)
        identify = functools.partial(self._identify, step)
        run_in_folder(self.path(step.name), identify, products, lambda: run[step.kind](step))
        self._standings[step.name] = decided_by_main(lambda: self._look_at(step))

    def _train(self, step: Step) -> Mapping[str, Any]:
        return train(self.config(step), step.config)

    def _search(self, step: Step) -> Mapping[str, Any]:
        args = argparse.Namespace(resume=False, eval_only=True, config_file=step.config)
        cfg, seed = prepare(self.config(step), args), self.recipe.seed
        result = run_search(cfg, self.final_config(), seed.identity if seed else None)
        return {result.metric: result.ranking.scored[0].score}

    def _shorten(self, step: Step) -> Mapping[str, Any]:
        results = run_shortlist(self, step)
        compare_checkpoints(self, step)
        return results

    def config(self, step: Step) -> CfgNode:
        """Get the config of a step, with the results of earlier steps as far as they exist."""
        cfg = self.recipe.config(step.config)
        cfg.OUTPUT_DIR = os.path.join(self.output, step.name)
        cfg.MODEL.SUPERNET.TEST_PATHS = []  # only the search evaluates
        before = self._standings.get(step.weights, Standing())
        if step.weights:
            start_from(cfg, self.path(before.folder or step.weights, MODEL_FILE))
        elif self.recipe.seed:
            self.recipe.seed.put_into(cfg)
        architecture = self._architecture_of(step)
        if architecture:
            set_architecture(cfg, architecture)
        if step.kind is Kind.TRAINING and step.config == self.recipe.names["FINAL"]:
            # both trainings of a pair get the same seed, even if none is set
            cfg.SEED = max(cfg.SEED, 0) + step.seed
        if step.kind is Kind.SHORTLIST:
            put_on_archtrain(cfg, self.config(search_of(self, step)))
        is_there = before.trained if step.weights else os.path.isfile(cfg.MODEL.WEIGHTS)
        if cfg.MODEL.INIT.SETTINGS == "take" and is_there:
            settle_settings(cfg)
        return cfg

    def _architecture_of(self, step: Step) -> Architecture | None:
        """Get a step's architecture from an earlier step, or its budget's baseline.

        The baseline also stands for what the earlier step has not found yet. It is None if the step
        uses the architecture of its config.
        """
        found = self._standings.get(step.architecture, Standing()).found(step.budget)
        return found or (self._baseline_under(step.budget) if step.budget else None)

    def _baseline_under(self, budget: str) -> Architecture | None:
        """Get the baseline under one of several budgets. None until needed latencies are known."""
        try:
            return self._scaled[budget]
        except NotMeasured:
            return None

    @functools.cached_property
    def _scaled(self) -> dict[str, Architecture]:
        """The baseline under each of several budgets, or another stage code if it does not fit."""
        cfg, final = self.config(self.searches[0]), self.final_config()
        baseline = get_architecture(final or cfg)
        eligible = eligible_by_budget(cfg, final)
        codes = {name: scaled_code(baseline.stage_code, fit) for name, fit in eligible.items()}
        return {
            name: baseline if code == baseline.stage_code else Architecture(code)
            for name, code in codes.items()
        }

    def final_config(self) -> CfgNode | None:
        """Get the unchanged config of the detector to improve. None if the recipe has none."""
        name = self.recipe.names["FINAL"]
        return self.recipe.config(name) if name else None

    def baseline(self, budget: str = "") -> CfgNode:
        """Get the config of the network with which the result under a budget is compared."""
        cfg = self.final_config() or plain_detector(self.config(self.searches[0]))
        if budget and self._scaled[budget] != get_architecture(cfg):
            set_architecture(cfg, self._scaled[budget])
        return cfg

    def look(self) -> dict[str, Standing]:
        """Get the standing of each step by its name, as the main process has read it.

        The standing of a step whose weights or architecture do not exist yet is empty.
        """
        for step in self.steps:
            if step.name not in self._standings:
                trained = not step.weights or self._standings[step.weights].trained
                found = not step.architecture or self._standings[step.architecture].done
                known = not step.budget or self._baseline_under(step.budget)
                looks = trained and found and known
                self._standings[step.name] = self._look_at(step) if looks else Standing()
        return self._standings

    def _look_at(self, step: Step) -> Standing:
        """Read the standing of a step whose inputs exist."""
        if self._twin_stands_for(step):
            return dataclasses.replace(self._standings[step.twin], folder=step.twin)
        folder = self.path(step.name)
        state = StepState.read(folder)
        standing = Standing.of(folder, state, self._identify(step)) if state else Standing()
        if standing.done and step.finds:
            standing = dataclasses.replace(standing, architectures=read_architectures(folder))
        return standing

    def _twin_stands_for(self, step: Step) -> bool:
        """Whether a training of what was found is known to be one of the baseline."""
        if not step.twin or not self._standings[step.architecture].done:
            return False
        return self._architecture_of(step) == get_architecture(self.baseline(step.budget))

    def _identify(self, step: Step) -> Identity:
        if step.kind is Kind.SHORTLIST:
            return identify_shortlist(self, step)
        if not step.searches:
            return self.identify(self.config(step))
        final = self.final_config()
        return identify(self.config(step), self._seen, searches=True, final_cfg=final)

    def identify(self, cfg: CfgNode) -> Identity:
        """Get the identity of a training, on the main process only."""
        return identify(cfg, self._seen, searches=False, processes=self._processes)

    def found(self, budget: str = "") -> Architecture | None:
        """Get the architecture found under a budget by the last finished search or short list."""
        finding = [step for step in self.steps_of(budget) if step.finds]
        found = [self.look()[step.name].found(budget) for step in finding]
        return next(filter(None, reversed(found)), None)

    def steps_of(self, budget: str) -> list[Step]:
        """List the steps of a budget, and those that all budgets share."""
        return [step for step in self.steps if step.budget in ("", budget)]

    def path(self, step: str, name: str = "") -> str:
        """Get the path of a step's folder, or of a file in it."""
        return os.path.join(self.output, step, name) if name else os.path.join(self.output, step)

    def folder(self, budget: str = "") -> str:
        """Get the folder of the products for the user under a budget."""
        return os.path.join(self.output, folder_of(budget)).rstrip("/")

    def outcome(self, budget: str = "") -> Outcome | None:
        """Get the outcome of the trainings of both networks, on the main process.

        It is None until all have finished, or if there are none.
        """
        if budget not in self._outcomes:
            outcome = judge(self, budget)
            if outcome is None:
                return None
            self._outcomes[budget] = outcome
        return self._outcomes[budget]

    @property
    def searches(self) -> list[Step]:
        return [step for step in self.steps if step.searches]
