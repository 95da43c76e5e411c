"""What detectors of Detectron2's model zoo see, as models of this project and of Detectron2 itself."""

import numpy as np
import pytest
import torch
import zoo_files

from crnas_d2.config import read_config
from crnas_d2.engine.predicting import Predictor

from detectron2.engine import DefaultPredictor

BASELINE = ["MODEL.CR.STAGE_CODE", "[3, 4, 6, 3]"]
NETWORKS = {
    "FASTER": ("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml", []),
    "MASK": ("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml", []),
    "CASCADE": ("COCO-Cascade/cascade_mask_rcnn_R_101_FPN_20e.yaml", BASELINE),
    "RETINANET": ("COCO-Detection/retinanet_R_50_FPN_1x.yaml", []),
    "C4": ("COCO-Detection/faster_rcnn_R_50_C4_1x.yaml", []),
    "DC5": ("COCO-Detection/faster_rcnn_R_50_DC5_1x.yaml", []),
    "X_101": ("COCO-Detection/faster_rcnn_X_101_32x4d_FPN_1x.yaml", []),
}


@pytest.fixture(scope="module")
def photographs():
    load = pytest.importorskip("sklearn.datasets").load_sample_images
    return [image[:, :, ::-1] for image in load().images]  # BGR


@pytest.mark.parametrize("network", NETWORKS)
def test_detections_are_detectron2s_own_to_the_last_digit(tmp_path, photographs, network):
    path, config = str(tmp_path / "model_final.pkl"), getattr(zoo_files, network)
    zoo_files.write_zoo_detector(path, config)
    opts = ["MODEL.WEIGHTS", path, "INPUT.MIN_SIZE_TEST", "160", "MODEL.DEVICE", "cpu"]
    theirs = zoo_files.zoo_config(config, opts)
    name, own = NETWORKS[network]
    groups = zoo_files.THIN_GROUPS if network == "X_101" else {}
    for key, value in {**zoo_files.THIN, **groups}.items():
        opts += [key, str(value)]
    settings = {
        "INPUT.FORMAT": theirs.INPUT.FORMAT,
        "MODEL.PIXEL_MEAN": theirs.MODEL.PIXEL_MEAN,
        "MODEL.PIXEL_STD": theirs.MODEL.PIXEL_STD,
        "MODEL.RESNETS.STRIDE_IN_1X1": theirs.MODEL.RESNETS.STRIDE_IN_1X1,
        "MODEL.RESNETS.NORM": theirs.MODEL.RESNETS.NORM,
        "MODEL.FPN.NORM": theirs.MODEL.FPN.NORM,
    }
    for key, value in settings.items():
        opts += [key, str(value)]

    expected, found = DefaultPredictor(theirs), Predictor(read_config(name, opts + own))
    for image in photographs:
        one, other = expected(image)["instances"], found(image)["instances"]
        assert len(one) == len(other) > 50
        assert len(one.scores.unique()) > 20
        assert torch.equal(one.pred_boxes.tensor, other.pred_boxes.tensor)
        assert torch.equal(one.scores, other.scores)
        assert torch.equal(one.pred_classes, other.pred_classes)
        assert one.has("pred_masks") == other.has("pred_masks") == (network in ("MASK", "CASCADE"))
        if one.has("pred_masks"):
            assert torch.equal(one.pred_masks, other.pred_masks)
            assert 0 < np.mean(one.pred_masks.numpy()) < 1
