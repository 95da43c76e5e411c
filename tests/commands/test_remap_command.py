"""The command line of crnas remap."""

import json
import shlex
import shutil
from pathlib import Path

import pytest
import torch
import zoo_files
from safetensors import safe_open
from safetensors.torch import load_file
from tiny_coco import write_tiny_coco
from torchvision.models import resnet18
from torchvision.models.resnet import Bottleneck, ResNet

from crnas_d2 import CRMobileNetV2, CRResNet
from crnas_d2.checkpoint import CRCheckpointer
from crnas_d2.checkpoint.remap_report import describe_frozen
from crnas_d2.checkpoint.seed_network import read_seed_network
from crnas_d2.checkpoint.settings import find_contradictions
from crnas_d2.config import configs_dir, read_config

from detectron2.modeling import build_backbone

SUPERNET = f"{configs_dir()}/Digits/stage_supernet_R_18_FPN.yaml"


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.manual_seed(0)
    torch.save(resnet18().state_dict(), path)
    return path


@pytest.fixture
def run(tool, monkeypatch, capsys, tmp_path, weights_file):
    """Run the command in ``tmp_path``, where in.pth is a ResNet18; returns what it prints."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(weights_file, "in.pth")

    def run(*args):
        tool.main(args)
        return capsys.readouterr().out

    return run


def cells(printed):
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in printed.splitlines()]


def test_codes(run):
    printed = run("in.pth", "out.safetensors", "--stage-code", "1", "1", "2", "4")
    assert ["res5", "0-1, 1 x 2", "25", "20", "0", "0", "0"] in cells(printed)
    assert "not used of the seed network: res2.1, res3.1" in printed
    weights = load_file("out.safetensors")
    elements = sum(tensor.numel() for tensor in weights.values())
    assert f"tensors: {len(weights)} with {elements:,} elements, written to out.saf" in printed
    assert "INPUT.FORMAT: RGB" in printed and "MODEL.PIXEL_STD: [58.395, 57.12, 57.375]" in printed
    CRResNet((1, 1, 2, 4), block="basic").load_state_dict(weights, strict=True)
    layer = torch.load("in.pth")["layer4.1.conv2.weight"]
    for block in (1, 2, 3):
        assert torch.equal(weights[f"res5.{block}.conv2.weight"], layer)
    run("out.safetensors", "back.safetensors", "--stage-code", "1", "1", "2", "2")
    back = load_file("back.safetensors")
    assert all(torch.equal(back[name], weights[name]) for name in back)


def test_a_config_with_keys(run):
    """The supernet has a quarter of the channels, and one stage that may be deeper."""
    choices = ["MODEL.SUPERNET.STAGE_CHOICES", "[[1], [1], [2], [2, 5]]"]
    printed = run("in.pth", "out.safetensors", *choices, "--config-file", SUPERNET)
    assert ["res5.ops.5", "0-1, 1 x 3", "25", "30", "0", "0", "55"] in cells(printed)
    assert "settings that the weights need" not in printed
    cfg = read_config(SUPERNET, choices)
    supernet = build_backbone(cfg).bottom_up
    CRCheckpointer(supernet, ".", cfg).load("out.safetensors")
    expected = torch.load("in.pth")["layer4.1.bn2.running_var"][:128]
    assert torch.equal(supernet.res5.ops["5"][4].conv2.norm.running_var, expected)
    with safe_open("out.safetensors", "pt") as file:
        parts = json.loads(file.metadata()["remap"])["parts"]
    assert [part["part"] for part in parts][-2:] == ["res5.ops.2", "res5.ops.5"]


def test_settings_that_differ_are_told(run):
    """In a form that a config file takes, and in one that a command takes."""
    printed = run("in.pth", "out.safetensors", "--config-file", SUPERNET, "INPUT.FORMAT", "BGR")
    told = printed.split("settings that the weights need, and the config does not have")[1]
    assert told.splitlines()[1:] == [
        "INPUT.FORMAT: RGB",
        "or behind a command:",
        "INPUT.FORMAT RGB",
    ]


def test_frozen_changes_are_told(run):
    cfg = "COCO-Detection/faster_rcnn_CR_R_18_FPN_1x.yaml"
    keys = ["MODEL.BACKBONE.FREEZE_AT", "2"]
    printed = run("in.pth", "a.safetensors", "--config-file", cfg, *keys).splitlines()
    line = next(line for line in printed if "would freeze" in line)
    assert line.startswith("MODEL.BACKBONE.FREEZE_AT 2 would freeze ")
    assert line.endswith(": res2 (shortened). Train with")
    assert printed[printed.index(line) + 1] == "MODEL.BACKBONE.FREEZE_AT 1"

    assert "would freeze" not in run("in.pth", "b.safetensors", "--config-file", cfg)
    code = ["--stage-code", "1", "1", "2", "4"]  # with Detectron2's default
    assert "FREEZE_AT 2 would freeze" in run("in.pth", "c.safetensors", *code)
    code = ["--stage-code", "2", "1", "2", "4"]
    assert "would freeze" not in run("in.pth", "d.safetensors", *code)


@pytest.mark.parametrize(
    "changes, family, freeze_at, frozen, best",
    [
        (["res2", "res4"], "resnet", 5, ["res2", "res4"], 1),
        (["res3"], "resnet", 2, [], None),
        (["stem", "res2"], "resnet", 2, ["stem", "res2"], 0),
        (["c16"], "mobilenetv2", 2, ["c16"], 1),
        (["c24", "c32"], "mobilenetv2", 2, ["c24"], 1),
        (["c96"], "mobilenetv2", 3, [], None),
        (["c96"], "mobilenetv2", 4, ["c96"], 3),
        (["res2"], "resnet", 0, [], None),
    ],
)
def test_frozen_stages_are_counted_as_the_backbones_do(changes, family, freeze_at, frozen, best):
    text = describe_frozen(dict.fromkeys(changes, "cut"), family, freeze_at)
    if not frozen:
        assert text == ""
        return
    assert text.endswith(
        f"{', '.join(f'{n} (cut)' for n in frozen)}. Train with\nMODEL.BACKBONE.FREEZE_AT {best}"
    )
    network = {
        "resnet": CRResNet((1, 1, 1, 1), block="basic", freeze_at=best),
        "mobilenetv2": CRMobileNetV2([1] * 10, freeze_at=best),
    }[family]
    for name in changes:  # with the key, no changed stage is frozen in the network itself
        assert all(parameter.requires_grad for parameter in getattr(network, name).parameters())


def test_what_nothing_is_there_for_is_drawn_from_the_seed(run):
    torch.save(ResNet(Bottleneck, [1, 1, 1, 1]).state_dict(), "short.pth")
    drawn = []
    for name, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        output = f"{name}.safetensors"
        printed = run("short.pth", output, "--init-seed", seed, "--stage-code", "1", "1", "1", "2")
        drawn.append(load_file(output)["res5.1.conv1.weight"])
        assert ["res5", "0, none x 1", "20", "0", "0", "15", "0"] in cells(printed)
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    assert drawn[0].std() > 0


def test_operation_code_and_function_preserving(run, refused):
    codes = ["--stage-code", "2", "2", "2", "3", "--operation-code", *"001000012"]
    printed = run("in.pth", "out.safetensors", *codes, "--function-preserving")
    assert ["res5", "0-1, 1 x 1", "25", "8", "2", "0", "0"] in cells(printed)
    weights = load_file("out.safetensors")
    assert not weights["res5.2.conv2.norm.weight"].any()
    name = "res5.2.conv2.weight"  # of dilation 3, so that 1/9 of a corner stays at its place
    run("in.pth", "c.safetensors", *codes, "--interpolate-dilated")
    corner = load_file("c.safetensors")[name][..., 0, 0]
    torch.testing.assert_close(corner, weights[name][..., 0, 0] / 9)
    with refused("operation code .* has 1 entries; expected 9"):
        run("in.pth", "b.safetensors", *codes[:5], "--operation-code", "1")


def test_the_rules_are_options_or_keys_of_the_config(run):
    network = ["--config-file", f"{configs_dir()}/COCO-Detection/faster_rcnn_CR_R_18_FPN_1x.yaml"]
    network += ["MODEL.ROI_BOX_HEAD.FC_DIM", "8"]
    run("in.pth", "a.safetensors", *network, "--function-preserving", "--interpolate-dilated")
    keys = ["MODEL.INIT.FUNCTION_PRESERVING", "True", "MODEL.INIT.INTERPOLATE_DILATED", "True"]
    run("in.pth", "b.safetensors", *network, *keys)
    weights, same = load_file("a.safetensors"), load_file("b.safetensors")
    assert not weights["res5.3.conv2.norm.weight"].any()
    assert all(torch.equal(weights[name], same[name]) for name in weights)


def test_an_output_is_replaced_only_with_overwrite(run, refused):
    out = Path("out.safetensors")
    out.write_bytes(b"before")
    code = ["--stage-code", "1", "1", "2", "4"]
    with refused("out.safetensors exists; .* --overwrite"):
        run("in.pth", "out.safetensors", *code)
    assert out.read_bytes() == b"before"
    run("in.pth", "out.safetensors", *code, "--overwrite")
    assert len(load_file("out.safetensors")) == 100
    assert sorted(path.name for path in Path().iterdir()) == ["in.pth", "out.safetensors"]


@pytest.mark.parametrize(
    "args, message",
    [
        (["absent.pth", "a.safetensors", "--stage-code", "1", "1", "1", "1"], "no file absent.pth"),
        (["in.pth", "a.pth", "--stage-code", "1", "1", "1", "1"], "a.pth'; expected a local file"),
        (["in.pth", "no/a.safetensors", "--stage-code", "1"], "there is no such folder"),
        (["in.pth", "a.safetensors", "--stage-code", "1", "2"], "has 2 entries; expected 4"),
        (["in.pth", "a.safetensors", "--config-file", "absent.yaml"], "'absent.yaml': no such"),
        (
            ["in.pth", "a.safetensors", "--config-file", SUPERNET, "MODEL.CR.BLOCK", "bottleneck"],
            "of basic blocks, .* the target is a resnet of bottleneck blocks",
        ),
    ],
)
def test_errors_are_one_message_and_leave_no_file(run, refused, args, message):
    with refused(message):
        run(*args)
    assert [path.name for path in Path().iterdir()] == ["in.pth"]


@pytest.mark.parametrize(
    "args, message",
    [
        (
            ["in.pth", "a.safetensors"],
            "one of the arguments --config-file --stage-code is required",
        ),
        (
            ["in.pth", "a.safetensors", "A", "1", "--stage-code", "1"],
            "A 1: keys and values go with",
        ),
        (
            ["in.pth", "a.safetensors", "--config-file", "x", "--operation-code", "1"],
            "--operation-code goes with --stage-code",
        ),
    ],
)
def test_usage(run, capsys, args, message):
    with pytest.raises(SystemExit):
        run(*args)
    assert message in capsys.readouterr().err


def test_settings_of_a_zoo_detector_are_taken_and_told(run):
    """The network is filled as it will be trained; what the training needs is printed."""
    zoo_files.write_zoo_detector("model_final.pkl")
    widths = [str(entry) for setting in zoo_files.THIN.items() for entry in setting]
    cfg = "COCO-Detection/faster_rcnn_CR_R_50_FPN_1x.yaml"
    printed = run("model_final.pkl", "out.safetensors", "--config-file", cfg, *widths)
    line = printed.split("or behind a command:\n")[1].splitlines()[0]
    opts = [*widths, *shlex.split(line), "MODEL.WEIGHTS", "out.safetensors"]
    settings = read_seed_network("out.safetensors").settings
    assert find_contradictions(settings, read_config(cfg, opts)) == {}
    with safe_open("out.safetensors", "pt") as file:
        header = file.metadata()
    assert header["input_format"] == "BGR" and header["norm"] == "FrozenBN"
    stated = ["--pixel-std", "2", "2", "2"]
    run("model_final.pkl", "b.safetensors", "--stage-code", "3", "4", "6", "3", *stated)
    stated = read_seed_network("b.safetensors").settings
    assert stated == {**stated, "MODEL.PIXEL_STD": "[2.0, 2.0, 2.0]", "INPUT.FORMAT": "BGR"}


@pytest.fixture
def match(run, tmp_path):
    """Remap in.pth into CR-ResNet18, in steps of two images of 64 pixels."""
    cfg = "COCO-Detection/faster_rcnn_CR_R_18_FPN_1x.yaml"
    keys = ["SOLVER.IMS_PER_BATCH", "2", "INPUT.MIN_SIZE_TRAIN", "(64,)"]
    write_tiny_coco(tmp_path / "tiny")

    def match(output, steps, *more):
        options = ["--match-features", steps, "--config-file", cfg]
        return run("in.pth", output, *options, *keys, *more)

    return match


def test_features_are_matched(match, run, tmp_path):
    """On a folder, and on the images of the training, which are the same; the norms' statistics
    and all layers change, those that will be frozen too."""
    folder = ["--images", f"{tmp_path}/tiny/images"]
    printed = match("a.safetensors", "2", *folder)
    assert "matching to the features of in.pth, 2 steps" in printed
    line = next(line for line in printed.splitlines() if "error of the features" in line)
    first, last = (float(word) for word in line.split(": ")[1].split(" -> "))
    assert 0 < first < 2 and 0 < last < 2
    run("in.pth", "plain.safetensors", "--stage-code", "1", "1", "2", "4")
    plain, matched = load_file("plain.safetensors"), load_file("a.safetensors")
    assert plain.keys() == matched.keys()
    assert not any(torch.equal(plain[k], matched[k]) for k in plain if k.endswith("conv1.weight"))

    data = str([["tiny_match", f"{tmp_path}/tiny/annotations.json", f"{tmp_path}/tiny/images"]])
    data = ["DATASETS.COCO_JSON", data, "DATASETS.TRAIN", "('tiny_match',)", "DATASETS.TEST", "()"]
    match("b.safetensors", "2", *data)
    again = load_file("b.safetensors")
    assert all(torch.equal(again[name], matched[name]) for name in matched)
    match("c.safetensors", "2", *folder, "--init-seed", "1")
    other = load_file("c.safetensors")
    assert not all(torch.equal(other[name], matched[name]) for name in matched)


def test_statistics_alone_are_matched(match, run, tmp_path):
    match("a.safetensors", "0", "--images", f"{tmp_path}/tiny/images")
    run("in.pth", "plain.safetensors", "--stage-code", "1", "1", "2", "4")
    plain, matched = load_file("plain.safetensors"), load_file("a.safetensors")
    same = {"rtol": 1e-3, "atol": 1e-5}
    changed = {n for n in plain if not torch.allclose(plain[n], matched[n], **same)}
    assert {name.rpartition(".")[2] for name in changed} == {"running_mean", "running_var"}
    assert not any(name.startswith(("stem.", "res2.")) for name in changed)  # as it was until there
    assert "res3.0.conv1.norm.running_mean" in changed


@pytest.mark.parametrize(
    "args, words",
    [
        (["--images", "x"], "--images goes with --match-features"),
        (["--match-features", "2"], "--match-features goes with --config-file"),
        (["--match-features", "-1"], "--match-features is -1; expected 0 or more steps"),
    ],
)
def test_what_cannot_be_matched(run, capsys, args, words):
    with pytest.raises(SystemExit):
        run("in.pth", "out.safetensors", "--stage-code", "1", "1", "2", "4", *args)
    assert words in capsys.readouterr().err
    assert not Path("out.safetensors").exists()


def test_no_features_of_a_supernet_are_matched(run, capsys, tmp_path):
    write_tiny_coco(tmp_path / "tiny")
    options = ["--match-features", "1", "--images", f"{tmp_path}/tiny/images"]
    keys = ["SOLVER.IMS_PER_BATCH", "1", "INPUT.MIN_SIZE_TRAIN", "(64,)"]
    with pytest.raises(SystemExit):
        run("in.pth", "out.safetensors", *options, "--config-file", SUPERNET, *keys)
    assert "the target is a supernet; expected one network" in capsys.readouterr().err
    assert not Path("out.safetensors").exists()
