"""The command line of crnas convert."""

from pathlib import Path

import pytest
import torch
import yaml
import zoo_files
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torchvision.models import mobilenet_v2, resnet18

import crnas_d2
from crnas_d2 import add_crnas_config
from crnas_d2.checkpoint import CRCheckpointer
from crnas_d2.config import read_config

from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_backbone, build_model


@pytest.fixture
def run(tool, monkeypatch, capsys, tmp_path):
    """Run the command in ``tmp_path``; returns what it prints."""
    monkeypatch.chdir(tmp_path)

    def run(*args):
        tool.main(args)
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize(
    "make, builder", [(resnet18, "resnet"), (lambda: mobilenet_v2(width_mult=0.5), "mobilenetv2")]
)
def test_the_printed_config_builds_the_network_of_the_file(run, make, builder):
    peer = make().eval()
    save_file(peer.state_dict(), "in.safetensors")
    printed = run("in.safetensors", "out.safetensors").split("\n\n")[-1]
    assert yaml.safe_load(printed)["MODEL"]["WEIGHTS"] == "out.safetensors"

    cfg = get_cfg()
    add_crnas_config(cfg)
    cfg.MODEL.BACKBONE.NAME = f"build_cr_{builder}_backbone"
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res5"]
    cfg.merge_from_other_cfg(CfgNode(yaml.safe_load(printed)))
    assert cfg.INPUT.FORMAT == "RGB" and cfg.MODEL.PIXEL_STD[0] == 58.395
    backbone = build_backbone(cfg).eval()
    CRCheckpointer(backbone, ".", cfg).load(cfg.MODEL.WEIGHTS)

    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        feature = backbone(images)["res5"].mean((2, 3))
        scores = peer.fc(feature) if builder == "resnet" else peer.classifier(feature)
        torch.testing.assert_close(scores, peer(images), rtol=1e-5, atol=1e-5)


def test_the_summary_tells_what_was_read(run):
    torch.save(resnet18().state_dict(), "in.pth")
    printed = run("in.pth", "out.safetensors", "--source", "timm")
    assert "resnet of timm: block basic, stage_code [2, 2, 2, 2], stem_out_channels 64" in printed
    elements = sum(t.numel() for t in load_file("out.safetensors").values())
    assert f"tensors: 100 with {elements:,} elements, written to out.safetensors" in printed
    assert "dropped: fc.weight, fc.bias" in printed
    with safe_open("out.safetensors", "pt") as file:
        assert file.metadata()["source"] == "timm"


def test_a_detector_of_the_zoo_as_a_whole(run):
    """With the printed config, MODEL.WEIGHTS takes all of it."""
    theirs = zoo_files.write_zoo_detector("model_final.pkl", zoo_files.MASK)
    printed = run("model_final.pkl", "out.safetensors")
    assert (
        "network: resnet of Detectron2 Model Zoo: block bottleneck, stage_code [3, 4, 6" in printed
    )
    parts = (
        "neck, proposal_generator, roi_heads.box_head, roi_heads.box_predictor, roi_heads.mask_head"
    )
    assert f"beside it: {parts}\nclasses: person, bicycle, car, " in printed
    assert f"tensors: {len(theirs.state_dict())} with " in printed

    cfg = crnas_d2.get_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml")
    cfg.merge_from_list([entry for setting in zoo_files.THIN.items() for entry in setting])
    cfg.merge_from_other_cfg(CfgNode(yaml.safe_load(printed.split("\n\n")[-1])))
    cfg.MODEL.DEVICE = "cpu"
    model = build_model(cfg)
    CRCheckpointer(model, ".", cfg).load(cfg.MODEL.WEIGHTS)
    ours, expected = model.state_dict(), theirs.state_dict()
    assert ours.keys() == expected.keys()
    assert all(torch.equal(ours[name], expected[name]) for name in expected)
    assert cfg.MODEL.PIXEL_STD == [1.0, 1.0, 1.0] and cfg.MODEL.FPN.NORM == ""


def test_a_checkpoint_of_a_training(run):
    cfg = crnas_d2.get_config("COCO-Detection/faster_rcnn_CR_R_18_FPN_1x.yaml")
    values = {"MODEL.ROI_HEADS.NUM_CLASSES": 2, "MODEL.CLASS_NAMES": ["cat", "dog"]}
    values |= zoo_files.THIN | {"MODEL.RESNETS.RES2_OUT_CHANNELS": 8, "MODEL.DEVICE": "cpu"}
    cfg.merge_from_list([entry for setting in values.items() for entry in setting])
    trained = build_model(cfg)
    CRCheckpointer(trained, ".", cfg).save("model_final")
    assert "classes: cat, dog" in run("model_final.pth", "out.safetensors")
    model = build_model(cfg)
    CRCheckpointer(model, ".", cfg).load("out.safetensors")
    for name, tensor in trained.state_dict().items():
        assert name.endswith("num_batches_tracked") or torch.equal(model.state_dict()[name], tensor)


def test_the_entry_and_the_prefix_of_a_training_checkpoint(run, refused):
    plain, average = resnet18().state_dict(), resnet18().state_dict()
    named = {f"module.encoder_q.{key}": tensor for key, tensor in plain.items()}
    named["module.queue"] = torch.ones(2)
    torch.save({"state_dict": named, "state_dict_ema": average}, "in.pth.tar")
    run("in.pth.tar", "out.safetensors", "--prefix", "encoder_q")
    assert torch.equal(load_file("out.safetensors")["stem.conv1.weight"], plain["conv1.weight"])
    run("in.pth.tar", "out.safetensors", "--prefix", "state_dict_ema", "--overwrite")
    assert torch.equal(load_file("out.safetensors")["stem.conv1.weight"], average["conv1.weight"])
    with refused("begins with 'backbone.'; expected one of encoder_q."):
        run("in.pth.tar", "x.safetensors", "--prefix", "backbone")
    with refused("in.pth.tar: .* begin with 'encoder_q.'; .*--prefix encoder_q. takes"):
        run("in.pth.tar", "x.safetensors")


def test_an_output_is_replaced_only_with_overwrite(run, refused):
    torch.save(resnet18().state_dict(), "in.pth")
    out = Path("out.safetensors")
    out.write_bytes(b"before")
    with refused("out.safetensors exists; .* --overwrite"):
        run("in.pth", "out.safetensors")
    assert out.read_bytes() == b"before"
    run("in.pth", "out.safetensors", "--overwrite")
    assert len(load_file("out.safetensors")) == 100
    assert sorted(path.name for path in Path().iterdir()) == ["in.pth", "out.safetensors"]


def test_errors_are_one_message_and_leave_no_file(run, refused):
    state_dict = resnet18().state_dict()
    del state_dict["layer1.1.bn2.bias"]
    torch.save(state_dict, "in.pth")
    with refused(r"in.pth: .*1 missing: res2.1.conv2.norm.bias"):
        run("in.pth", "out.safetensors")
    with refused("there is no file absent.pth"):
        run("absent.pth", "out.safetensors")
    assert [path.name for path in Path().iterdir()] == ["in.pth"]


def test_means_and_stds_that_are_stated(run, capsys):
    torch.save(resnet18().state_dict(), "in.pth")
    stated = ["--pixel-mean", "127.5", "127", "126", "--pixel-std", "1", "2", "3"]
    config = yaml.safe_load(run("in.pth", "out.safetensors", *stated).split("\n\n")[-1])
    assert config["MODEL"]["PIXEL_MEAN"] == [127.5, 127, 126]
    with safe_open("out.safetensors", "pt") as file:
        assert file.metadata()["pixel_std"] == "[1.0, 2.0, 3.0]"
    with pytest.raises(SystemExit):
        run("in.pth", "b.safetensors", "--pixel-std", "1", "2")
    assert "--pixel-std: expected 3 arguments" in capsys.readouterr().err


def test_settings_that_cannot_be_are_refused(run, refused):
    torch.save(resnet18().state_dict(), "in.pth")
    with refused(r"pixel_std is \[1.0, -2.0, 3.0\]; expected three positive numbers"):
        run("in.pth", "out.safetensors", "--pixel-std", "1", "-2", "3")
    assert not Path("out.safetensors").exists()


def test_the_backbone_of_a_zoo_detector(run):
    """With the settings of Detectron2's config of it."""
    zoo_files.write_zoo_detector("model_final.pkl", zoo_files.X_101)
    printed = run("model_final.pkl", "out.safetensors")
    assert "network: resnet of Detectron2 Model Zoo: block bottleneck" in printed
    config = yaml.safe_load(printed.split("\n\n")[-1])
    theirs = zoo_files.zoo_config(zoo_files.X_101)
    assert config["INPUT"]["FORMAT"] == theirs.INPUT.FORMAT
    assert config["MODEL"]["PIXEL_STD"] == theirs.MODEL.PIXEL_STD
    for key in ("STRIDE_IN_1X1", "NUM_GROUPS", "WIDTH_PER_GROUP", "NORM"):
        assert config["MODEL"]["RESNETS"][key] == theirs.MODEL.RESNETS[key]


def test_dilations_of_a_reallocated_network_stay_in_the_config(run, tmp_path):
    cfg = read_config("ImageNet/CR_R_18.yaml", ["MODEL.DEVICE", "cpu"])
    cfg.MODEL.RESNETS.update(STEM_OUT_CHANNELS=8, RES2_OUT_CHANNELS=8)
    CRCheckpointer(build_model(cfg), str(tmp_path), cfg).save("in")
    config = yaml.safe_load(run("in.pth", "out.safetensors").split("\n\n")[-1])
    assert config["MODEL"]["CR"]["STAGE_CODE"] == cfg.MODEL.CR.STAGE_CODE
    assert config["MODEL"]["CR"]["OPERATION_CODE"] == cfg.MODEL.CR.OPERATION_CODE
    assert any(cfg.MODEL.CR.OPERATION_CODE)
