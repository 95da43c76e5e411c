"""Thin detectors that take the weights of the model zoo, and what they have taken."""

import torch
import zoo_files

import crnas_d2
from crnas_d2.checkpoint import CRCheckpointer

from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model

COCO = list(MetadataCatalog.get("coco_2017_val").thing_classes)
BASELINE = {"MODEL.CR.STAGE_CODE": [3, 4, 6, 3]}
CR_R_50 = {
    "MODEL.CR.STAGE_CODE": [1, 3, 5, 7],
    "MODEL.CR.OPERATION_CODE": [0, 0, 1, 0, 0, 0, 1, 2, 0, 0, 1, 0, 2, 1, 1, 2],
}
# The config of this project for each detector of the zoo
CONFIGS = {
    "FASTER": ("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml", {}),
    "MASK": ("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml", {}),
    "CASCADE": ("COCO-Cascade/cascade_mask_rcnn_R_101_FPN_20e.yaml", BASELINE),
    "RETINANET": ("COCO-Detection/retinanet_R_50_FPN_1x.yaml", {}),
    "C4": ("COCO-Detection/faster_rcnn_R_50_C4_1x.yaml", {}),
    "DC5": ("COCO-Detection/faster_rcnn_R_50_DC5_1x.yaml", {}),
    "X_101": ("COCO-Detection/faster_rcnn_X_101_32x4d_FPN_1x.yaml", zoo_files.THIN_GROUPS),
}
UP_TO_RES4 = {
    "MODEL.RESNETS.OUT_FEATURES": ["res2", "res3", "res4"],
    "MODEL.FPN.IN_FEATURES": ["res2", "res3", "res4"],
    "MODEL.RPN.IN_FEATURES": ["p2", "p3", "p4", "p5"],
    "MODEL.ROI_HEADS.IN_FEATURES": ["p2", "p3", "p4"],
    "MODEL.ANCHOR_GENERATOR.SIZES": [[32], [64], [128], [256]],
}


def thin(network, **changes):
    """The config of a thin detector that takes the zoo's weights; ``network`` is one of CONFIGS."""
    name, own = CONFIGS[network]
    cfg = crnas_d2.get_config(name)
    settings = {
        "MODEL.DEVICE": "cpu",
        "MODEL.BACKBONE.FREEZE_AT": 0,
        "MODEL.RESNETS.NORM": "FrozenBN",
        "MODEL.FPN.NORM": "",
        "MODEL.CLASS_NAMES": COCO,
        "MODEL.INIT.SETTINGS": "ignore",
        **zoo_files.THIN,
        **own,
    }
    cfg.merge_from_list([entry for item in {**settings, **changes}.items() for entry in item])
    return cfg


def fresh(cfg):
    torch.manual_seed(1)
    return build_model(cfg)


def load(cfg, path):
    model = fresh(cfg)
    CRCheckpointer(model, "", cfg).load(str(path))
    return model


def assert_taken(found, expected):
    """The tensors of the second are all in the first, bit for bit."""
    assert expected
    for key, tensor in expected.items():
        assert torch.equal(found[key], tensor), key


def below(tensors, *prefixes):
    return {key: tensor for key, tensor in tensors.items() if key.startswith(prefixes)}
