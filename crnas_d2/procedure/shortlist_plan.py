"""What a short list trains, and what that costs, as far as it is known before its search has ended."""

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
from .steps import Kind, Step
from .supernet_search import eligible_by_budget, get_space, settled
from .work import images_of, work_of_training

if TYPE_CHECKING:
    from .procedure import Procedure


def put_on_archtrain(cfg: CfgNode, search_cfg: CfgNode) -> None:
    """Make a final detector train on the archtrain of a search, and be tested on its archval once, at
    the end, in the way of the search.

    Args:
        cfg: of the final detector, not frozen.
        search_cfg: of the search.
    """
    cfg.DATASETS = search_cfg.DATASETS.clone()
    cfg.SEARCH = search_cfg.SEARCH.clone()  # by whose metric they are compared
    cfg.TEST.EVAL_PERIOD, cfg.TEST.BEST_METRIC, cfg.TEST.EXPECTED_RESULTS = 0, "", []
    cfg.TEST.AUG.ENABLED = False
    cfg.SOLVER.CHECKPOINTS_TO_KEEP = 1
    cfg.SEED = max(cfg.SEED, 0)


def shorten(cfg: CfgNode, share: float) -> CfgNode:
    """A copy, not frozen, with a share of the schedule: all that counts iterations, but for the
    periods of what is saved and written. The learning rate falls within it as within the whole.

    Args:
        share: of ``SOLVER.MAX_ITER``, of which one iteration stays at least. ``SOLVER.STEPS`` that
            come to one iteration are one, and those that come to its end are none.
    """
    cfg = cfg.clone()
    cfg.defrost()
    solver, norms = cfg.SOLVER, cfg.TEST.PRECISE_BN
    whole = solver.MAX_ITER
    solver.MAX_ITER = max(1, round(whole * share))
    # By what it has become: one number of iterations is one schedule, whatever the share was.
    ratio = solver.MAX_ITER / whole
    steps = {max(1, round(step * ratio)) for step in solver.STEPS}
    solver.STEPS = tuple(sorted(step for step in steps if step < solver.MAX_ITER))
    solver.WARMUP_ITERS = round(solver.WARMUP_ITERS * ratio)
    norms.NUM_ITER = max(1, round(norms.NUM_ITER * ratio))
    return cfg


@dataclass(frozen=True)
class Field:
    """The codes that a short list may be made of.

    Attributes:
        of: "stage" or "operation".
        baseline: what the others have to beat: the stage code of the baseline under the budget, or
            the operation code of a network without dilation.
        others: how many there are beside it.
        draw: gives one of them, or the baseline, by random numbers.
        architecture: that a code makes.
    """

    of: str
    baseline: Code
    others: int
    draw: Callable[[Random], Code]
    architecture: Callable[[Code], Architecture]

    @classmethod
    def of_step(cls, procedure: Procedure, step: Step) -> Field:
        """
        Args:
            step: the short list.

        Raises:
            NotMeasured: latencies that tell what is eligible are not measured yet.
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
    """
    Attributes:
        cfg: of the trainings, with the whole schedule and without the code of a candidate.
        file: of that config.
        pretraining: likewise of what each candidate is trained for before; None without one.
        pretraining_file: of that config; empty without one.
        share: of the whole schedule, of a pre-training and of the last rung.
        codes: how many of the ranking there are at most.
        candidates: how many there are, with the baseline; before latencies are measured that tell
            what is eligible, how many there are at most.
        seeds: of the trainings of each.
        rungs: in order.
        test_images: on which each training is tested.
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
        """
        Args:
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
            others = options.CODES + 1  # there are that many, mostly
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
        """How many there are, without pre-trainings."""
        return sum(rung.candidates for rung in self.rungs) * len(self.seeds)

    @property
    def images(self) -> int:
        """That pass forward and backward in all of them."""
        return sum(
            rung.candidates * len(self.seeds) * images_of(shorten(self.cfg, rung.share))
            for rung in self.rungs
        )

    @property
    def pretraining_images(self) -> int:
        """That pass forward and backward in the pre-trainings."""
        if not (self.pretraining and self.rungs):
            return 0
        return self.candidates * images_of(shorten(self.pretraining, self.share))

    @property
    def work(self) -> Work:
        """For a forecast of its time; images of a pre-training count by their pixels."""
        pixels = work_of_training(self.cfg).pixels
        images = float(self.images)
        if self.pretraining:
            images += self.pretraining_images * work_of_training(self.pretraining).pixels / pixels
        return Work(self.trainings * self.test_images, images, pixels)

    @property
    def image_passes(self) -> str:
        """In words."""
        trained = self.images + self.pretraining_images
        return f"{trained:,} forward and backward, {self.trainings * self.test_images:,} forward"

    @property
    def size(self) -> str:
        """In words."""
        rungs = f"{len(self.rungs)} rung{'s' if len(self.rungs) != 1 else ''}"
        seeds = f"{len(self.seeds)} seed{'s' if len(self.seeds) != 1 else ''}"
        return f"{self.candidates} codes x {seeds}, {rungs}"


def configs_of(procedure: Procedure, step: Step) -> list[tuple[str, CfgNode, bool]]:
    """What a step runs with: file, config, and whether its weights are there before the procedure
    begins. Of a short list, one of each kind of training, as it is where it is shortest."""
    if step.kind is not Kind.SHORTLIST:
        return [(step.config, procedure.config(step), not step.weights)]
    plan = ShortlistPlan.of_step(procedure, step)
    share = plan.rungs[0].share if plan.rungs else plan.share
    training = (plan.file, shorten(plan.cfg, share), not (step.weights or plan.pretraining))
    if not plan.pretraining:
        return [training]
    return [(plan.pretraining_file, shorten(plan.pretraining, plan.share), True), training]


def search_of(procedure: Procedure, step: Step) -> Step:
    """The search whose ranking a short list is made of."""
    return next(other for other in procedure.steps if other.name == step.architecture)
