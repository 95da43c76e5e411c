"""A detector of few channels with random weights, as a training leaves one."""

import os

import torch

from crnas_d2.checkpoint import CRCheckpointer
from crnas_d2.config import configs_dir, read_config
from crnas_d2.engine import CRTrainer

CONFIG = """
_BASE_: "{base}"
MODEL:
  DEVICE: "cpu"
  WEIGHTS: "{weights}"
  CLASS_NAMES: {names}
  SUPERNET: {{STAGE_CHOICES: [[1, 2], [1, 2], [1, 2], [1, 2]]}}
  RESNETS: {{STEM_OUT_CHANNELS: 8, RES2_OUT_CHANNELS: 16, WIDTH_PER_GROUP: 4}}
  FPN: {{OUT_CHANNELS: 16, NORM: "BN"}}
  ANCHOR_GENERATOR: {{SIZES: [[8], [16], [32], [64], [128]]}}
  RPN: {{POST_NMS_TOPK_TEST: 30}}
  ROI_HEADS: {{SCORE_THRESH_TEST: 0.0, NUM_CLASSES: {num_classes}}}
  RETINANET: {{SCORE_THRESH_TEST: 0.0, NUM_CLASSES: {num_classes}, TOPK_CANDIDATES_TEST: 5}}
  ROI_BOX_HEAD: {{FC_DIM: 16}}
  ROI_MASK_HEAD: {{CONV_DIM: 16}}
DATASETS: {{TRAIN: [], TEST: []}}
INPUT: {{MIN_SIZE_TEST: 96}}
"""


def write_detector(folder, base, class_names=("a", "b", "c")):
    """Write detector.yaml and model_final.pth.

    Args:
        folder: that is there.
        base: name of a config that comes with the package.
        class_names: of the detector.

    Returns:
        The path of the config.
    """
    torch.manual_seed(0)
    path = os.path.join(folder, "detector.yaml")
    with open(path, "w", encoding="utf-8") as f:
        f.write(
            CONFIG.format(
                base=os.path.join(configs_dir(), base),
                weights=os.path.join(folder, "model_final.pth"),
                names=list(class_names),
                num_classes=len(class_names),
            )
        )
    cfg = read_config(path)
    model = CRTrainer.build_model(cfg).eval()
    for tensor in model.backbone.state_dict().values():
        if tensor.dim() == 1:  # norms that are no identity
            tensor.uniform_(0.5, 1.0)
    if "retinanet" in base:
        for tensor in model.head.state_dict().values():
            if tensor.dim() == 4:  # or all scores are the prior
                tensor.normal_(std=0.08)
    CRCheckpointer(model, str(folder), cfg).save("model_final", trainer={})
    return path
