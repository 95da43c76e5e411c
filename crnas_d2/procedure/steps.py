"""The steps of the hierarchical search procedure (section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from detectron2.config import CfgNode

from ..architecture import FAMILIES
from ..checkpoint.remap_report import describe_frozen
from ..checkpoint.settings import as_command
from ..config_files import config_name
from ..spaces import OperationSpace
from .recipe import Recipe
from .supernet_search import get_space


@dataclass(frozen=True)
class Step:
    """One arrow of the way from a recipe to a detector.

    Attributes:
        name: also of its folder.
        config: file of its config.
        searches: or else it trains.
        weights: name of the step whose final weights it starts from; empty = the recipe's seed
            weights, or else the config's.
        architecture: name of the search whose architecture it takes; empty = the config's.
    """

    name: str
    config: str
    searches: bool = False
    weights: str = ""
    architecture: str = ""


def plan(recipe: Recipe) -> list[Step]:
    """The steps of a recipe, in order.

    Raises:
        ValueError: the recipe searches nothing, or has no supernet to inherit from.
    """
    names, steps, found = recipe.names, [], ""
    for kind, search in (("STAGE", "stage_search"), ("DILATION", "operation_search")):
        supernet = names[f"{kind}_SUPERNET"]
        if not supernet:
            continue
        prefix = kind.lower()
        pretraining = names[f"{kind}_PRETRAINING"] and f"{prefix}_pretraining"
        if pretraining:
            config = names[f"{kind}_PRETRAINING"]
            steps.append(Step(pretraining, config, architecture=found))
        steps.append(Step(f"{prefix}_supernet", supernet, weights=pretraining, architecture=found))
        steps.append(
            Step(search, supernet, searches=True, weights=f"{prefix}_supernet", architecture=found)
        )
        found = search
    if not found:
        raise ValueError(
            f"{recipe.path}: SEARCH.RECIPE.STAGE_SUPERNET and DILATION_SUPERNET are empty; "
            "expected one of them at least"
        )
    if names["FINAL"] and recipe.cfg.SEARCH.RECIPE.TRAIN_FINAL:
        if recipe.cfg.SEARCH.RECIPE.INHERIT and not names["STAGE_SUPERNET"]:
            raise ValueError(
                f"{recipe.path}: SEARCH.RECIPE.INHERIT is True and STAGE_SUPERNET is empty; "
                "expected a stage supernet, which the baseline inherits from"
            )
        supernets = [step.name for step in steps if step.name.endswith("_supernet")]
        steps += _final_steps(recipe, "final", found, supernets[-1])
        # The dilation supernet has the baseline's stage code only by chance.
        steps += _final_steps(recipe, "baseline", "", "stage_supernet")
    return steps


def _final_steps(recipe: Recipe, name: str, architecture: str, supernet: str) -> list[Step]:
    """The training of a final detector, from the weights that the recipe wants."""
    config = recipe.names["FINAL"]
    if recipe.cfg.SEARCH.RECIPE.INHERIT:
        return [Step(name, config, weights=supernet, architecture=architecture)]
    if recipe.names["FINAL_PRETRAINING"]:
        start = f"{name}_pretraining"
        return [
            Step(start, recipe.names["FINAL_PRETRAINING"], architecture=architecture),
            Step(name, config, weights=start, architecture=architecture),
        ]
    return [Step(name, config, architecture=architecture)]


def describe_start(recipe: Recipe, steps: Sequence[Step]) -> list[str]:
    """What starts from the recipe's seed weights, and what of it would never be trained; empty
    without such weights.

    Args:
        steps: of the recipe.
    """
    if not recipe.seed:
        return []
    network = recipe.seed.network
    names = [step.name for step in steps if not (step.weights or step.searches)]
    lines = [f"{', '.join(names)} start from {network.name}, remapped (SHA-256 {network.sha256})"]
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
    """The stages of a network of which a supernet leaves something open."""
    space = get_space(cfg)
    stages = FAMILIES[cfg.MODEL.CR.FAMILY].stages
    if isinstance(space, OperationSpace):
        stages = [stage for stage, n in zip(stages, space.stage_code) for _ in range(n)]
    return {stage: "searched" for stage, choices in zip(stages, space.choices) if len(choices) > 1}
