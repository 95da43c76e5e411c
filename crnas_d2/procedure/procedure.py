"""The hierarchical search procedure of section 3.3, from nothing to a trained detector."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import gc
import itertools
import logging
import os
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch

from detectron2.config import CfgNode
from detectron2.utils import comm

from ..architecture import Architecture, format_code
from ..config import default_config, set_architecture
from ..data import setup_datasets
from ..data.identity import Seen
from ..data.copies import copies_between_parts, tell_copies
from ..data.parts import tell
from ..engine import CRTrainer
from ..engine import terminal
from ..engine.setup import prepare, settle_settings
from ..lock import folder_lock
from ..main_process import decided_by_main
from .checks import check_before_run
from .final_config import write_final
from .identity import Identity, identify, product_sha256
from .outputs import report_if_possible
from .steps import Step, describe_start, plan
from .recipe import Recipe
from .networks import compare, networks_of
from .overview import overview, split_tables
from ..search.result import (
    ARCHITECTURE_FILE,
    RESULT_FILE,
    read_architecture,
    write_architecture,
)
from .roles import check_roles
from .standing import Standing
from .state import DONE, MODEL_FILE, StepState
from .supernet_search import run_search

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Procedure:
    """Runs the steps of a recipe one after the other, each in a folder of ``OUTPUT_DIR``.

    A step that is done is not run again, one that was stopped goes on, and one that was begun with
    something else is refused. The main process decides which is which.

    Attributes:
        recipe: what it was made from.
        output: ``OUTPUT_DIR``.
        start: what :func:`describe_start` says of it.
    """

    def __init__(self, recipe: Recipe, processes: int | None = None):
        """
        Args:
            processes: that share the work; None is those of this job.

        Raises:
            ValueError, FileNotFoundError: a config of a step has a fault; nothing was done.
        """
        self.recipe = recipe
        self.steps = plan(recipe)
        check_roles(recipe)
        self.start = describe_start(recipe, self.steps)
        self.output = recipe.cfg.OUTPUT_DIR
        self._processes = processes or comm.get_world_size()
        self._standings: dict[str, Standing] = {}
        self._seen: Seen = {}

    def run(self, report: Callable[[], None] = lambda: None) -> str:
        """Run all steps that are not done.

        Args:
            report: called on the main process after each step that has run, and at the end.

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
        return self._table()

    def _run_all(self, report: Callable[[], None]) -> None:
        for line in self.start:
            logger.info(line)
        if comm.is_main_process():
            for table in split_tables(self, makes=True):
                tell(table)
            comparisons = itertools.chain(*self.look_at_searches(copies_between_parts))
            tell_copies(tuple(comparisons), self.output)
        overviews = overview(self)
        for number, step in enumerate(self.steps, start=1):
            title = f"Step {number} of {len(self.steps)}, {step.name}"
            standing = self._standings[step.name]
            if not standing.done:  # what it depends on is there now
                standing = self._standings[step.name] = decided_by_main(lambda: self._look_at(step))
            if standing.done:
                logger.info(f"{title}: done already")
            else:
                logger.info(f"{title}: {standing.why or 'begins'}")
                began = time.perf_counter()
                now, *after = overviews[number - 1 :]
                later = [step.work for step in after if not step.done]
                with terminal.step(step.name, number, len(overviews), now.work.pixels, later):
                    standing.refuse_changes()
                    self._run(step)
                logger.info(f"{title}: took {time.perf_counter() - began:.0f} s")
            if comm.is_main_process() and (not standing.done or step is self.steps[-1]):
                self._write_found()
                with report_if_possible():
                    report()

    def look_at_searches(self, look: Callable[[CfgNode, CfgNode | None], T]) -> list[T]:
        """What is seen in the configs of each search and of the final detector; once what is seen
        again."""
        final = self.final_config()
        seen = [look(self.config(step), final) for step in self.searches]
        return [it for index, it in enumerate(seen) if it not in seen[:index]]

    def _run(self, step: Step) -> None:
        cfg = self.config(step)
        if comm.is_main_process():
            identity = self._identify(step)
            before = StepState.read(cfg.OUTPUT_DIR)
            if before:
                before.set_changes_aside(cfg.OUTPUT_DIR)
            StepState(identity).write(cfg.OUTPUT_DIR)
        comm.synchronize()
        began = time.perf_counter()
        args = argparse.Namespace(
            resume=not step.searches, eval_only=step.searches, config_file=step.config
        )
        cfg = prepare(cfg, args)
        if step.searches:
            seed = self.recipe.seed
            result = run_search(cfg, self.final_config(), seed and seed.identity)
            results = {result.metric: result.ranking.scored[0].score}
        else:
            trainer = CRTrainer(cfg)
            trainer.resume_or_load(resume=True)
            trainer.train()
            results = getattr(trainer, "_last_eval_results", {})
            del trainer
        gc.collect()
        torch.cuda.empty_cache()

        def end() -> Standing:
            names = (RESULT_FILE, ARCHITECTURE_FILE) if step.searches else (MODEL_FILE,)
            products = {name: product_sha256(self.path(step.name, name)) for name in names}
            seconds = time.perf_counter() - began
            StepState(identity, DONE, results, seconds, products).write(cfg.OUTPUT_DIR)
            return self._look_at(step)

        self._standings[step.name] = decided_by_main(end)

    def config(self, step: Step) -> CfgNode:
        """Of a step, with what earlier steps have given already."""
        cfg = self.recipe.config(step.config)
        cfg.OUTPUT_DIR = os.path.join(self.output, step.name)
        cfg.MODEL.SUPERNET.TEST_PATHS = []  # the search evaluates
        if step.weights:
            cfg.MODEL.WEIGHTS = self.path(step.weights, MODEL_FILE)
            settings = cfg.MODEL.INIT.SETTINGS
            cfg.MODEL.INIT = default_config().MODEL.INIT  # it is what the step is made for
            cfg.MODEL.INIT.SETTINGS = settings
        elif self.recipe.seed:
            self.recipe.seed.put_into(cfg)
        found = self._standings.get(step.architecture, Standing()).architecture
        if found:
            set_architecture(cfg, found)
        before = self._standings.get(step.weights, Standing())
        is_there = before.trained if step.weights else os.path.isfile(cfg.MODEL.WEIGHTS)
        if cfg.MODEL.INIT.SETTINGS == "take" and is_there:
            settle_settings(cfg)
        return cfg

    def final_config(self) -> CfgNode | None:
        name = self.recipe.names["FINAL"]
        return self.recipe.config(name) if name else None

    def look(self) -> Mapping[str, Standing]:
        """How far each step has come, by its name, as the main process has read it; of one that
        depends on weights or on an architecture that are not there, that is not asked."""
        for step in self.steps:
            if step.name not in self._standings:
                trained = not step.weights or self._standings[step.weights].trained
                found = not step.architecture or self._standings[step.architecture].done
                looks = trained and found
                self._standings[step.name] = self._look_at(step) if looks else Standing()
        return self._standings

    def _look_at(self, step: Step) -> Standing:
        """Of one for which all is there that it starts from."""
        folder = os.path.join(self.output, step.name)
        state = StepState.read(folder)
        standing = Standing.of(folder, state, self._identify(step)) if state else Standing()
        if standing.done and step.searches:
            standing = dataclasses.replace(standing, architecture=read_architecture(folder))
        return standing

    def _identify(self, step: Step) -> Identity:
        final = self.final_config() if step.searches else None
        return identify(
            self.config(step),
            self._seen,
            searches=step.searches,
            final_cfg=final,
            processes=self._processes,
        )

    def found(self) -> Architecture | None:
        """By the last search that is done."""
        found = [self.look()[step.name].architecture for step in self.searches]
        return next(filter(None, reversed(found)), None)

    def path(self, step: str, name: str) -> str:
        return os.path.join(self.output, step, name)

    def _write_found(self) -> None:
        """The products for the user, as far as the procedure has come."""
        architecture = self.found()
        if not architecture:
            return
        write_architecture(self.output, architecture)
        if self.recipe.names["FINAL"]:
            training = next((step for step in self.steps if step.name == "final"), None)
            cfg = self.config(training) if training else self.final_config()
            if self.recipe.seed and not training:
                self.recipe.seed.put_into(cfg)
            setup_datasets(cfg)
            done = training and self.look()[training.name].done
            trained = self.path(training.name, MODEL_FILE) if done else ""
            write_final(self.output, cfg, architecture, trained)

    def _table(self) -> str:
        """The detectors that were trained, side by side; or what was found."""
        networks = networks_of(self)
        if not all(network.weights for network in networks):
            found = networks[-1].architecture
            return (
                f"Found: stage code {format_code(found.stage_code)}, operation code "
                f"{format_code(found.operation_code)}"
            )
        return compare(*networks)

    @property
    def searches(self) -> list[Step]:
        return [step for step in self.steps if step.searches]
