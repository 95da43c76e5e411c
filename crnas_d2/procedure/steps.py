"""The steps of the hierarchical search procedure (section 3.3)."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from detectron2.config import CfgNode

from ..architecture import FAMILIES
from ..checkpoint.remap_report import describe_frozen
from ..checkpoint.settings import as_command
from ..config_files import config_name
from ..spaces import OperationSpace
from .recipe import Recipe, folder_of
from .search_extent import get_space


class Kind(Enum):
    """The kind of work that a step does."""

    TRAINING = "training"
    SEARCH = "search"
    SHORTLIST = "short list"


@dataclass(frozen=True)
class Step:
    """One step on the way from a recipe to a detector.

    Attributes:
        name: name of the step and of its folder.
        config: file of its config.
        kind: kind of its work.
        weights: name of the step whose final weights it starts from. If empty, it starts from the
            recipe's seed weights, or else those of the config.
        architecture: name of the step whose architecture it takes, or whose ranking a short list
            uses. If empty, it has the architecture of the baseline.
        budget: name of its budget, as in the stage search's result. Empty if there is only one
            budget, or if the step serves all of them.
        seed: number of seeds of the same training that come before it.
        twin: for a training of what was found, the name of the same training of the baseline. If
            the baseline itself was found, that training stands for this one.
    """

    name: str
    config: str
    kind: Kind = Kind.TRAINING
    weights: str = ""
    architecture: str = ""
    budget: str = ""
    seed: int = 0
    twin: str = ""

    @property
    def searches(self) -> bool:
        """Whether it compares paths of a supernet."""
        return self.kind is Kind.SEARCH

    @property
    def finds(self) -> bool:
        """Whether it yields an architecture."""
        return self.kind is not Kind.TRAINING


def plan(recipe: Recipe) -> list[Step]:
    """Plan the steps of a recipe, in order.

    The steps of the stage supernet come first, then for each budget those that depend on its stage
    code.

    Raises:
        ValueError: the recipe searches nothing, or has no supernet to inherit from.
    """
    names, shortlist = recipe.names, recipe.cfg.SEARCH.RECIPE.SHORTLIST
    if not (names["STAGE_SUPERNET"] or names["DILATION_SUPERNET"]):
        raise ValueError(
            f"{recipe.path}: SEARCH.RECIPE.STAGE_SUPERNET and DILATION_SUPERNET are empty; "
            "expected one of them at least"
        )
    if shortlist.CODES and not names["FINAL"]:
        raise ValueError(
            f"{recipe.path}: SEARCH.RECIPE.SHORTLIST.CODES is {shortlist.CODES} and SEARCH.FINAL is "
            "empty; expected the detector that the short list is trained as"
        )
    steps = _search_steps(recipe, "stage", "") if names["STAGE_SUPERNET"] else []
    for budget in recipe.budgets:
        steps += _steps_of_budget(recipe, budget)
    return steps


def _steps_of_budget(recipe: Recipe, budget: str) -> list[Step]:
    names, found, steps = recipe.names, "", []
    if names["STAGE_SUPERNET"]:
        found = "stage_search"
        steps += _shortlist(recipe, "stage", budget, found)
    if names["DILATION_SUPERNET"]:
        found = steps[-1].name if steps else found
        steps += _search_steps(recipe, "dilation", budget, found)
        steps += _shortlist(recipe, "operation", budget, steps[-1].name)
    found = steps[-1].name if steps else found
    if names["FINAL"] and recipe.cfg.SEARCH.RECIPE.TRAIN_FINAL:
        steps += _final_steps(recipe, budget, found)
    return steps


def _search_steps(recipe: Recipe, kind: str, budget: str, found: str = "") -> list[Step]:
    """Plan a supernet and the search over it, for the architecture that an earlier step finds."""
    supernet = recipe.names[f"{kind.upper()}_SUPERNET"]
    pretraining = recipe.names[f"{kind.upper()}_PRETRAINING"]
    step = functools.partial(Step, architecture=found, budget=budget)
    folder = folder_of(budget)
    start, trained = f"{folder}{kind}_pretraining", f"{folder}{kind}_supernet"
    search = f"{folder}{'stage' if kind == 'stage' else 'operation'}_search"
    return [
        *([step(start, pretraining)] if pretraining else []),
        step(trained, supernet, weights=start if pretraining else ""),
        step(search, supernet, Kind.SEARCH, weights=trained),
    ]


def _shortlist(recipe: Recipe, kind: str, budget: str, search: str) -> list[Step]:
    if not recipe.cfg.SEARCH.RECIPE.SHORTLIST.CODES:
        return []
    folder, weights = folder_of(budget), ""
    if recipe.cfg.SEARCH.RECIPE.INHERIT:
        weights = "stage_supernet" if kind == "stage" else f"{folder}dilation_supernet"
    name, final = f"{folder}{kind}_shortlist", recipe.names["FINAL"]
    return [Step(name, final, Kind.SHORTLIST, weights, search, budget)]


def _final_steps(recipe: Recipe, budget: str, found: str) -> list[Step]:
    """Plan the trainings of the baseline and of what was found, from the weights as configured.

    Each pair has its own seed. Pre-trainings are done once.
    """
    folder, options = folder_of(budget), recipe.cfg.SEARCH.RECIPE
    config, pretraining = recipe.names["FINAL"], recipe.names["FINAL_PRETRAINING"]
    starts = {"baseline": "", "final": ""}
    steps = []
    if options.INHERIT:
        if not recipe.names["STAGE_SUPERNET"]:
            raise ValueError(
                f"{recipe.path}: SEARCH.RECIPE.INHERIT is True and STAGE_SUPERNET is empty; "
                "expected a stage supernet, which the baseline inherits from"
            )
        # The dilation supernet has the baseline's stage code only by chance.
        of_operations = f"{folder}dilation_supernet" if recipe.names["DILATION_SUPERNET"] else ""
        starts = {"baseline": "stage_supernet", "final": of_operations or "stage_supernet"}
    elif pretraining:
        starts = {name: f"{folder}{name}_pretraining" for name in starts}
        steps = [
            Step(starts["baseline"], pretraining, budget=budget),
            Step(
                starts["final"],
                pretraining,
                architecture=found,
                budget=budget,
                twin=starts["baseline"],
            ),
        ]
    for seed in range(options.SEEDS):
        number = f"_{seed + 1}" if seed else ""
        baseline = f"{folder}baseline{number}"
        step = functools.partial(Step, config=config, budget=budget, seed=seed)
        steps += [
            step(baseline, weights=starts["baseline"]),
            step(
                f"{folder}final{number}", weights=starts["final"], architecture=found, twin=baseline
            ),
        ]
    return steps


def describe_start(recipe: Recipe, steps: Sequence[Step]) -> list[str]:
    """Describe which steps start from the recipe's seed weights, and what would never be trained.

    Args:
        recipe: the recipe.
        steps: steps of the recipe.

    Returns:
        A sentence for each finding. Empty without seed weights.
    """
    if not recipe.seed:
        return []
    network = recipe.seed.network
    first = [step for step in steps if not step.seed]
    names = [step.name for step in first if not (step.weights or step.searches)]
    all_of_them = f"{', '.join(names)}{' of each seed' if len(first) < len(steps) else ''}"
    lines = [f"{all_of_them} start from {network.name}, remapped (SHA-256 {network.sha256})"]
    if recipe.cfg.MODEL.INIT.SETTINGS == "take" and network.settings:
        lines.append(f"All steps take the settings that it needs: {as_command(network.settings)}")
    searched: dict[str, str] = {}
    for key in ("STAGE_SUPERNET", "DILATION_SUPERNET", "FINAL"):
        if recipe.names[key]:
            cfg = recipe.config(recipe.names[key])
            if key != "FINAL":
                searched.update(_searched_stages(cfg))
            changes = {**searched, **recipe.seed.changes(cfg)}
            frozen = describe_frozen(changes, network.family, cfg.MODEL.BACKBONE.FREEZE_AT)
            if frozen:
                lines.append(f"{config_name(recipe.names[key])}: {frozen}")
    return lines


def _searched_stages(cfg: CfgNode) -> dict[str, str]:
    """List the stages that a supernet leaves open."""
    space = get_space(cfg)
    stages: Sequence[str] = FAMILIES[cfg.MODEL.CR.FAMILY].stages
    if isinstance(space, OperationSpace):
        stages = [stage for stage, n in zip(stages, space.stage_code) for _ in range(n)]
    return {stage: "searched" for stage, choices in zip(stages, space.choices) if len(choices) > 1}
