"""What is wrong with a config is one sentence before anything is done, which names the key and its
value; nothing is written."""

import argparse
import copy

import pytest

from crnas_d2.config import read_config
from crnas_d2.engine import setup
from crnas_d2.engine.model_check import check_parts

STAGE = ("MODEL.BACKBONE.NAME", "build_stage_supernet_fpn_backbone")
THIN = (*STAGE, "MODEL.SUPERNET.STAGE_CHOICES", [[1, 2], [1], [1], [1]])
DILATION = ("MODEL.BACKBONE.NAME", "build_dilation_supernet_fpn_backbone")
# Keys and values, the last ones of which are wrong, and what the sentence has behind them
CASES = [
    # wrong kinds
    ("SOLVER.MAX_ITER", "many"),
    ("SOLVER.MAX_ITER", 1.5),
    ("SOLVER.MAX_ITER", True),
    ("SOLVER.BASE_LR", "1e-3x"),
    ("SOLVER.STEPS", 5),
    ("SOLVER.STEPS", ("a",)),
    ("SOLVER.STEPS", (1.5,)),
    ("DATASETS.TRAIN", 3),
    ("DATASETS.TRAIN", (3,)),
    ("DATASETS.TRAIN", ("",)),
    ("DATASETS.TEST", ((),)),
    ("MODEL.MASK_ON", "maybe"),
    ("MODEL.BACKBONE.NAME", 7),
    ("MODEL.CR.STAGE_CODE", "2-2-2-2"),
    ("MODEL.CR.STAGE_CODE", [1, 1, "2", 1]),
    ("MODEL.CR.STAGE_CODE", [1, 1, 1.5, 1]),
    ("MODEL.CR.OPERATION_CODE", 1),
    ("INPUT.MIN_SIZE_TRAIN", ("a",)),
    ("INPUT.MIN_SIZE_TRAIN", (None,)),
    ("INPUT.MIN_SIZE_TEST", "64px"),
    ("OUTPUT_DIR", 3),
    ("SEED", "now"),
    ("MODEL.WEIGHTS", 5),
    ("MODEL.PIXEL_MEAN", ["a", "b", "c"]),
    ("MODEL.ANCHOR_GENERATOR.SIZES", [["a"]]),
    ("DATASETS.COCO_JSON", [["a", "b"]]),
    ("DATASETS.COCO_JSON", ["a"]),
    ("DATASETS.IMAGE_FOLDERS", [["a"]]),
    ("DATASETS.VOC_DIRS", [["a", "b", "train", "2007", []]]),
    ("DATASETS.LEFT_OUT_CATEGORIES", [1.5]),
    ("MODEL.CLASS_NAMES", "red"),
    ("MODEL.DEVICE", ""),
    ("MODEL.DEVICE", "gpu"),
    ("MODEL.DEVICE", "cpu:x"),
    # keys that are not there
    ("SOLVER.MAX_ITERS", 4),
    ("MODEL.CR.STAGES", [1, 1, 1, 1]),
    ("solver.max_iter", 4),
    ("SOLVER", 4),
    ("", 4),
    # the training
    ("SOLVER.MAX_ITER", 0),
    ("SOLVER.MAX_ITER", -1),
    ("SOLVER.IMS_PER_BATCH", 0),
    ("SOLVER.IMS_PER_BATCH", -2),
    ("SOLVER.REFERENCE_WORLD_SIZE", -1),
    ("SOLVER.REFERENCE_WORLD_SIZE", 3, "SOLVER.IMS_PER_BATCH", 2),
    ("SOLVER.BASE_LR", -0.1),
    ("SOLVER.BASE_LR", float("nan")),
    ("SOLVER.BASE_LR", float("inf")),
    ("SOLVER.STEPS", (5, 3)),
    ("SOLVER.STEPS", (3, 3)),
    ("SOLVER.STEPS", (-1, 3)),
    ("SOLVER.GAMMA", 0.0),
    ("SOLVER.GAMMA", -0.1),
    ("SOLVER.MOMENTUM", -0.9),
    ("SOLVER.MOMENTUM", 9.0),
    ("SOLVER.WEIGHT_DECAY", -1e-4),
    ("SOLVER.WEIGHT_DECAY_NORM", -1.0),
    ("SOLVER.WEIGHT_DECAY_BIAS", -1.0),
    ("SOLVER.WEIGHT_DECAY_BIAS", "none"),
    ("SOLVER.BIAS_LR_FACTOR", -1.0),
    ("SOLVER.WARMUP_FACTOR", 2.0),
    ("SOLVER.WARMUP_ITERS", -1),
    ("SOLVER.WARMUP_METHOD", "cosine"),
    ("SOLVER.LR_SCHEDULER_NAME", "Cosine"),
    ("SOLVER.NUM_DECAYS", 0),
    ("SOLVER.CHECKPOINT_PERIOD", 0),
    ("SOLVER.CHECKPOINT_PERIOD", -5),
    ("SOLVER.EMA.DECAY", 1.0),
    ("SOLVER.EMA.DECAY", -0.5),
    ("SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "length"),
    ("SOLVER.CLIP_GRADIENTS.CLIP_VALUE", -1.0),
    ("SOLVER.CLIP_GRADIENTS.NORM_TYPE", 0.0),
    ("SOLVER.AMP.ENABLED", True),
    ("SEED", 2**32),
    ("VERSION", 1),
    ("VIS_PERIOD", -1),
    ("CUDNN_BENCHMARK", 2),
    # data
    ("DATASETS.TRAIN", ()),
    ("DATASETS.TRAIN", ("unknown",)),
    ("DATASETS.TRAIN", ("coco_2017_train",)),
    ("DATASETS.TEST", ("unknown",)),
    ("DATASETS.TEST", ("coco_2017_val",)),
    ("DATASETS.CHECK_IMAGES", "all"),
    ("DATASETS.ARCHVAL.SIZE", 0),
    ("DATASETS.LEFT_OUT_CATEGORIES", ["cat"]),
    ("DATALOADER.NUM_WORKERS", -1),
    ("DATALOADER.SAMPLER_TRAIN", "Sampler"),
    (
        "DATALOADER.SAMPLER_TRAIN",
        "RandomSubsetTrainingSampler",
        "DATALOADER.RANDOM_SUBSET_RATIO",
        0.0,
    ),
    (
        "DATALOADER.SAMPLER_TRAIN",
        "RepeatFactorTrainingSampler",
        "DATALOADER.REPEAT_THRESHOLD",
        -1.0,
    ),
    ("INPUT.MIN_SIZE_TRAIN", ()),
    ("INPUT.MIN_SIZE_TRAIN", (-64,)),
    ("INPUT.MIN_SIZE_TRAIN_SAMPLING", "random"),
    ("INPUT.MIN_SIZE_TRAIN_SAMPLING", "range", "INPUT.MIN_SIZE_TRAIN", (64,)),
    ("INPUT.MAX_SIZE_TRAIN", 0),
    ("INPUT.MIN_SIZE_TEST", -1),
    ("INPUT.MAX_SIZE_TEST", -1),
    ("INPUT.FORMAT", "XYZ"),
    ("INPUT.MASK_FORMAT", "rle"),
    ("INPUT.RANDOM_FLIP", "both"),
    ("INPUT.CROP.TYPE", "center"),
    ("INPUT.CROP.SIZE", [0.0, 0.9]),
    ("INPUT.CROP.SIZE", [0.9]),
    ("INPUT.CROP.SIZE", [32, 32]),
    ("MODEL.LOAD_PROPOSALS", True),
    ("MODEL.KEYPOINT_ON", True),
    # tests
    ("TEST.EVAL_PERIOD", -1),
    ("TEST.DETECTIONS_PER_IMAGE", 0),
    ("TEST.EXPECTED_RESULTS", [["bbox", "AP"]]),
    ("TEST.EXPECTED_RESULTS", "bbox"),
    ("TEST.BEST_METRIC", "AP"),
    ("TEST.EVAL_PERIOD", 2, "TEST.BEST_METRIC", "bbox/APx"),
    ("TEST.AUG.ENABLED", True, "TEST.AUG.MIN_SIZES", ()),
    ("TEST.AUG.ENABLED", True, "TEST.AUG.MAX_SIZE", 0),
    ("TEST.PRECISE_BN.ENABLED", True, "TEST.PRECISE_BN.NUM_ITER", 0),
    # parts
    ("MODEL.META_ARCHITECTURE", "FasterRCNN"),
    ("MODEL.META_ARCHITECTURE", ""),
    ("MODEL.META_ARCHITECTURE", "ImageClassifier"),
    ("MODEL.BACKBONE.NAME", "build_cr_resnet50_backbone"),
    ("MODEL.BACKBONE.NAME", ""),
    ("MODEL.BACKBONE.NAME", "build_cr_resnet_backbone"),
    ("MODEL.BACKBONE.NAME", "build_cr_mobilenetv2_fpn_backbone"),
    ("MODEL.BACKBONE.FREEZE_AT", 6),
    ("MODEL.BACKBONE.FREEZE_AT", -1),
    ("MODEL.BACKBONE.FREEZE_AT", 2),
    ("MODEL.PROPOSAL_GENERATOR.NAME", "RPN2"),
    ("MODEL.PROPOSAL_GENERATOR.MIN_SIZE", -1),
    ("MODEL.ANCHOR_GENERATOR.NAME", "Anchors"),
    ("MODEL.ANCHOR_GENERATOR.SIZES", [[8], [16]]),
    ("MODEL.ANCHOR_GENERATOR.SIZES", []),
    ("MODEL.ANCHOR_GENERATOR.SIZES", [[-8], [16], [32], [64], [128]]),
    ("MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", [[0.0, 1.0]]),
    ("MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", [[1.0], [2.0]]),
    ("MODEL.ANCHOR_GENERATOR.OFFSET", 1.5),
    ("MODEL.RPN.HEAD_NAME", "Head"),
    ("MODEL.RPN.IN_FEATURES", ["res4"]),
    ("MODEL.RPN.IN_FEATURES", []),
    ("MODEL.RPN.IN_FEATURES", ["p2", "p9"]),
    ("MODEL.RPN.IOU_THRESHOLDS", [0.7, 0.3]),
    ("MODEL.RPN.IOU_THRESHOLDS", [0.5]),
    ("MODEL.RPN.IOU_LABELS", [0, 1, 2]),
    ("MODEL.RPN.BATCH_SIZE_PER_IMAGE", 0),
    ("MODEL.RPN.POSITIVE_FRACTION", 1.5),
    ("MODEL.RPN.BBOX_REG_LOSS_TYPE", "l2"),
    ("MODEL.RPN.BBOX_REG_WEIGHTS", (1.0, 1.0, 0.0, 1.0)),
    ("MODEL.RPN.LOSS_WEIGHT", -1.0),
    ("MODEL.RPN.SMOOTH_L1_BETA", -1.0),
    ("MODEL.RPN.PRE_NMS_TOPK_TRAIN", 0),
    ("MODEL.RPN.POST_NMS_TOPK_TEST", -1),
    ("MODEL.RPN.NMS_THRESH", 1.7),
    ("MODEL.RPN.CONV_DIMS", [0]),
    ("MODEL.ROI_HEADS.NAME", "RoIHeads"),
    ("MODEL.ROI_HEADS.NAME", "Res5ROIHeads"),
    ("MODEL.ROI_HEADS.IN_FEATURES", ["p1"]),
    ("MODEL.ROI_HEADS.IOU_THRESHOLDS", [1.5]),
    ("MODEL.ROI_HEADS.IOU_LABELS", [0]),
    ("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", -1),
    ("MODEL.ROI_HEADS.POSITIVE_FRACTION", -0.1),
    ("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 5.0),
    ("MODEL.ROI_HEADS.NMS_THRESH_TEST", -0.5),
    ("MODEL.ROI_BOX_HEAD.NAME", "Head"),
    ("MODEL.ROI_BOX_HEAD.NAME", ""),
    ("MODEL.ROI_BOX_HEAD.POOLER_TYPE", "RoIAlign"),
    ("MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 0),
    ("MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO", -1),
    ("MODEL.ROI_BOX_HEAD.NUM_FC", -1),
    ("MODEL.ROI_BOX_HEAD.NUM_FC", 0, "MODEL.ROI_BOX_HEAD.NUM_CONV", 0),
    ("MODEL.ROI_BOX_HEAD.FC_DIM", 0),
    ("MODEL.ROI_BOX_HEAD.NORM", "batch"),
    ("MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS", (10.0, 10.0)),
    ("MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE", "huber"),
    ("MODEL.ROI_HEADS.NAME", "CascadeROIHeads"),
    ("MODEL.PIXEL_MEAN", [1.0, 2.0]),
    ("MODEL.PIXEL_STD", [0.0, 1.0, 1.0]),
    ("MODEL.FPN.OUT_CHANNELS", 0),
    ("MODEL.FPN.NORM", "bn"),
    ("MODEL.FPN.FUSE_TYPE", "max"),
    ("MODEL.FPN.IN_FEATURES", ["res2", "res6"]),
    ("MODEL.FPN.IN_FEATURES", []),
    ("MODEL.RESNETS.NORM", "InstanceNorm"),
    ("MODEL.RESNETS.OUT_FEATURES", ["res6"]),
    ("MODEL.RESNETS.OUT_FEATURES", []),
    ("MODEL.RESNETS.STEM_OUT_CHANNELS", 0),
    ("MODEL.RESNETS.RES2_OUT_CHANNELS", -8),
    ("MODEL.RESNETS.NUM_GROUPS", 0),
    ("MODEL.RESNETS.WIDTH_PER_GROUP", 0),
    ("MODEL.RESNETS.RES5_DILATION", 3),
    ("MODEL.RESNETS.DEPTH", 77),
    ("MODEL.RESNETS.DEFORM_ON_PER_STAGE", [False, True, True, True]),
    # ours
    ("MODEL.CR.FAMILY", "vgg"),
    ("MODEL.CR.BLOCK", "wide"),
    ("MODEL.CR.STAGE_CODE", []),
    ("MODEL.CR.STAGE_CODE", [1, 1, 1]),
    ("MODEL.CR.STAGE_CODE", [0, 1, 1, 1]),
    ("MODEL.CR.STAGE_CODE", [-1, 1, 1, 1]),
    ("MODEL.CR.OPERATION_CODE", [0, 0]),
    ("MODEL.CR.OPERATION_CODE", [0, 0, 0, 0, -1]),
    ("MODEL.CR.WIDTH_MULTIPLIER", 0.5),
    ("MODEL.CR.WIDTH_MULTIPLIER", -1.0),
    ("MODEL.INIT.SETTINGS", "force"),
    ("MODEL.INIT.SOURCE", "keras"),
    (*STAGE, "MODEL.SUPERNET.STAGE_CHOICES", [[1, 2]]),
    (*STAGE, "MODEL.SUPERNET.STAGE_CHOICES", [[0, 2], [1], [1], [1]]),
    (*STAGE, "MODEL.SUPERNET.STAGE_CHOICES", [1, 2, 3, 4]),
    (*STAGE, "MODEL.SUPERNET.STAGE_CHOICES", [[], [1], [1], [1]]),
    (*STAGE, "MODEL.SUPERNET.STAGE_CHOICES", [[1, 1], [1], [1], [1]]),
    (*STAGE, "MODEL.SUPERNET.STAGE_CHOICES", [["a"], [1], [1], [1]]),
    (*STAGE, "MODEL.SUPERNET.STAGE_WEIGHTS", [1]),
    (*STAGE, "MODEL.SUPERNET.STAGE_WEIGHTS", [0, 0, 0, 0]),
    (*STAGE, "MODEL.SUPERNET.STAGE_WEIGHTS", ["a", 1, 1, 1]),
    (*THIN, "MODEL.SUPERNET.TEST_PATHS", [[1, 1, 1]]),
    (*THIN, "MODEL.SUPERNET.TEST_PATHS", [[9, 9, 9, 9]]),
    (*THIN, "MODEL.SUPERNET.TEST_PATHS", [1]),
    (*THIN, "MODEL.SUPERNET.SEED", -1),
    (*THIN, "MODEL.SUPERNET.SAMPLING", "fair"),
    (*THIN, "TEST.PRECISE_BN.ENABLED", True),
    (*THIN, "TEST.AUG.ENABLED", True),
    (*THIN, "MODEL.BACKBONE.FREEZE_AT", 2),
    (*DILATION, "MODEL.SUPERNET.OPERATIONS", []),
    (*DILATION, "MODEL.SUPERNET.OPERATIONS", [-1]),
    (*DILATION, "MODEL.SUPERNET.OPERATIONS", [0, 0]),
    (*DILATION, "MODEL.SUPERNET.OPERATIONS", ["a"]),
    ("MODEL.BACKBONE.NAME", "build_cr_resnet_nasfpn_backbone", "MODEL.NAS_FPN.NUM_CELLS", 0),
    ("MODEL.WEIGHTS", "none.pth"),
    ("MODEL.WEIGHTS", "/"),
    ("MODEL.WEIGHTS", "s4://bucket/model.pth"),
    ("MODEL.WEIGHTS", "detectron2://nothing/here.pkl"),
    ("OUTPUT_DIR", ""),
    ("OUTPUT_DIR", "/dev/null"),
]


def contents(folder):
    return {path for path in folder.rglob("*")}


def refused(config, *opts, **args):
    """The sentence of a run; the folder of the config is as it was before."""
    before = contents(config.parent)
    args = {"config_file": str(config), "resume": False, "eval_only": False, **args}
    with pytest.raises((ValueError, OSError)) as error:
        setup(argparse.Namespace(opts=list(opts), **args))
    assert contents(config.parent) == before
    return str(error.value)


@pytest.mark.parametrize("case", CASES, ids=lambda case: " ".join(map(str, case[-2:])))
def test_refused(shared_tiny_config, case):
    message = refused(shared_tiny_config, *map(copy.deepcopy, case))
    key, value = case[-2:]
    parent = key.rpartition(".")[0]
    assert key in message or f"{parent}: " in message or repr(value) in message
    assert "\n" not in message


def test_what_a_part_itself_refuses(shared_tiny_config):
    message = refused(shared_tiny_config, "MODEL.FPN.NORM", "GN")
    assert message.startswith("the model of MODEL.META_ARCHITECTURE 'GeneralizedRCNN' and ")
    assert "cannot be built: ValueError: num_channels (16) must be divisible" in message


def test_precomputed_proposals_are_a_part(shared_tiny_config):
    """Fast R-CNN, of which Detectron2 registers no proposal generator."""
    opts = ["MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals", "MODEL.LOAD_PROPOSALS", True]
    assert refused(shared_tiny_config, *opts).startswith("DATASETS.PROPOSAL_FILES_TRAIN is ()")
    check_parts(read_config(str(shared_tiny_config), opts))


def test_the_place_of_a_value_is_told(shared_tiny_config):
    """The command line, or the file that sets it: the config, or one of its bases."""
    key = "SOLVER.CHECKPOINT_PERIOD"
    message = refused(shared_tiny_config, key, 0)
    assert message == f"{key} is 0; expected at least 1; it is set on the command line"
    base = shared_tiny_config.with_name("base.yaml")
    base.write_text("SOLVER: {STEPS: [5, 3]}\nVERSION: 2\n")
    try:
        config = shared_tiny_config.with_name("own.yaml")
        config.write_text(f"_BASE_: [{shared_tiny_config.name}, {base.name}]\n")
        assert refused(config).endswith(f"in ascending order; it is set in {base}")
    finally:
        base.unlink(), config.unlink()
