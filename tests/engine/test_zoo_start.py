"""A detector of Detectron2's model zoo, put into a training and an evaluation by its user."""

import json

import pytest
import torch
import zoo_files
from safetensors import safe_open
from safetensors.torch import load_file
from test_train_net import train
from tiny_coco import write_tiny_coco

from crnas_d2.commands import remap as remap_command
from crnas_d2.config import configs_dir

from detectron2.data import MetadataCatalog

COCO = list(MetadataCatalog.get("coco_2017_val").thing_classes)
CR_R_50 = f"{configs_dir()}/COCO-Detection/faster_rcnn_CR_R_50_FPN_1x.yaml"
R_50 = f"{configs_dir()}/COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"
SUPERNET = f"{configs_dir()}/Supernet/stage_supernet_R_50_FPN.yaml"
TAKE = ["MODEL.INIT.SETTINGS", "take"]
REMAP = [*TAKE, "MODEL.INIT.REMAP", True]


def write_data(folder, class_names):
    """Write a tiny dataset; returns the keys of a short training on it."""
    path = write_tiny_coco(folder)
    data = json.loads(path.read_text())
    data["categories"] = [{"id": i, "name": name} for i, name in enumerate(class_names, 1)]
    path.write_text(json.dumps(data))
    keys = {
        **zoo_files.THIN,
        "MODEL.DEVICE": "cpu",
        "DATASETS.COCO_JSON": [[folder.name, str(path), str(folder / "images")]],
        "DATASETS.TRAIN": [folder.name],
        "DATASETS.TEST": [folder.name],
        "INPUT.MIN_SIZE_TRAIN": [64],
        "INPUT.MIN_SIZE_TEST": 64,
        "DATALOADER.NUM_WORKERS": 0,
        "SOLVER.IMS_PER_BATCH": 2,
        "SOLVER.MAX_ITER": 1,
        "SOLVER.STEPS": [],
        "SOLVER.BASE_LR": 1e-9,
        "SOLVER.WEIGHT_DECAY": 0.0,
        "SEED": 1,
        "OUTPUT_DIR": str(folder.parent / "output"),
    }
    return as_opts(keys)


def as_opts(keys):
    return [str(entry) for item in keys.items() for entry in item]


@pytest.fixture
def own(tmp_path, catalogs):
    """Of such data with seven classes, of which COCO has one."""
    return write_data(tmp_path / "own", ["a", "b", "kite", "c", "d", "e", "cell"])


@pytest.fixture
def zoo(tmp_path):
    path = tmp_path / "model_final_280758.pkl"
    model = zoo_files.write_zoo_detector(str(path))
    return model.state_dict(), path


def test_one_command_trains_a_reallocated_network_from_a_zoo_detector(own, zoo, tmp_path, capsys):
    expected, path = zoo
    train(CR_R_50, *own, "MODEL.WEIGHTS", path, *REMAP)
    said = capsys.readouterr().out
    assert "model_final_280758.pkl is remapped; not as they were: res2 (shortened)" in said
    assert "1 of 7 classes have rows of a class of the same name ('kite')" in said
    saved = torch.load(tmp_path / "output" / "model_final.pth", weights_only=True)["model"]
    close = {"rtol": 1e-4, "atol": 1e-6}  # after one step of hardly any length
    for key, tensor in expected.items():
        if "backbone.fpn_" in key or "rpn_head" in key or "box_head" in key:
            torch.testing.assert_close(saved[key], tensor, **close)
    torch.testing.assert_close(
        saved["backbone.bottom_up.res5.6.conv3.weight"],
        expected["backbone.bottom_up.res5.2.conv3.weight"],
        **close,
    )
    name = "roi_heads.box_predictor.cls_score.weight"
    torch.testing.assert_close(saved[name][2], expected[name][COCO.index("kite")], **close)
    torch.testing.assert_close(saved[name][7], expected[name][80], **close)

    with open(tmp_path / "output" / "config.yaml") as file:
        text = file.read()
    assert "FORMAT: BGR" in text and "STRIDE_IN_1X1: true" in text
    train(CR_R_50, "--resume", *own, "MODEL.WEIGHTS", path, *REMAP, "SOLVER.MAX_ITER", 2)
    assert "remapped" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "opts, message",
    [
        ([], "need other settings than those of the config"),
        (
            TAKE,
            r"of another backbone .* MODEL.INIT.REMAP True .* crnas remap .*model_final_280758.pkl",
        ),
        ([*REMAP, "MODEL.CR.BLOCK", "basic"], "of bottleneck blocks.* target is a resnet of basic"),
        ([*REMAP, "MODEL.RESNETS.RES2_OUT_CHANNELS", 32], "weights can be cut .* not widened"),
    ],
)
def test_what_cannot_start_is_refused_before_anything_is_written(own, zoo, tmp_path, opts, message):
    with pytest.raises(ValueError, match=message):
        train(CR_R_50, *own, "MODEL.WEIGHTS", zoo[1], *opts)
    assert not (tmp_path / "output").exists()


def test_a_zoo_detector_is_evaluated_with_the_baselines_codes(own, zoo, tmp_path):
    _, path = zoo
    weights = ["MODEL.WEIGHTS", path, *TAKE]
    with pytest.raises(ValueError, match="MODEL.CLASS_NAMES: 80 in the checkpoint, 7 in the data"):
        train(R_50, "--eval-only", *own, *weights)
    keys = write_data(tmp_path / "coco", COCO)
    with pytest.raises(ValueError, match="MODEL.INIT.REMAP True"):
        train(CR_R_50, "--eval-only", *keys, *weights)
    assert "AP" in train(R_50, "--eval-only", *keys, *weights)["bbox"]


def test_a_whole_detector_is_remapped_into_a_file(own, zoo, tmp_path, capsys):
    expected, path = zoo
    out = str(tmp_path / "cr.safetensors")
    remap_command.main([str(path), out, "--config-file", CR_R_50, *as_opts(zoo_files.THIN)])
    said = capsys.readouterr().out
    assert (
        "as it is: neck (16 tensors)\nas it is: proposal_generator (6 tensors)\nas it is: roi"
        in said
    )
    written = load_file(out)
    rest = {key: t for key, t in expected.items() if ".bottom_up." not in key}
    assert {key for key in written if ".bottom_up." not in key} == rest.keys()
    assert all(torch.equal(written[key], tensor) for key, tensor in rest.items())
    with safe_open(out, "pt") as file:
        header = file.metadata()
    assert header["format"] == "crnas_d2.model"
    assert json.loads(header["class_names"]) == COCO
    assert json.loads(header["stage_code"]) == [1, 3, 5, 7]
    assert header["input_format"] == "BGR"

    train(CR_R_50, *own, "MODEL.WEIGHTS", out, *TAKE)
    said = capsys.readouterr().out
    assert "remapped" not in said and "('kite')" in said
    saved = torch.load(tmp_path / "output" / "model_final.pth", weights_only=True)["model"]
    for key, tensor in written.items():
        if "box_predictor" not in key:
            torch.testing.assert_close(saved[key], tensor, rtol=1e-4, atol=1e-6)


def test_a_supernet_takes_the_file_of_a_whole_detector(own, zoo, tmp_path, capsys):
    expected, path = zoo
    out = str(tmp_path / "supernet.safetensors")
    half = {
        **zoo_files.THIN,
        "MODEL.RESNETS.STEM_OUT_CHANNELS": 4,
        "MODEL.RESNETS.RES2_OUT_CHANNELS": 8,
        "MODEL.RESNETS.WIDTH_PER_GROUP": 2,
        "MODEL.SUPERNET.STAGE_CHOICES": [[1, 3], [4], [2, 6], [3]],
    }
    keys = as_opts(half)
    remap_command.main([str(path), out, "--config-file", SUPERNET, *keys])
    written = load_file(out)
    name = "backbone.fpn_lateral5.weight"
    assert torch.equal(written[name], expected[name][:, :64])
    assert "neck (16 tensors, 4 of them cut)" in capsys.readouterr().out
    train(SUPERNET, *own, *keys, "DATASETS.TEST", [], "MODEL.WEIGHTS", out, *TAKE)
    assert "remapped" not in capsys.readouterr().out
    saved = torch.load(tmp_path / "output" / "model_final.pth", weights_only=True)["model"]
    for key, tensor in written.items():
        if "box_predictor" not in key:
            torch.testing.assert_close(saved[key], tensor, rtol=1e-4, atol=1e-6)
