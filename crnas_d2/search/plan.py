"""The steps of the hierarchical search procedure (section 3.3)."""

from __future__ import annotations

from dataclasses import dataclass

from .recipe import Recipe


@dataclass(frozen=True)
class Step:
    """One arrow of the way from a recipe to a detector.

    Attributes:
        name: also of its folder.
        config: file of its config.
        searches: or else it trains.
        weights: name of the step whose final weights it starts from; empty = the config's.
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
        steps.append(Step(f"{prefix}_supernet", supernet, False, pretraining, found))
        steps.append(Step(search, supernet, True, f"{prefix}_supernet", found))
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
        return [Step(name, config, False, supernet, architecture)]
    if recipe.names["FINAL_PRETRAINING"]:
        start = f"{name}_pretraining"
        return [
            Step(start, recipe.names["FINAL_PRETRAINING"], architecture=architecture),
            Step(name, config, False, start, architecture),
        ]
    return [Step(name, config, architecture=architecture)]
