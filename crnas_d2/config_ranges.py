"""The range of valid values of each config key.

A value outside its range would stop a run later, or be ignored silently. Keys that are not in the
table accept any value, or are checked where they are used.
"""

from __future__ import annotations

import fnmatch
import functools
import math
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import torch

from detectron2.config import CfgNode
from detectron2.utils import comm

from .config_values import leaves
from .ranges import (
    COUNT,
    NAME,
    ONE,
    POSITIVE,
    SHARE,
    WHOLE,
    ZERO,
    Range,
    ascending,
    at_least,
    between,
    each,
    either,
    is_number,
    one_of,
)


def _is_device(name: Any) -> bool:
    try:
        torch.device(name)
    except (RuntimeError, TypeError):
        return False
    return True


NORM = one_of(
    "", "BN", "SyncBN", "FrozenBN", "GN", "LN", "nnSyncBN", "naiveSyncBN", "naiveSyncBN_N"
)
ALL_ABOVE = each(POSITIVE)
ANCHORS = either(ALL_ABOVE, each(ALL_ABOVE))  # one list for all levels, or one for each level
WEIGHTS = each(POSITIVE, 4, 5)  # 4 for boxes, 5 for rotated boxes
BOX_LOSS = one_of("smooth_l1", "giou", "diou", "ciou")
POOLER = one_of("ROIPool", "ROIAlign", "ROIAlignV2", "ROIAlignRotated")
EXPECTED_RESULT = Range(
    "[dataset, task, metric, value, tolerance]",
    lambda v: (
        isinstance(v, (list, tuple))
        and len(v) in (4, 5)
        and all(map(is_number, v[-2:]))
        and all(isinstance(word, str) for word in v[:-2])
    ),
)

# Ranges by key, in which "*" matches any part
RANGES: Mapping[str, Range] = MappingProxyType(
    {
        "VERSION": one_of(2),
        "SEED": between(-(2**31), 2**31 - 1),  # seeds NumPy on each rank
        "VIS_PERIOD": ZERO,
        "OUTPUT_DIR": Range("a folder", NAME.holds),
        "SOLVER.IMS_PER_BATCH": ONE,
        "SOLVER.REFERENCE_WORLD_SIZE": ZERO,
        "SOLVER.MAX_ITER": ONE,
        "SOLVER.CHECKPOINT_PERIOD": ONE,
        "SOLVER.CHECKPOINTS_TO_KEEP": ONE,
        "SOLVER.LR_SCHEDULER_NAME": one_of(
            "WarmupMultiStepLR", "WarmupCosineLR", "WarmupStepWithFixedGammaLR"
        ),
        "SOLVER.BASE_LR": ZERO,
        "SOLVER.BASE_LR_END": ZERO,
        "SOLVER.BIAS_LR_FACTOR": ZERO,
        "SOLVER.STEPS": ascending(WHOLE, least=0),
        "SOLVER.NUM_DECAYS": ONE,
        "SOLVER.GAMMA": POSITIVE,
        "SOLVER.MOMENTUM": SHARE,
        "SOLVER.WEIGHT_DECAY": ZERO,
        "SOLVER.WEIGHT_DECAY_NORM": ZERO,
        "SOLVER.WEIGHT_DECAY_BIAS": either(one_of(None), ZERO),
        "SOLVER.WARMUP_FACTOR": SHARE,
        "SOLVER.WARMUP_ITERS": ZERO,
        "SOLVER.WARMUP_METHOD": one_of("linear", "constant"),
        "SOLVER.EMA.DECAY": Range("0 to below 1", lambda v: is_number(v) and 0 <= v < 1),
        "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": one_of("value", "norm"),
        "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": POSITIVE,
        "SOLVER.CLIP_GRADIENTS.NORM_TYPE": either(POSITIVE, one_of(math.inf)),
        "TEST.EVAL_PERIOD": ZERO,
        "TEST.DETECTIONS_PER_IMAGE": either(ONE, one_of(-1)),
        "TEST.EXPECTED_RESULTS": each(EXPECTED_RESULT, least=0),
        "TEST.AUG.MIN_SIZES": each(ONE),
        "TEST.AUG.MAX_SIZE": ONE,
        "TEST.PRECISE_BN.NUM_ITER": ONE,
        "DATALOADER.NUM_WORKERS": ZERO,
        "DATALOADER.REPEAT_THRESHOLD": ZERO,
        "DATALOADER.SAMPLER_TRAIN": one_of(
            "TrainingSampler",
            "RepeatFactorTrainingSampler",
            "RandomSubsetTrainingSampler",
            "WeightedTrainingSampler",
            "WeightedCategoryTrainingSampler",
        ),
        "DATASETS.TRAIN": each(NAME, least=0),
        "DATASETS.TEST": each(NAME, least=0),
        "DATASETS.ARCHVAL.SIZE": ONE,
        "DATASETS.CHECK_IMAGES": one_of("header", "decode", "none"),
        "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_*": ONE,
        "INPUT.MIN_SIZE_TRAIN": each(WHOLE),
        "INPUT.MIN_SIZE_TRAIN_SAMPLING": one_of("choice", "range"),
        "INPUT.MIN_SIZE_TEST": ZERO,
        "INPUT.MAX_SIZE_*": ONE,
        "INPUT.RANDOM_FLIP": one_of("horizontal", "vertical", "none"),
        "INPUT.FORMAT": one_of("BGR", "RGB", "L", "YUV-BT.601", "HSV", "YCbCr", "LAB", "CMYK"),
        "INPUT.MASK_FORMAT": one_of("polygon", "bitmask"),
        "INPUT.CROP.TYPE": one_of("relative_range", "relative", "absolute", "absolute_range"),
        "INPUT.CROP.SIZE": each(POSITIVE, 2, 2),
        "INPUT.CLASSIFICATION.*_SIZE": ONE,
        "INPUT.CLASSIFICATION.SCALE": ascending(between(0, 1)),
        "INPUT.CLASSIFICATION.ASPECT_RATIO": each(POSITIVE, 2, 2),
        "MODEL.DEVICE": Range("a device of torch, such as 'cuda' or 'cpu'", _is_device),
        "MODEL.*NORM": NORM,
        "MODEL.PIXEL_MEAN": each(Range("a number", is_number)),
        "MODEL.PIXEL_STD": ALL_ABOVE,
        "MODEL.BACKBONE.FREEZE_AT": between(0, 5),
        "MODEL.FPN.FUSE_TYPE": one_of("sum", "avg", "none"),
        "MODEL.*_CHANNELS": ONE,
        "MODEL.RESNETS.NUM_GROUPS": ONE,
        "MODEL.RESNETS.WIDTH_PER_GROUP": ONE,
        "MODEL.RESNETS.OUT_FEATURES": each(one_of("stem", "res2", "res3", "res4", "res5")),
        "MODEL.CR.FAMILY": one_of("resnet", "mobilenetv2"),
        "MODEL.CR.BLOCK": one_of("basic", "bottleneck"),
        "MODEL.CR.WIDTH_MULTIPLIER": POSITIVE,
        "MODEL.NAS_FPN.NUM_CELLS": ONE,
        "MODEL.CLASSIFIER.NUM_CLASSES": ONE,
        "MODEL.CLASSIFIER.DROPOUT": between(0, 1),
        "MODEL.*_HEAD*.NUM_CLASSES": ONE,
        "MODEL.ANCHOR_GENERATOR.SIZES": ANCHORS,
        "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": ANCHORS,
        "MODEL.ANCHOR_GENERATOR.OFFSET": Range(
            "0 to below 1", lambda v: is_number(v) and 0 <= v < 1
        ),
        "MODEL.PROPOSAL_GENERATOR.MIN_SIZE": ZERO,
        "MODEL.*.BATCH_SIZE_PER_IMAGE": ONE,
        "MODEL.*.POSITIVE_FRACTION": SHARE,
        "MODEL.*.IOU_THRESHOLDS": ascending(SHARE),
        "MODEL.*.IOU_LABELS": each(one_of(-1, 0, 1)),
        "MODEL.*.NMS_THRESH*": SHARE,
        "MODEL.*.SCORE_THRESH_TEST": Range("at most 1", lambda v: is_number(v) and v <= 1),
        "MODEL.*_TOPK_*": ONE,
        "MODEL.*TOPK_CANDIDATES_TEST": ONE,
        "MODEL.*LOSS_WEIGHT": ZERO,
        "MODEL.*SMOOTH_L1*BETA": ZERO,
        "MODEL.*.BBOX_REG_LOSS_TYPE": BOX_LOSS,
        "MODEL.RETINANET.BBOX_REG_WEIGHTS": WEIGHTS,
        "MODEL.RPN.BBOX_REG_WEIGHTS": WEIGHTS,
        "MODEL.RPN.CONV_DIMS": each(either(ONE, one_of(-1)), least=0),
        "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS": WEIGHTS,
        "MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS": each(WEIGHTS),
        "MODEL.ROI_BOX_CASCADE_HEAD.IOUS": each(SHARE),
        "MODEL.*.POOLER_RESOLUTION": ONE,
        "MODEL.*.POOLER_SAMPLING_RATIO": ZERO,
        "MODEL.*.POOLER_TYPE": POOLER,
        "MODEL.*.NUM_FC": ZERO,
        "MODEL.*.NUM_CONV*": ZERO,
        "MODEL.*.FC_DIM": ONE,
        "MODEL.*.CONV_DIM": ONE,
        "MODEL.RETINANET.PRIOR_PROB": Range(
            "more than 0, less than 1", lambda v: is_number(v) and 0 < v < 1
        ),
        "MODEL.RETINANET.FOCAL_LOSS_ALPHA": SHARE,
        "MODEL.RETINANET.FOCAL_LOSS_GAMMA": ZERO,
        "MODEL.SUPERNET.SAMPLING": one_of("uniform", "cycles"),
        "MODEL.SUPERNET.SEED": WHOLE,
        "SEARCH.COST": one_of(
            "blocks", "weighted", "gmacs", "detector_gmacs", "parameters", "latency"
        ),
        "SEARCH.COST_SIZE": each(COUNT, 2, 2),
        "SEARCH.LATENCY.BATCH": COUNT,
        "SEARCH.LATENCY.PRECISION": one_of("float32", "float16", "bfloat16"),
        "SEARCH.LATENCY.RUNS": COUNT,
        "SEARCH.LATENCY.WARM_UP": WHOLE,
        "SEARCH.BUDGET_IS": one_of("equal", "at_most"),
        "SEARCH.STRATEGY": one_of("greedy", "random", "evolutionary"),
        "SEARCH.TOLERANCE": ZERO,
        "SEARCH.BUDGETS": each(POSITIVE, least=0),
        "SEARCH.RECIPE.SEEDS": between(1, 20),
        "SEARCH.RECIPE.SHORTLIST.CODES": ZERO,
        "SEARCH.RECIPE.SHORTLIST.SEEDS": ONE,
        "SEARCH.RECIPE.SHORTLIST.SHARE": Range(
            "more than 0 and at most 1", lambda v: is_number(v) and 0 < v <= 1
        ),
        "SEARCH.RECIPE.SHORTLIST.FACTOR": ONE,
        "SEARCH.SURVIVORS": ONE,
        "SEARCH.EVALUATIONS": ZERO,
        "SEARCH.RESAMPLES": either(one_of(0), at_least(2)),
        "SEARCH.GROUP_SIZE": ONE,
        "SEARCH.IMAGES_PER_BATCH": ZERO,
        "SEARCH.BN.MODE": one_of("auto", "recalibrate", "running"),
        "SEARCH.BN.BATCHES": ONE,
        "SEARCH.BN.IMAGES_PER_BATCH": ONE,
        "SEARCH.HALVING.FACTOR": at_least(2),
        "SEARCH.HALVING.MIN_IMAGES": ONE,
    }
)


def list_faults(cfg: CfgNode) -> list[str]:
    """List the values of a config that are out of range or contradict each other.

    Each fault is a sentence that names the key, its value, and what was expected. Contradictions
    between keys are only looked for if every single value is valid.
    """
    faults = [
        f"{key} is {value!r}; expected {range_.expected}"
        for key, value in leaves(cfg)
        for range_ in _ranges_of(key)
        if not range_.holds(value)
    ]
    return faults or list(_misfits(cfg))


@functools.cache
def _ranges_of(key: str) -> list[Range]:
    return [range_ for pattern, range_ in RANGES.items() if fnmatch.fnmatchcase(key, pattern)]


def _misfits(cfg: CfgNode) -> Iterator[str]:
    model, crop, images = cfg.MODEL, cfg.INPUT.CROP, cfg.SOLVER.IMS_PER_BATCH
    if cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING == "range" and len(cfg.INPUT.MIN_SIZE_TRAIN) != 2:
        yield (
            f"INPUT.MIN_SIZE_TRAIN is {cfg.INPUT.MIN_SIZE_TRAIN!r}; expected two entries, as "
            "INPUT.MIN_SIZE_TRAIN_SAMPLING is 'range'"
        )
    if crop.TYPE.startswith("relative") and max(crop.SIZE) > 1:
        yield (
            f"INPUT.CROP.SIZE is {crop.SIZE!r}; expected shares of at most 1, as INPUT.CROP.TYPE is "
            f"{crop.TYPE!r}"
        )
    for reason, processes in (
        ("SOLVER.REFERENCE_WORLD_SIZE", cfg.SOLVER.REFERENCE_WORLD_SIZE),
        ("the number of processes", comm.get_world_size()),
    ):
        if processes and images % processes:
            yield (
                f"SOLVER.IMS_PER_BATCH is {images}; expected a multiple of {reason}, which is "
                f"{processes}"
            )
            break
    for part in ("RPN", "ROI_HEADS", "RETINANET"):
        thresholds, labels = model[part].IOU_THRESHOLDS, model[part].IOU_LABELS
        if len(labels) != len(thresholds) + 1:
            yield (
                f"MODEL.{part}.IOU_LABELS is {labels!r}; expected one entry more than "
                f"MODEL.{part}.IOU_THRESHOLDS, which is {thresholds!r}"
            )
    if len(model.PIXEL_STD) != len(model.PIXEL_MEAN):
        yield (
            f"MODEL.PIXEL_STD is {model.PIXEL_STD!r}; expected as many entries as MODEL.PIXEL_MEAN, "
            f"which is {model.PIXEL_MEAN!r}"
        )
    for part in ("TRAIN", "TEST"):
        names, files = cfg.DATASETS[part], cfg.DATASETS[f"PROPOSAL_FILES_{part}"]
        if model.LOAD_PROPOSALS and len(files) != len(names):
            yield (
                f"DATASETS.PROPOSAL_FILES_{part} is {files!r}; expected one for each of "
                f"DATASETS.{part}, which is {names!r}, as MODEL.LOAD_PROPOSALS is True"
            )
