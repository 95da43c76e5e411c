"""The plan of a short list: what it trains and what that costs, known before its search is done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import TYPE_CHECKING

from detectron2.config import CfgNode

from ..architecture import Architecture, Code
from ..config import get_architecture
from ..data.parts import count_images
from ..engine.forecast import Work
from ..search.latencies import NotMeasured
from ..search.shortlisting import Rung, count_candidates, plan_rungs
from ..spaces import OperationSpace
from .search_extent import eligible_by_budget, get_space
from .search_keys import settled
from .steps import Kind, Step
from .work import images_of, work_of_training

if TYPE_CHECKING:
    from .procedure import Procedure


def put_on_archtrain(cfg: CfgNode, search_cfg: CfgNode) -> None:
    """Make a final detector train on the archtrain of a search, and be tested on its archval.

    There is one test, at the end, with the settings of the search.

    Args:
        cfg: config of the final detector, unfrozen.
        search_cfg: config of the search.
    """
    cfg.DATASETS = search_cfg.DATASETS.clone()
    cfg.SEARCH = search_cfg.SEARCH.clone()  # contains the metric for the comparison
    cfg.TEST.EVAL_PERIOD, cfg.TEST.BEST_METRIC, cfg.TEST.EXPECTED_RESULTS = 0, "", []
    cfg.TEST.AUG.ENABLED = False
    cfg.SOLVER.CHECKPOINTS_TO_KEEP = 1
    cfg.SEED = max(cfg.SEED, 0)


def shorten(cfg: CfgNode, share: float) -> CfgNode:
    """Copy a config, unfrozen, with a share of its schedule.

    All numbers of iterations are scaled, except the periods of saving and writing. So the learning
    rate follows the same curve as in the whole schedule.

    Args:
        cfg: config of a training.
        share: share of ``SOLVER.MAX_ITER``, of which at least one iteration remains.
            ``SOLVER.STEPS`` are at least one iteration, and those that reach the end are dropped.
    """
    cfg = cfg.clone()
    cfg.defrost()
    solver, norms = cfg.SOLVER, cfg.TEST.PRECISE_BN
    whole = solver.MAX_ITER
    solver.MAX_ITER = max(1, round(whole * share))
    # With the actual ratio, one number of iterations means one schedule, whatever the share was.
    ratio = solver.MAX_ITER / whole
    steps = {max(1, round(step * ratio)) for step in solver.STEPS}
    solver.STEPS = tuple(sorted(step for step in steps if step < solver.MAX_ITER))
    solver.WARMUP_ITERS = round(solver.WARMUP_ITERS * ratio)
    norms.NUM_ITER = max(1, round(norms.NUM_ITER * ratio))
    return cfg


@dataclass(frozen=True)
class Field:
    """The codes that a short list may contain.

    Attributes:
        of: "stage" or "operation".
        baseline: the code to beat: the stage code of the baseline under the budget, or the
            operation code of a network without dilation.
        others: number of codes other than the baseline.
        draw: draws one of them, or the baseline, with a random number generator.
        architecture: builds the architecture of a code.
    """

    of: str
    baseline: Code
    others: int
    draw: Callable[[Random], Code]
    architecture: Callable[[Code], Architecture]

    @classmethod
    def of_step(cls, procedure: Procedure, step: Step) -> Field:
        """Get the codes for a step.

        Args:
            procedure: the procedure.
            step: the short list.

        Raises:
            NotMeasured: latencies that determine the eligible codes are not measured yet.
        """
        cfg = settled(procedure.config(search_of(procedure, step)))
        space = get_space(cfg)
        if isinstance(space, OperationSpace):
            plain = (0,) * len(space.choices)
            others = space.size - (plain in space)
            make = partial(Architecture, space.stage_code)
            return cls("operation", plain, others, space.sample, make)
        by_budget = eligible_by_budget(cfg, procedure.final_config())
        eligible = by_budget[step.budget] if step.budget else next(iter(by_budget.values()))
        baseline = get_architecture(procedure.baseline(step.budget))
        code = baseline.stage_code
        return cls(
            "stage",
            code,
            len(eligible) - (code in eligible),
            lambda rng: rng.choice(eligible),
            lambda other: baseline if other == code else Architecture(other),
        )


@dataclass(frozen=True)
class ShortlistPlan:
    """The trainings of a short list.

    Attributes:
        cfg: config of the trainings, with the whole schedule and without the code of a candidate.
        file: file of that config.
        pretraining: config of the pre-training of each candidate. None without one.
        pretraining_file: file of that config. Empty without one.
        share: share of the whole schedule in a pre-training and in the last rung.
        codes: maximum number of codes from the ranking.
        candidates: number of candidates, including the baseline. The maximum number until latencies
            that determine the eligible codes are measured.
        seeds: seeds of the trainings of each candidate.
        rungs: the rungs in order.
        test_images: number of images on which each training is tested.
    """

    cfg: CfgNode
    file: str
    pretraining: CfgNode | None
    pretraining_file: str
    share: float
    codes: int
    candidates: int
    seeds: Sequence[int]
    rungs: Sequence[Rung]
    test_images: int

    @classmethod
    def of_step(cls, procedure: Procedure, step: Step) -> ShortlistPlan:
        """Plan a step.

        Args:
            procedure: the procedure.
            step: the short list.
        """
        recipe = procedure.recipe
        options, file = recipe.cfg.SEARCH.RECIPE.SHORTLIST, recipe.names["FINAL_PRETRAINING"]
        cfg, pretraining = procedure.config(step), None
        if file and not step.weights:
            pretraining = recipe.config(file)
            pretraining.DATASETS.TEST, pretraining.TEST.EXPECTED_RESULTS = (), []
            pretraining.TEST.BEST_METRIC, pretraining.SOLVER.CHECKPOINTS_TO_KEEP = "", 1
            pretraining.SEED = max(pretraining.SEED, 0)
        try:
            others = Field.of_step(procedure, step).others
        except NotMeasured:
            others = options.CODES + 1  # a space mostly has that many
        candidates = count_candidates(options.CODES, others)
        return cls(
            cfg=cfg,
            file=step.config,
            pretraining=pretraining,
            pretraining_file=file if pretraining else "",
            share=options.SHARE,
            codes=options.CODES,
            candidates=candidates,
            seeds=[cfg.SEED + number for number in range(options.SEEDS)],
            rungs=plan_rungs(candidates, options.SHARE, options.FACTOR),
            test_images=count_images(cfg),
        )

    @property
    def trainings(self) -> int:
        """The number of trainings, without pre-trainings."""
        return sum(rung.candidates for rung in self.rungs) * len(self.seeds)

    @property
    def images(self) -> int:
        """The number of images in the forward and backward passes of all trainings."""
        return sum(
            rung.candidates * len(self.seeds) * images_of(shorten(self.cfg, rung.share))
            for rung in self.rungs
        )

    @property
    def pretraining_images(self) -> int:
        """The number of images in the forward and backward passes of the pre-trainings."""
        if not (self.pretraining and self.rungs):
            return 0
        return self.candidates * images_of(shorten(self.pretraining, self.share))

    @property
    def work(self) -> Work:
        """The work for an estimate of the time. Images of a pre-training count by their pixels."""
        pixels = work_of_training(self.cfg).pixels
        images = float(self.images)
        if self.pretraining:
            images += self.pretraining_images * work_of_training(self.pretraining).pixels / pixels
        return Work(self.trainings * self.test_images, images, pixels)

    @property
    def image_passes(self) -> str:
        """The image passes as text."""
        trained = self.images + self.pretraining_images
        return f"{trained:,} forward and backward, {self.trainings * self.test_images:,} forward"

    @property
    def size(self) -> str:
        """The size as text."""
        rungs = f"{len(self.rungs)} rung{'s' if len(self.rungs) != 1 else ''}"
        seeds = f"{len(self.seeds)} seed{'s' if len(self.seeds) != 1 else ''}"
        return f"{self.candidates} codes x {seeds}, {rungs}"


def configs_of(procedure: Procedure, step: Step) -> list[tuple[str, CfgNode, bool]]:
    """List the configs that a step runs with.

    Returns:
        For each config its file, the config, and whether its weights exist before the procedure
        begins. For a short list, one of each kind of training, with its shortest schedule.
    """
    if step.kind is not Kind.SHORTLIST:
        return [(step.config, procedure.config(step), not step.weights)]
    plan = ShortlistPlan.of_step(procedure, step)
    share = plan.rungs[0].share if plan.rungs else plan.share
    training = (plan.file, shorten(plan.cfg, share), not (step.weights or plan.pretraining))
    if not plan.pretraining:
        return [training]
    return [(plan.pretraining_file, shorten(plan.pretraining, plan.share), True), training]


def search_of(procedure: Procedure, step: Step) -> Step:
    """Get the search whose ranking a short list takes its codes from."""
    return next(other for other in procedure.steps if other.name == step.architecture)
