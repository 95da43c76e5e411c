"""The config keys that crnas_d2 adds to those of Detectron2, and how configs are read."""

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

    The norm, widths, groups, stride placement and output features of a backbone are set by
    Detectron2's own ``MODEL.RESNETS.*``, which MobileNetV2 follows too as far as they apply.
    """
    cr = cfg.MODEL.CR = CN()
    # Family of the backbone: "resnet" (ResNet, ResNeXt) or "mobilenetv2"
    cr.FAMILY = "resnet"
    # Residual block of the ResNet family: "basic" (two 3x3) or "bottleneck" (1x1, 3x3, 1x1)
    cr.BLOCK = "bottleneck"
    # tau, the number of blocks in each stage: 4 entries for "resnet", 10 for "mobilenetv2"
    cr.STAGE_CODE = [3, 4, 6, 3]
    # o, one entry for each block, whose 3x3 has the dilation entry + 1, multiplied in res5 by
    # MODEL.RESNETS.RES5_DILATION. Empty = all zeros
    cr.OPERATION_CODE = []
    # Factor on the number of channels in all layers of MobileNetV2
    cr.WIDTH_MULTIPLIER = 1.0
    # Recompute each stage's activations in the backward pass instead of keeping them
    cr.ACTIVATION_CHECKPOINT = False

    # Names of the classes in the order of the model's outputs. Derived from the dataset
    cfg.MODEL.CLASS_NAMES = []

    init = cfg.MODEL.INIT = CN()
    # Origin of the weights in MODEL.WEIGHTS, such as "msra", for files that do not record it. Empty
    # = as the file records it
    init.SOURCE = ""
    # Prefix of all names in the file that does not belong to the network, such as "encoder."
    init.PREFIX = ""
    # What to do where the config's input format, mean, std, stride placement or norm differ from
    # those that the weights were trained with: "check" (raise an error), "take" (use those of the
    # weights) or "ignore"
    init.SETTINGS = "check"
    # Adapt the weights of a network with other codes to this one, as crnas remap does
    init.REMAP = False
    # Initialize the blocks that remapping repeats as the identity
    init.FUNCTION_PRESERVING = False
    # Initialize dilated convolutions so that they respond like the plain ones where their input is
    # smooth
    init.INTERPOLATE_DILATED = False

    nas_fpn = cfg.MODEL.NAS_FPN = CN()
    # Number of stacked cells and number of channels of NAS-FPN. Its inputs are always res3, res4
    # and res5
    nas_fpn.NUM_CELLS = 7
    nas_fpn.OUT_CHANNELS = 384
    # Norm after each convolution of NAS-FPN
    nas_fpn.NORM = "BN"

    supernet = cfg.MODEL.SUPERNET = CN()
    # T_i of the stage supernet: the candidate numbers of blocks for each stage. Empty = the paper's
    supernet.STAGE_CHOICES = []
    # Cost of one block in each stage. Empty = the paper's
    supernet.STAGE_WEIGHTS = []
    # Make the candidates of a stage prefixes of one shared chain of blocks, instead of separate
    # chains as in the paper
    supernet.SHARE_BLOCKS = False
    # O of the dilation supernet: the candidate operations of a choice block
    supernet.OPERATIONS = [0, 1, 2]
    # How training samples paths: "uniform" draws each one independently, as in the paper; in
    # "cycles" each choice unit takes all of its choices once before it repeats one
    supernet.SAMPLING = "uniform"
    # Seed of the paths sampled in training. The path of an iteration is a function of both
    supernet.SEED = 0
    # Paths on which a trained supernet is evaluated. The search has its own evaluation
    supernet.TEST_PATHS = []

    classifier = cfg.MODEL.CLASSIFIER = CN()
    # Number of classes of the classifier. Derived from the dataset
    classifier.NUM_CLASSES = 1000
    # Dropout probability before the classifier's linear layer
    classifier.DROPOUT = 0.0

    classification = cfg.INPUT.CLASSIFICATION = CN()
    # Height and width of the classifier's input
    classification.CROP_SIZE = 224
    # Range of the share of an image's area, and of the aspect ratio, of the random crops in
    # training
    classification.SCALE = [0.08, 1.0]
    classification.ASPECT_RATIO = [3 / 4, 4 / 3]
    # Shorter side to which a test image is resized before its center is cropped
    classification.TEST_SIZE = 256

    # Custom datasets for classification: a list of [name, folder with one subfolder for each
    # class]
    cfg.DATASETS.IMAGE_FOLDERS = []
    # Custom datasets in COCO format: a list of [name, json file, image root]
    cfg.DATASETS.COCO_JSON = []
    # Custom datasets in VOC layout: a list of [name, folder, split, year of the metric, class
    # names]
    cfg.DATASETS.VOC_DIRS = []

    # Categories, by id or name, that have no box in any dataset and are not classes
    cfg.DATASETS.LEFT_OUT_CATEGORIES = []
    # Accept file names in a COCO json that are absolute or lead out of the image root
    cfg.DATASETS.IMAGES_OUTSIDE_ROOT = False
    # How images are checked before the first step: "header", "decode" (the whole file) or "none"
    cfg.DATASETS.CHECK_IMAGES = "header"
    # Where a search or a recipe resumes, compare images by their content instead of by size and
    # time
    cfg.DATASETS.HASH_IMAGES = False
    for key in ("CHECK", "HASH"):
        cfg.register_renamed_key(f"DATASETS.{key}_PICTURES", f"DATASETS.{key}_IMAGES")
    # Look for near-duplicate images across archtrain, archval and the test sets of a search
    cfg.DATASETS.NEAR_COPIES = True
    # Folder in which the results of these checks are cached. Empty = crnas_d2_cache below
    # Detectron2's folder of datasets
    cfg.DATASETS.CACHE_DIR = ""

    archval = cfg.DATASETS.ARCHVAL = CN()
    # Number of images of X_train in X_archval. X_archtrain has the rest
    archval.SIZE = 5000
    # Seed of the random split
    archval.SEED = 0
    # Key of the images in the json, such as "video_id". Images with the same value go into the same
    # part. Empty = each image on its own
    archval.GROUP_KEY = ""
    # Folder of the two json files. Empty = crnas_d2_splits below Detectron2's folder of datasets
    archval.DIR = ""

    # Metric of the tests, such as "bbox/AP", by which the best checkpoint is kept as
    # model_best.pth. Empty = none
    cfg.TEST.BEST_METRIC = ""
    # Decay of the exponential moving average of the weights and of the norms' statistics, such as
    # 0.999. Training tests and saves the average instead of the weights themselves. 0 = no average
    cfg.SOLVER.EMA = CN()
    cfg.SOLVER.EMA.DECAY = 0.0
    # Number of most recent checkpoints that a training keeps, not counting model_best.pth
    cfg.SOLVER.CHECKPOINTS_TO_KEEP = 3

    _add_search_config(cfg)


def _add_search_config(cfg: CN) -> None:
    search = cfg.SEARCH = CN()
    # N: the budgets of the stage search, each of which yields its own network. Empty = the cost of
    # MODEL.CR.STAGE_CODE
    search.BUDGETS = []
    # Unit of a budget: "blocks", "weighted" (blocks weighted by MODEL.SUPERNET.STAGE_WEIGHTS, the
    # paper's constraint), "gmacs" or "detector_gmacs" (multiply-adds in G of the backbone, or of
    # the whole detector), "parameters" (of the detector, in M) or "latency" (of the detector, in
    # ms)
    search.COST = "weighted"
    # Height and width of the image for which multiply-adds are counted and latency is measured
    search.COST_SIZE = (800, 1088)
    # "equal", or "at_most", which makes a budget an upper limit
    search.BUDGET_IS = "equal"
    # Share of a budget by which the cost may be above or below it. With "at_most" it may only be
    # below it, and 0 allows any cost below
    search.TOLERANCE = 0.0
    # Strategy of the operation search: "greedy" (Algorithm 1), "random" or "evolutionary"
    search.STRATEGY = "greedy"
    # K: the number of partial architectures that the greedy search keeps
    search.SURVIVORS = 3
    # Number of architectures that the other two strategies evaluate. 0 = as many as the greedy
    # search
    search.EVALUATIONS = 0
    # Seed of all random choices of the search
    search.SEED = 0
    # Metric to maximize, among the results of COCOEvaluator: "bbox/AP", "segm/AP", "bbox/AP50", ...
    search.METRIC = "bbox/AP"
    # Number of bootstrap resamples of archval on which each architecture is scored, to tell which
    # ones are indistinguishable from the best. 0 = none
    search.RESAMPLES = 200
    # Images in a mini-batch of the evaluation. 0 = 1 on a CPU; on a GPU 8, or 4 in the greedy
    # search, whose c is the number of mini-batches
    search.IMAGES_PER_BATCH = 0
    # Number of architectures evaluated in one pass over archval. Memory grows with it
    search.GROUP_SIZE = 32
    # Evaluate in half precision on a GPU
    search.AMP = False

    # Config of the baseline detector, into which the architecture that was found is put: a file
    # beside the one that names it, or any name that get_config takes. Empty = none
    search.FINAL = ""

    latency = search.LATENCY = CN()
    # Latency table of another device, written there by crnas latency. Empty = measure on this
    # device before the search
    latency.FILE = ""
    # Images in a batch that passes through the detector
    latency.BATCH = 1
    # "float32", or with autocast "float16" or "bfloat16"
    latency.PRECISION = "float32"
    # Number of timed runs of each detector, and of untimed runs before them
    latency.RUNS = 20
    latency.WARM_UP = 3

    bn = search.BN = CN()
    # Statistics of the norms in the search: "recalibrate" (computed for each path on archtrain),
    # "running" (as trained), or "auto": the former in the stage search, the latter in the operation
    # search
    bn.MODE = "auto"
    # Number of mini-batches of archtrain for the recalibration, and images in each of them
    bn.BATCHES = 64
    bn.IMAGES_PER_BATCH = 4

    halving = search.HALVING = CN()
    # Successive halving in the stage search: evaluate all architectures on a few images of archval,
    # the best of them on FACTOR times as many, and so on
    halving.ENABLED = False
    # Factor by which the images of a rung grow and the number of its architectures shrinks
    halving.FACTOR = 4
    # Minimum number of images in the first rung
    halving.MIN_IMAGES = 250
    for key in ("", ".ENABLED", ".CONFIDENCE", ".SLICES", ".RESAMPLES"):
        cfg.register_renamed_key(f"SEARCH.RACING{key}", "SEARCH.HALVING")

    recipe = search.RECIPE = CN()
    # Weights of a trained network, in any form that MODEL.WEIGHTS takes. The supernets and the
    # final detectors start from them, remapped, instead of from a pre-training. Empty = none
    recipe.SEED_WEIGHTS = ""
    # Configs of the steps of the whole procedure (section 3.3), named like SEARCH.FINAL.
    # Pre-training of the stage supernet. Empty = none
    recipe.STAGE_PRETRAINING = ""
    # Training of the stage supernet in a detector. Empty = no stage search
    recipe.STAGE_SUPERNET = ""
    # Pre-training of the dilation supernet. Empty = none
    recipe.DILATION_PRETRAINING = ""
    # Training of the dilation supernet in a detector. Empty = no operation search
    recipe.DILATION_SUPERNET = ""
    # Pre-training of the baseline and of the network that was found. Empty = none
    recipe.FINAL_PRETRAINING = ""
    # Start the final trainings from the weights that the two networks have in the supernets instead
    # of from a pre-training. The supernets need the channels of SEARCH.FINAL
    recipe.INHERIT = False
    # Train and evaluate SEARCH.FINAL, both unchanged and with the architecture that was found
    recipe.TRAIN_FINAL = True
    # Number of seeds, which are the same for both
    recipe.SEEDS = 1
    # Write what was found into final.yaml even if it was not shown to be better than the baseline
    recipe.TAKE_FOUND = False

    shortlist = recipe.SHORTLIST = CN()
    # Number of each search's best codes to train individually on archtrain as SEARCH.FINAL, along
    # with the baseline and one code drawn at random. The best on archval goes on. 0 = take the best
    # of the search
    shortlist.CODES = 0
    # Number of seeds for each of these codes
    shortlist.SEEDS = 2
    # Share of the iterations of SEARCH.FINAL for which the last of them are trained
    shortlist.SHARE = 0.5
    # Successive halving: one in FACTOR codes goes on to a schedule FACTOR times as long. 1 = all
    # codes are trained for SHARE
    shortlist.FACTOR = 2


def get_architecture(cfg: CN, family: str | None = None) -> Architecture:
    """Get the architecture that ``cfg.MODEL.CR`` describes.

    Args:
        family: the family that the caller builds. None accepts any family.

    Raises:
        ValueError: the keys are missing, their values do not make an architecture, or the
            architecture belongs to another family.
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
    """Write the codes of an architecture into ``cfg.MODEL.CR``, in place."""
    # Detectron2's default, which does not contradict any stage code
    cfg.MODEL.RESNETS.DEPTH = 50
    cfg.MODEL.CR.STAGE_CODE = list(architecture.stage_code)
    cfg.MODEL.CR.OPERATION_CODE = list(architecture.operation_code)


def read_config(path: str, opts: Sequence[str] = ()) -> CN:
    """Read a config file with the keys of Detectron2 and of this package.

    ``~`` and environment variables are expanded in all paths. A relative ``MODEL.WEIGHTS`` refers
    to the folder of the file that sets it if the weights exist there.

    Args:
        path: any name that :func:`find_config_file` takes. Executable content is refused.
        opts: alternating keys and values, which override those of the file.

    Raises:
        FileNotFoundError: the file or one of its bases does not exist.
        ValueError: a key does not exist, or a value has the wrong type.
    """
    cfg = default_config()
    for file, content in read_config_files(find_config_file(path)):
        merge_values(cfg, content, file)
    merge_opts(cfg, opts)
    return cfg


def default_config() -> CN:
    """Get a config with all keys of Detectron2 and of this package at their defaults."""
    cfg = get_cfg()
    add_crnas_config(cfg)
    return cfg


def flatten_config(cfg: CN, prefix: str = "") -> dict[str, str]:
    """Map the full name of every key, such as "MODEL.CR.FAMILY", to its value as a string."""
    flat = {}
    for key, value in cfg.items():
        if isinstance(value, CN):
            flat.update(flatten_config(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = str(list(value) if isinstance(value, tuple) else value)
    return flat


def list_differences(there: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Describe the keys on which two flat configs differ, with both values, sorted by key."""
    return [
        f"{key}: {there.get(key, 'absent')} there, {now.get(key, 'absent')} now"
        for key in sorted(there.keys() | now.keys())
        if there.get(key) != now.get(key)
    ]


def get_config(name: str) -> CN:
    """Get a complete config from a file.

    Args:
        name: name of a config that ships with the package, such as
            ``"COCO-Detection/faster_rcnn_CR_R_50_FPN_1x.yaml"``, or a path.

    Raises:
        FileNotFoundError, ValueError: see :func:`read_config`.
    """
    return read_config(name)
