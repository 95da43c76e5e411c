"""What depends on a config key: the weights, the scores, the choice of a search, or nothing."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from enum import Enum


class Effect(Enum):
    """The results of a run that depend on a key."""

    WEIGHTS = "the weights that a training gives, and what they give"
    TRAINING = "the weights that a training gives alone"
    SCORES = "what given weights are scored"
    CHOICE = "which architectures a search evaluates, and which of them it takes"
    NOTHING = "where and how it runs, or what is known by its content"


# Effects by prefix of the key. The longest prefix wins. A key that matches none affects the
# weights.
EFFECTS = {
    "OUTPUT_DIR": Effect.NOTHING,
    "VERSION": Effect.NOTHING,
    "VIS_PERIOD": Effect.NOTHING,
    "CUDNN_BENCHMARK": Effect.NOTHING,
    "MODEL.WEIGHTS": Effect.NOTHING,
    "MODEL.DEVICE": Effect.NOTHING,
    "MODEL.CR.ACTIVATION_CHECKPOINT": Effect.NOTHING,
    "MODEL.SUPERNET.TEST_PATHS": Effect.SCORES,
    "INPUT.CLASSIFICATION.TEST_SIZE": Effect.SCORES,
    "DATALOADER.NUM_WORKERS": Effect.NOTHING,
    "DATASETS.TEST": Effect.SCORES,
    "DATASETS.COCO_JSON": Effect.NOTHING,
    "DATASETS.VOC_DIRS": Effect.NOTHING,
    "DATASETS.IMAGE_FOLDERS": Effect.NOTHING,
    "DATASETS.ARCHVAL.": Effect.NOTHING,
    "DATASETS.IMAGES_OUTSIDE_ROOT": Effect.NOTHING,
    "DATASETS.CHECK_IMAGES": Effect.NOTHING,
    "DATASETS.HASH_IMAGES": Effect.NOTHING,
    "DATASETS.NEAR_COPIES": Effect.NOTHING,
    "DATASETS.CACHE_DIR": Effect.NOTHING,
    "SOLVER.CHECKPOINT_PERIOD": Effect.NOTHING,
    "SOLVER.CHECKPOINTS_TO_KEEP": Effect.NOTHING,
    "TEST.": Effect.SCORES,
    "TEST.EVAL_PERIOD": Effect.NOTHING,
    "TEST.BEST_METRIC": Effect.NOTHING,
    "TEST.PRECISE_BN.": Effect.WEIGHTS,
    "SEARCH.": Effect.SCORES,
    "SEARCH.RECIPE.": Effect.NOTHING,
    "SEARCH.FINAL": Effect.NOTHING,
    "SEARCH.LATENCY.": Effect.NOTHING,
    "SEARCH.GROUP_SIZE": Effect.NOTHING,
    "SEARCH.RESAMPLES": Effect.NOTHING,
    "SEARCH.BUDGETS": Effect.CHOICE,
    "SEARCH.COST": Effect.CHOICE,
    "SEARCH.COST_SIZE": Effect.CHOICE,
    "SEARCH.BUDGET_IS": Effect.CHOICE,
    "SEARCH.TOLERANCE": Effect.CHOICE,
    "SEARCH.STRATEGY": Effect.CHOICE,
    "SEARCH.SURVIVORS": Effect.CHOICE,
    "SEARCH.EVALUATIONS": Effect.CHOICE,
    "SEARCH.METRIC": Effect.CHOICE,
    "SEARCH.HALVING.ENABLED": Effect.CHOICE,
    "SEARCH.HALVING.MIN_IMAGES": Effect.CHOICE,
}
# Keys without a prefix above that only the training of a detector reads
OF_TRAININGS = (
    *("INPUT.*_TRAIN*", "INPUT.CROP.*", "INPUT.RANDOM_FLIP"),
    *("MODEL.SUPERNET.SAMPLING", "MODEL.SUPERNET.SEED", "MODEL.SUPERNET.SHARE_BLOCKS"),
    *("MODEL.*_TRAIN", "MODEL.*LOSS*", "MODEL.*SMOOTH_L1*", "MODEL.*.IOU_THRESHOLDS"),
    *("MODEL.*.IOU_LABELS", "MODEL.*.BATCH_SIZE_PER_IMAGE", "MODEL.*.POSITIVE_FRACTION"),
    "MODEL.*.PROPOSAL_APPEND_GT",
)
OF_TESTS = (
    # the suffix of Detectron2's test-time keys, such as MODEL.ROI_HEADS.NMS_THRESH_TEST
    "_TEST"
)


def effect_of(key: str) -> Effect:
    """Determine the effect of a key.

    Args:
        key: full name of the key, such as "SOLVER.BASE_LR".
    """
    beginnings = [beginning for beginning in EFFECTS if key.startswith(beginning)]
    if beginnings:
        return EFFECTS[max(beginnings, key=len)]
    if any(fnmatch.fnmatchcase(key, pattern) for pattern in OF_TRAININGS):
        return Effect.TRAINING
    return Effect.SCORES if key.endswith(OF_TESTS) else Effect.WEIGHTS


def forget_trainings(there: Mapping[str, str], now: Mapping[str, str]) -> dict[str, str]:
    """Drop the training-only keys that an earlier version recorded from a flat config.

    That version did not tell these keys apart, so they stay only where ``now`` has them too.
    """
    return {k: v for k, v in there.items() if k in now or effect_of(k) is not Effect.TRAINING}


def with_effect(flat: Mapping[str, str], *effects: Effect) -> dict[str, str]:
    """Select the keys of a flat config that have one of the given effects."""
    return {key: value for key, value in flat.items() if effect_of(key) in effects}
