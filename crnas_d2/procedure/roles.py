"""Checks that each config in a recipe is of the kind that its key requires."""

from __future__ import annotations

from detectron2.config import CfgNode

from ..modeling.builder_names import supernet_kind, without_family, without_supernet
from ..spaces import get_stage_space
from .recipe import Recipe
from .seed import OF_THE_FILE, Seed

CLASSIFIER, DETECTOR = "a classifier", "a detector"
STAGE, DILATION, PLAIN = "a stage supernet", "a dilation supernet", "a network of one architecture"
KINDS = {"stage": STAGE, "dilation": DILATION, None: PLAIN}

ROLES = {
    "STAGE_PRETRAINING": (CLASSIFIER, STAGE),
    "STAGE_SUPERNET": (DETECTOR, STAGE),
    "DILATION_PRETRAINING": (CLASSIFIER, DILATION),
    "DILATION_SUPERNET": (DETECTOR, DILATION),
    "FINAL_PRETRAINING": (CLASSIFIER, PLAIN),
    "FINAL": (DETECTOR, PLAIN),
}
# Each pre-training and the training that takes its backbone's weights; with INHERIT also supernets
SUCCESSORS = [
    ("STAGE_PRETRAINING", "STAGE_SUPERNET"),
    ("DILATION_PRETRAINING", "DILATION_SUPERNET"),
    ("FINAL_PRETRAINING", "FINAL"),
]
INHERITED = [("STAGE_SUPERNET", "FINAL"), ("DILATION_SUPERNET", "FINAL")]
# Keys other than the codes that determine the shapes of a backbone's tensors
SHAPES = ("STEM_OUT_CHANNELS", "RES2_OUT_CHANNELS", "NUM_GROUPS", "WIDTH_PER_GROUP")


def check_roles(recipe: Recipe) -> None:
    """Refuse configs of the wrong kind, and those that cannot pass on their weights or codes.

    Raises:
        ValueError: a config does not fit. The message names the key, its file, and what was
            expected.
    """
    configs = {key: recipe.config(path) for key, path in recipe.names.items() if path}
    for key, cfg in configs.items():
        if _role(cfg) != ROLES[key]:
            raise ValueError(
                f"{_name(key)} is {recipe.names[key]!r}, {' with '.join(_role(cfg))}; expected "
                f"{' with '.join(ROLES[key])}"
            )
    if recipe.seed:
        _check_seed(recipe, recipe.seed, configs)
    first, *others = configs
    for key in others:
        _compare(recipe, first, key, _blocks(configs[first]), _blocks(configs[key]))
    for before, after in SUCCESSORS + (INHERITED if recipe.cfg.SEARCH.RECIPE.INHERIT else []):
        if before in configs and after in configs:
            _compare(recipe, before, after, _shapes(configs[before]), _shapes(configs[after]))
            if (before, after) in INHERITED:
                _compare(recipe, before, after, _strides(configs[before]), _strides(configs[after]))


def _check_seed(recipe: Recipe, seed: Seed, configs: dict[str, CfgNode]) -> None:
    """Refuse configs that cannot start from the seed weights, or that start from others."""
    what = f"SEARCH.RECIPE.SEED_WEIGHTS is {seed.path!r}"
    for key, cfg in configs.items():
        if key.endswith("_PRETRAINING"):
            raise ValueError(
                f"{what} and {_name(key)} {recipe.names[key]!r}; expected one of them, as the "
                "supernets and the final detectors start either from the one or from the other"
            )
        if cfg.MODEL.WEIGHTS:
            raise ValueError(
                f"{what} and MODEL.WEIGHTS {cfg.MODEL.WEIGHTS!r} in {recipe.names[key]!r} "
                f"({_name(key)}); expected one of them"
            )
        for name in OF_THE_FILE:
            value, expected = cfg.MODEL.INIT[name], recipe.cfg.MODEL.INIT[name]
            if value != expected:
                raise ValueError(
                    f"MODEL.INIT.{name} is {value!r} in {recipe.names[key]!r} ({_name(key)}); "
                    f"expected {expected!r} as in {recipe.path!r}, for all steps or for none"
                )
        try:
            seed.check_settings(cfg)
            seed.changes(cfg)
        except ValueError as error:
            raise ValueError(f"{what}, {_name(key)} {recipe.names[key]!r}: {error}") from None


def _role(cfg: CfgNode) -> tuple[str, str]:
    classifies = cfg.MODEL.META_ARCHITECTURE == "ImageClassifier"
    kind = KINDS[supernet_kind(cfg.MODEL.BACKBONE.NAME)]
    return CLASSIFIER if classifies else DETECTOR, kind


def _blocks(cfg: CfgNode) -> dict[str, object]:
    cr = cfg.MODEL.CR
    block = {"MODEL.CR.BLOCK": cr.BLOCK} if cr.FAMILY == "resnet" else {}
    return {"MODEL.CR.FAMILY": cr.FAMILY, **block}


def _shapes(cfg: CfgNode) -> dict[str, object]:
    keys = {f"MODEL.RESNETS.{key}": cfg.MODEL.RESNETS[key] for key in SHAPES}
    norm = cfg.MODEL.RESNETS.NORM
    keys["MODEL.RESNETS.NORM"] = norm if norm in ("", "GN", "LN") else "BN, or one of its kind"
    keys["MODEL.CR.WIDTH_MULTIPLIER"] = cfg.MODEL.CR.WIDTH_MULTIPLIER
    supernet = cfg.MODEL.SUPERNET
    _, backbone = _role(cfg)
    if backbone == STAGE:
        keys["MODEL.SUPERNET.SHARE_BLOCKS"] = supernet.SHARE_BLOCKS
        choices = supernet.STAGE_CHOICES
        keys["MODEL.SUPERNET.STAGE_CHOICES"] = choices or [
            list(numbers) for numbers in get_stage_space(cfg.MODEL.CR.FAMILY).choices
        ]
    elif backbone == DILATION:
        keys["MODEL.SUPERNET.OPERATIONS"] = supernet.OPERATIONS
    return keys


def _strides(cfg: CfgNode) -> dict[str, object]:
    """Get how a detector uses its stages: the neck, and the stride of res5."""
    builder = without_family(without_supernet(cfg.MODEL.BACKBONE.NAME))
    builder = builder.replace("build_cr", "build_*", 1)
    dilation = cfg.MODEL.RESNETS.RES5_DILATION
    return {"MODEL.BACKBONE.NAME": builder, "MODEL.RESNETS.RES5_DILATION": dilation}


def _compare(
    recipe: Recipe, one: str, other: str, values: dict[str, object], others: dict[str, object]
) -> None:
    for key, value in values.items():
        if others.get(key, value) != value:
            raise ValueError(
                f"{key} is {value!r} in {recipe.names[one]!r} ({_name(one)}) and {others[key]!r} in "
                f"{recipe.names[other]!r} ({_name(other)}); expected the same"
            )


def _name(key: str) -> str:
    return "SEARCH.FINAL" if key == "FINAL" else f"SEARCH.RECIPE.{key}"
