"""Files as Detectron2's model zoo has them: its own detectors, thin, with random weights."""

import pickle

import torch

from detectron2 import model_zoo
from detectron2.config import CfgNode
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_model

FASTER = "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"
MASK = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"
CASCADE = "Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml"
RETINANET = "COCO-Detection/retinanet_R_50_FPN_1x.yaml"
C4 = "COCO-Detection/faster_rcnn_R_50_C4_1x.yaml"
DC5 = "COCO-Detection/faster_rcnn_R_50_DC5_1x.yaml"
KEYPOINT = "COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x.yaml"
X_101 = "COCO-Detection/faster_rcnn_X_101_32x8d_FPN_3x.yaml"

AUTHOR = "Detectron2 Model Zoo"

# Widths of the thin detectors; a config of ours takes the same keys
THIN = {
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 16,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 4,
    "MODEL.FPN.OUT_CHANNELS": 16,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 16,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 8,
    "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS": [8, 8],
}
THIN_GROUPS = {"MODEL.RESNETS.NUM_GROUPS": 4, "MODEL.RESNETS.WIDTH_PER_GROUP": 2}


def zoo_config(config: str = FASTER, opts=()) -> CfgNode:
    """Detectron2's own config of a detector in its zoo, with few channels, for the CPU; of a ResNeXt,
    with four groups of two.

    Args:
        opts: keys and values in turn, which go before those of the config.
    """
    cfg = model_zoo.get_config(config)
    values = {**THIN, **(THIN_GROUPS if cfg.MODEL.RESNETS.NUM_GROUPS > 1 else {})}
    cfg.merge_from_list([entry for setting in values.items() for entry in setting])
    cfg.MODEL.DEVICE = "cpu"
    cfg.merge_from_list(list(opts))
    return cfg


def build_zoo_detector(config: str = FASTER, opts=(), seed: int = 0) -> torch.nn.Module:
    """Detectron2's model of :func:`zoo_config`, in evaluation mode, whose norms are affine maps as
    MSRA's and FAIR's: no identity, but with mean 0 and variance 1. Its outputs differ from place to
    place, so that it detects many things in any image."""
    torch.manual_seed(seed)
    model = build_model(zoo_config(config, opts)).eval()
    for name, module in model.named_modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.weight.uniform_(0.5, 1.0)
            module.bias.uniform_(-0.2, 0.2)
        elif hasattr(module, "weight") and not name.startswith("backbone."):
            torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if name.endswith(("anchor_deltas", "bbox_pred", "head.cls_score")):
                module.weight.data *= 0.1
    return model


def write_zoo_detector(
    path: str, config: str = FASTER, opts=(), seed: int = 0, author: str = AUTHOR
) -> torch.nn.Module:
    """Write a detector as the zoo has it: pickled arrays with their author, and beside the weights
    the anchors and the pixels' mean and standard deviation.

    Args:
        path: of the file, ``*.pkl``.
        config, opts: see :func:`zoo_config`.
        seed: of the weights.
        author: empty = none is named.

    Returns:
        Detectron2's model, in evaluation mode.
    """
    model = build_zoo_detector(config, opts, seed)
    tensors = {
        **model.state_dict(),
        "pixel_mean": model.pixel_mean,
        "pixel_std": model.pixel_std,
        **{name: buffer for name, buffer in model.named_buffers() if ".cell_anchors." in name},
    }
    content = {"model": {name: tensor.cpu().numpy() for name, tensor in tensors.items()}}
    if author:
        content["__author__"] = author
    with open(path, "wb") as file:
        pickle.dump(content, file)
    return model
