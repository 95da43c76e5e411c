import pytest
import torch

import crnas_d2
from crnas_d2.engine import CRTrainer
from crnas_d2.engine.config_check import _choose_device
from crnas_d2.engine.sync_bn import without_needless_sync_bn

from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator, PascalVOCDetectionEvaluator

CONFIG = "COCO-Detection/faster_rcnn_CR_R_18_FPN_1x.yaml"


def test_sync_bn_stays_where_several_gpu_processes_train(monkeypatch):
    cfg = crnas_d2.get_config(CONFIG)
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 2)
    assert without_needless_sync_bn(cfg) is cfg


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_one_process_trains_plain_bn(device):
    cfg = crnas_d2.get_config(CONFIG)
    cfg.MODEL.DEVICE = device
    cfg.MODEL.FPN.NORM = cfg.MODEL.ROI_BOX_HEAD.NORM = "SyncBN"
    cfg.MODEL.RESNETS.NORM = "GN"
    cfg.freeze()
    changed = without_needless_sync_bn(cfg)
    assert (changed.MODEL.FPN.NORM, changed.MODEL.ROI_BOX_HEAD.NORM) == ("BN", "BN")
    assert changed.MODEL.RESNETS.NORM == "GN"
    assert cfg.MODEL.FPN.NORM == "SyncBN"


def test_evaluator_follows_the_dataset(tmp_path):
    cfg = crnas_d2.get_config(CONFIG)
    cfg.OUTPUT_DIR = str(tmp_path)
    json_file = tmp_path / "val.json"
    json_file.write_text('{"images": [], "annotations": [], "categories": []}')
    MetadataCatalog.get("trainer_coco").set(evaluator_type="coco", json_file=str(json_file))
    MetadataCatalog.get("trainer_odd").set(evaluator_type="odd")
    assert isinstance(CRTrainer.build_evaluator(cfg, "trainer_coco"), COCOEvaluator)
    voc = CRTrainer.build_evaluator(cfg, "voc_2007_test")
    assert isinstance(voc, PascalVOCDetectionEvaluator)
    with pytest.raises(ValueError, match="'trainer_odd' has evaluator_type 'odd'"):
        CRTrainer.build_evaluator(cfg, "trainer_odd")


def test_device_is_what_is_there(monkeypatch):
    cfg = crnas_d2.get_config(CONFIG)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    _choose_device(cfg)
    assert cfg.MODEL.DEVICE == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    _choose_device(cfg)
    assert cfg.MODEL.DEVICE == "cpu"
