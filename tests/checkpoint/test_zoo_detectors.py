"""What is read of the detectors in Detectron2's model zoo."""

import pytest
import torch
import zoo_files
from thin_supernets import assert_same

from crnas_d2.checkpoint.seed_network import read_seed_network

from detectron2 import model_zoo
from detectron2.data import MetadataCatalog

CONFIGS = [
    zoo_files.FASTER,
    zoo_files.MASK,
    zoo_files.CASCADE,
    zoo_files.RETINANET,
    zoo_files.C4,
    zoo_files.DC5,
    zoo_files.KEYPOINT,
    zoo_files.X_101,
]


@pytest.mark.parametrize("config", CONFIGS)
def test_a_detector_is_taken_apart(tmp_path, config):
    """Each tensor of Detectron2's model is in the backbone or in the rest; nothing else is."""
    path = str(tmp_path / "model_final.pkl")
    model = zoo_files.write_zoo_detector(path, config)
    seed = read_seed_network(path)

    backbone = getattr(model.backbone, "bottom_up", model.backbone).state_dict()
    if config == zoo_files.C4:
        res5 = model.roi_heads.res5.state_dict()
        backbone.update({f"res5.{name}": tensor for name, tensor in res5.items()})
    assert_same(dict(seed.weights), dict(backbone))
    theirs = model.state_dict()
    rest = {name: t for name, t in theirs.items() if ".stem." not in name and ".res" not in name}
    if "C4" in config or "DC5" in config:
        rest = {name: t for name, t in rest.items() if not name.startswith("backbone.")}
    assert len(rest) + len(backbone) == len(theirs)
    assert_same(dict(seed.rest), rest)
    assert seed.family == "resnet"

    coco = MetadataCatalog.get("coco_2017_val").thing_classes
    assert seed.class_names == (() if config == zoo_files.KEYPOINT else tuple(coco))


@pytest.mark.parametrize("config", CONFIGS)
def test_settings_are_those_of_detectron2s_config(tmp_path, config):
    path = str(tmp_path / "model_final.pkl")
    zoo_files.write_zoo_detector(path, config)
    settings = read_seed_network(path).settings
    cfg = model_zoo.get_config(config)
    for key, value in settings.items():
        assert value == str(eval(f"cfg.{key}", {"cfg": cfg})), key
    assert settings.keys() >= {
        "INPUT.FORMAT",
        "MODEL.PIXEL_MEAN",
        "MODEL.PIXEL_STD",
        "MODEL.RESNETS.STRIDE_IN_1X1",
        "MODEL.RESNETS.NORM",
    }


def test_names_of_other_numbers_of_classes_are_unknown(tmp_path):
    path = str(tmp_path / "model_final.pkl")
    zoo_files.write_zoo_detector(path, zoo_files.RETINANET, ["MODEL.RETINANET.NUM_CLASSES", 20])
    seed = read_seed_network(path)
    assert len(seed.rest["head.cls_score.weight"]) == 9 * 20
    assert seed.class_names == ()
    assert isinstance(seed.rest["head.cls_score.weight"], torch.Tensor)


@pytest.mark.parametrize("config, dilation", [(zoo_files.C4, "1"), (zoo_files.DC5, "2")])
def test_the_dilation_of_res5_is_told_by_its_place(tmp_path, config, dilation):
    path = str(tmp_path / "model_final.pkl")
    zoo_files.write_zoo_detector(path, config)
    assert read_seed_network(path).settings["MODEL.RESNETS.RES5_DILATION"] == dilation
