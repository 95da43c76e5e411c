"""The config keys that crnas_d2 adds to Detectron2's, and the configs that it ships."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from detectron2.config import CfgNode as CN
from detectron2.config import get_cfg

from .architecture import Architecture
from .config_files import configs_dir as configs_dir
from .config_files import find_config_file, read_config_files
from .config_values import merge_opts, merge_values


def add_crnas_config(cfg: CN) -> None:
    """Add the keys of CR-NAS to a Detectron2 config, in place.

    Norm, widths, groups, place of the stride and out features of a backbone are Detectron2's own
    ``MODEL.RESNETS.*``, for MobileNetV2 too as far as they apply.
    """
    cr = cfg.MODEL.CR = CN()
    # Family of the backbone: "resnet" (ResNet, ResNeXt) or "mobilenetv2"
    cr.FAMILY = "resnet"
    # Residual block of the ResNet family: "basic" (two 3x3) or "bottleneck" (1x1, 3x3, 1x1)
    cr.BLOCK = "bottleneck"
    # tau: blocks of each stage; 4 entries for "resnet", 10 for "mobilenetv2"
    cr.STAGE_CODE = [3, 4, 6, 3]
    # o: one entry for each block, its 3x3 has dilation entry + 1, in res5 times
    # MODEL.RESNETS.RES5_DILATION; empty = all zeros
    cr.OPERATION_CODE = []
    # Factor on all channels of MobileNetV2
    cr.WIDTH_MULTIPLIER = 1.0
    # Recompute each stage's activations in the backward pass instead of keeping them
    cr.ACTIVATION_CHECKPOINT = False

    # Names of the classes in the order of the model's outputs; derived from the data set
    cfg.MODEL.CLASS_NAMES = []

    init = cfg.MODEL.INIT = CN()
    # Whose weights MODEL.WEIGHTS are, where the file does not tell, such as "msra"; empty = as it tells
    init.SOURCE = ""
    # With what all names in the file start that is not of the network, such as "encoder."
    init.PREFIX = ""
    # Where the config's input format, mean, std, place of the stride or norm are not those of the
    # weights: "check" (that is an error), "take" (the weights' go before the config's) or "ignore"
    init.SETTINGS = "check"
    # Put the weights of a network of other codes into this one, as crnas remap does
    init.REMAP = False
    # Blocks that remapping repeats start as the identity
    init.FUNCTION_PRESERVING = False
    # Dilated convolutions do at first what the plain ones do where their input is smooth
    init.INTERPOLATE_DILATED = False

    nas_fpn = cfg.MODEL.NAS_FPN = CN()
    # Cells, stacked, and channels of NAS-FPN; its inputs are always res3, res4 and res5
    nas_fpn.NUM_CELLS = 7
    nas_fpn.OUT_CHANNELS = 384
    # Norm after each of its convolutions
    nas_fpn.NORM = "BN"

    supernet = cfg.MODEL.SUPERNET = CN()
    # T_i of the stage supernet: for each stage, the numbers of blocks to choose from; empty = the paper's
    supernet.STAGE_CHOICES = []
    # Cost of a block in each stage; empty = the paper's
    supernet.STAGE_WEIGHTS = []
    # O of the dilation supernet: the operations of a choice block
    supernet.OPERATIONS = [0, 1, 2]
    # How training draws paths: each one "uniform" by itself, as in the paper, or in "cycles", over each of
    # which a choice unit takes all of its choices once
    supernet.SAMPLING = "uniform"
    # Seed of the paths that training draws; the path of an iteration is a function of both
    supernet.SEED = 0
    # Paths on which a trained supernet is evaluated; the search has its own evaluation
    supernet.TEST_PATHS = []

    classifier = cfg.MODEL.CLASSIFIER = CN()
    # Classes of the classifier; derived from the data set
    classifier.NUM_CLASSES = 1000
    # Probability that an input of its linear layer is dropped
    classifier.DROPOUT = 0.0

    classification = cfg.INPUT.CLASSIFICATION = CN()
    # Height and width of the classifier's input
    classification.CROP_SIZE = 224
    # Bounds of the part of an image's area, and of its width over its height, taken in training
    classification.SCALE = [0.08, 1.0]
    classification.ASPECT_RATIO = [3 / 4, 4 / 3]
    # Shorter side of an image of which the test takes the center
    classification.TEST_SIZE = 256

    # Own data sets for classification: a list of [name, folder that has a folder for each class]
    cfg.DATASETS.IMAGE_FOLDERS = []
    # Own data sets in COCO format: a list of [name, json file, image root]
    cfg.DATASETS.COCO_JSON = []
    # Own data sets in VOC layout: a list of [name, folder, split, year of the metric, class names]
    cfg.DATASETS.VOC_DIRS = []

    # Categories, by id or name, that have no box in any data set and are no classes
    cfg.DATASETS.LEFT_OUT_CATEGORIES = []
    # Take file names in a COCO json that are absolute or lead out of the image root
    cfg.DATASETS.IMAGES_OUTSIDE_ROOT = False
    # How pictures are looked at before the first step: "header", "decode" (the whole file) or "none"
    cfg.DATASETS.CHECK_PICTURES = "header"
    # Know pictures again by their content, not by size and time, where a search or a recipe goes on
    cfg.DATASETS.HASH_PICTURES = False
    # Look for near-copies of pictures in archtrain, archval and the test sets of a search
    cfg.DATASETS.NEAR_COPIES = True
    # Where the results of these checks are remembered; empty = crnas_d2_cache below Detectron2's folder of
    # data sets
    cfg.DATASETS.CACHE_DIR = ""

    archval = cfg.DATASETS.ARCHVAL = CN()
    # Images of X_train that make X_archval; X_archtrain is the rest of them
    archval.SIZE = 5000
    # Seed of that draw
    archval.SEED = 0
    # Key of the images in the json, such as "video_id"; those with one value come into the same part. Empty =
    # each image for itself
    archval.GROUP_KEY = ""
    # Folder of the two json files; empty = crnas_d2_splits below Detectron2's folder of data sets
    archval.DIR = ""

    # Result of the tests, such as "bbox/AP"; the checkpoint with the best one is kept as model_best.pth.
    # Empty = none
    cfg.TEST.BEST_METRIC = ""
    # Decay of the exponential moving average of the weights and of the norms' statistics, such as 0.999,
    # which the training tests and saves in their place; 0 = none
    cfg.SOLVER.EMA = CN()
    cfg.SOLVER.EMA.DECAY = 0.0
    # Checkpoints of a training that stay, the newest ones; model_best.pth is not counted
    cfg.SOLVER.CHECKPOINTS_TO_KEEP = 3

    _add_search_config(cfg)


def _add_search_config(cfg: CN) -> None:
    search = cfg.SEARCH = CN()
    # N: budgets of the stage search, each of which ends with its own network. Empty = the cost of
    # MODEL.CR.STAGE_CODE
    search.BUDGETS = []
    # What a budget counts: "blocks", "weighted" (blocks by MODEL.SUPERNET.STAGE_WEIGHTS; the paper's
    # constraint), "gmacs" or "detector_gmacs" (multiply-adds in G of the backbone, or of the whole
    # detector), "parameters" (of the detector, in M) or "latency" (of the detector, in ms)
    search.COST = "weighted"
    # Height and width of the image that multiply-adds are counted, and latency is measured, of
    search.COST_SIZE = (800, 1088)
    # "equal", or "at_most": a budget is an upper limit
    search.BUDGET_IS = "equal"
    # By which share of a budget the cost may be above or below it; with "at_most", below it, and 0 is
    # any cost below
    search.TOLERANCE = 0.0
    # Of the operation search: "greedy" (Algorithm 1), "random" or "evolutionary"
    search.STRATEGY = "greedy"
    # K: partial architectures that the greedy search keeps
    search.SURVIVORS = 3
    # Architectures that the other two evaluate; 0 = as many as the greedy search
    search.EVALUATIONS = 0
    # Seed of all that the search draws
    search.SEED = 0
    # What is maximized, of the results of COCOEvaluator: "bbox/AP", "segm/AP", "bbox/AP50", ...
    search.METRIC = "bbox/AP"
    # Resamples of archval in which the metric of each architecture is computed, for which of them cannot
    # be told from the best one; 0 = none
    search.RESAMPLES = 200
    # Images of a mini-batch, which pass through an architecture together; 0 = 1 on a CPU, and on a GPU
    # 8, but 4 in the greedy search, whose c is the number of mini-batches
    search.IMAGES_PER_BATCH = 0
    # Architectures that are evaluated in one pass over archval; memory grows with it
    search.GROUP_SIZE = 32
    # Evaluate in half precision, on a GPU
    search.AMP = False

    # Config of the baseline's detector, which the architecture that was found is put into: a file
    # beside the one that names it, or one of those that get_config takes; empty = none
    search.FINAL = ""

    latency = search.LATENCY = CN()
    # Table of another device, which crnas latency has written there; empty = measured here before the
    # search
    latency.FILE = ""
    # Images that pass through the detector together
    latency.BATCH = 1
    # "float32", or by autocast "float16" or "bfloat16"
    latency.PRECISION = "float32"
    # Runs of each detector that count, and runs before those
    latency.RUNS = 20
    latency.WARM_UP = 3

    bn = search.BN = CN()
    # Statistics of the norms: "recalibrate" (of the path alone, from archtrain), "running" (as
    # trained), or "auto": the first in the stage search, the second in the operation search
    bn.MODE = "auto"
    # Mini-batches of archtrain, and the images of each, from which they are recalibrated
    bn.BATCHES = 64
    bn.IMAGES_PER_BATCH = 4

    halving = search.HALVING = CN()
    # Successive halving in the stage search: evaluate all architectures on some images of archval,
    # the best of them on FACTOR times more, and so on
    halving.ENABLED = False
    # By which the images of a rung grow and its architectures become fewer
    halving.FACTOR = 4
    # Images of the first rung, at least
    halving.MIN_IMAGES = 250
    for key in ("", ".ENABLED", ".CONFIDENCE", ".SLICES", ".RESAMPLES"):
        cfg.register_renamed_key(f"SEARCH.RACING{key}", "SEARCH.HALVING")

    recipe = search.RECIPE = CN()
    # Weights of a trained network, as MODEL.WEIGHTS takes them, from which the supernets and the final
    # detectors start, remapped; instead of pre-trainings. Empty = none
    recipe.SEED_WEIGHTS = ""
    # Configs of the steps of the whole procedure (section 3.3), named as SEARCH.FINAL is.
    # Pre-training of the stage supernet; empty = none
    recipe.STAGE_PRETRAINING = ""
    # The stage supernet in a detector; empty = no stage search
    recipe.STAGE_SUPERNET = ""
    # Pre-training of the dilation supernet; empty = none
    recipe.DILATION_PRETRAINING = ""
    # The dilation supernet in a detector; empty = no operation search
    recipe.DILATION_SUPERNET = ""
    # Pre-training of the baseline and of the network that was found; empty = none
    recipe.FINAL_PRETRAINING = ""
    # Start the final trainings from the weights that the supernets have for the two networks, instead of
    # from a pre-training; for supernets with the channels of SEARCH.FINAL
    recipe.INHERIT = False
    # Train and evaluate SEARCH.FINAL, as it is and with the architecture that was found
    recipe.TRAIN_FINAL = True
    # With how many seeds, the same for both
    recipe.SEEDS = 1
    # Put what was found into final.yaml also where it is not shown to be better than the baseline
    recipe.TAKE_FOUND = False

    shortlist = recipe.SHORTLIST = CN()
    # After each search, train so many of its best codes alone on archtrain, with the baseline and one
    # code drawn at random, as SEARCH.FINAL; the best on archval goes on. 0 = the search's best does
    shortlist.CODES = 0
    # Seeds of each of them
    shortlist.SEEDS = 2
    # Share of the iterations of SEARCH.FINAL that the last of them are trained for
    shortlist.SHARE = 0.5
    # Successive halving: one in so many goes on to a schedule that is so many times longer; 1 = all are
    # trained for SHARE
    shortlist.FACTOR = 2


def get_architecture(cfg: CN, family: str | None = None) -> Architecture:
    """The architecture that ``cfg.MODEL.CR`` describes.

    Args:
        family: the one that the caller builds; None takes any.

    Raises:
        ValueError: the keys are not there, their values make no architecture, or one of another
            family.
    """
    cr = cfg.MODEL.get("CR")
    if cr is None:
        raise ValueError(
            "the config has no MODEL.CR: call crnas_d2.add_crnas_config(cfg) on the result of "
            "detectron2.config.get_cfg() before merging a config file"
        )
    if family not in (None, cr.FAMILY):
        raise ValueError(
            f"MODEL.CR.FAMILY is {cr.FAMILY!r}; expected {family!r} for the backbone builder "
            f"{cfg.MODEL.BACKBONE.NAME!r}"
        )
    try:
        return Architecture.of_family(cr.FAMILY, cr.STAGE_CODE, cr.OPERATION_CODE)
    except ValueError as error:
        raise ValueError(f"MODEL.CR: {error}") from None


def set_architecture(cfg: CN, architecture: Architecture) -> None:
    """Put the codes of an architecture into ``cfg.MODEL.CR``, where alone they stand."""
    cfg.MODEL.RESNETS.DEPTH = 50  # Detectron2's default, which says nothing of the codes
    cfg.MODEL.CR.STAGE_CODE = list(architecture.stage_code)
    cfg.MODEL.CR.OPERATION_CODE = list(architecture.operation_code)


def read_config(path: str, opts: Sequence[str] = ()) -> CN:
    """The config in a file, with Detectron2's keys and ours.

    ``~`` and variables of the environment are expanded in the paths that it names. A relative
    ``MODEL.WEIGHTS`` is that beside the file that sets it, where there is such a file.

    Args:
        path: what :func:`find_config_file` takes. What the file could execute is refused.
        opts: keys and values in turn, which go before those of the file.

    Raises:
        FileNotFoundError: there is no such file, or not its base.
        ValueError: there is no such key, or a value is not of its kind.
    """
    cfg = default_config()
    for file, content in read_config_files(find_config_file(path)):
        merge_values(cfg, content, file)
    merge_opts(cfg, opts)
    return cfg


def default_config() -> CN:
    """Detectron2's keys and ours, at their defaults."""
    cfg = get_cfg()
    add_crnas_config(cfg)
    return cfg


def flatten_config(cfg: CN, prefix: str = "") -> dict[str, str]:
    """All keys with their values as texts, by their full names, such as "MODEL.CR.FAMILY"."""
    flat = {}
    for key, value in cfg.items():
        if isinstance(value, CN):
            flat.update(flatten_config(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = str(list(value) if isinstance(value, tuple) else value)
    return flat


def list_differences(there: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """The keys of which two flat configs have other values, with both, in order of the keys."""
    return [
        f"{key}: {there.get(key, 'absent')} there, {now.get(key, 'absent')} now"
        for key in sorted(there.keys() | now.keys())
        if there.get(key) != now.get(key)
    ]


def get_config(name: str) -> CN:
    """A ready config from a file.

    Args:
        name: of one that comes with the package, such as
            ``"COCO-Detection/faster_rcnn_CR_R_50_FPN_1x.yaml"``, or a path.

    Raises:
        FileNotFoundError, ValueError: as :func:`read_config`.
    """
    return read_config(name)
