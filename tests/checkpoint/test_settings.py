"""Settings that weights need: known for each source, and compared with a config."""

import logging
import shlex

import pytest
import torch
import yaml
import zoo_files
from thin_supernets import randomize
from torchvision.models import MobileNet_V2_Weights, ResNet50_Weights, mobilenet_v2, resnet18

import crnas_d2
from crnas_d2.checkpoint.convert import convert
from crnas_d2.checkpoint.description import CONVENTIONS
from crnas_d2.checkpoint.norms import find_norm
from crnas_d2.checkpoint.same_model import flatten_model_config
from crnas_d2.checkpoint.save import save_network
from crnas_d2.checkpoint.seed_network import read_facts, read_seed_network
from crnas_d2.checkpoint.settings import (
    as_command,
    as_header,
    as_yaml,
    check_settings,
    find_contradictions,
    from_header,
    take_settings,
)
from crnas_d2.config import read_config

from detectron2 import model_zoo
from detectron2.modeling import build_model

R_50 = "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"
DETECTOR = "COCO-Detection/faster_rcnn_CR_R_50_FPN_1x.yaml"
BASIC = "COCO-Detection/faster_rcnn_CR_R_18_FPN_1x.yaml"
MNV2 = "COCO-Detection/faster_rcnn_CR_MNV2_FPN_1x.yaml"
C4 = "COCO-Detection/faster_rcnn_CR_R_50_C4_1x.yaml"
DC5 = "COCO-Detection/faster_rcnn_CR_R_50_DC5_1x.yaml"
NAS_FPN = "COCO-Detection/faster_rcnn_CR_R_50_NASFPN_1x.yaml"
CLASSIFIER = "ImageNet/CR_R_50.yaml"

ZOO = {
    "INPUT.FORMAT": "BGR",
    "MODEL.PIXEL_MEAN": "[103.53, 116.28, 123.675]",
    "MODEL.PIXEL_STD": "[1.0, 1.0, 1.0]",
    "MODEL.RESNETS.STRIDE_IN_1X1": "True",
    "MODEL.RESNETS.RES5_DILATION": "1",
    "MODEL.RESNETS.NORM": "FrozenBN",
    "MODEL.FPN.NORM": "",
}
TRAINABLE = ["BN", "SyncBN", "nnSyncBN", "naiveSyncBN", "GN"]


@pytest.mark.parametrize("weights", [ResNet50_Weights, MobileNet_V2_Weights])
@pytest.mark.parametrize("source", ["torchvision", "timm"])
def test_torchvisions_mean_and_std(weights, source):
    preset = weights.IMAGENET1K_V1.transforms()
    convention = CONVENTIONS[source]
    assert convention.input_format == "RGB" and not convention.stride_in_1x1
    assert convention.pixel_mean == pytest.approx([255 * value for value in preset.mean])
    assert convention.pixel_std == pytest.approx([255 * value for value in preset.std])


@pytest.mark.parametrize("source, config", [("msra", zoo_files.FASTER), ("fair", zoo_files.X_101)])
def test_caffe2s_settings_are_those_of_detectron2s_configs(source, config):
    cfg, convention = model_zoo.get_config(config), CONVENTIONS[source]
    assert convention.input_format == cfg.INPUT.FORMAT
    assert list(convention.pixel_mean) == pytest.approx(cfg.MODEL.PIXEL_MEAN)
    assert list(convention.pixel_std) == pytest.approx(cfg.MODEL.PIXEL_STD)
    assert convention.stride_in_1x1 == cfg.MODEL.RESNETS.STRIDE_IN_1X1


def with_norms_in_fpn(name):
    """A config with what the zoo's detectors do not have."""
    cfg = crnas_d2.get_config(name)
    cfg.MODEL.FPN.NORM = "SyncBN"
    return cfg


def refusal(settings, cfg):
    with pytest.raises(ValueError) as error:
        check_settings(settings, cfg, "there/model.pkl")
    return str(error.value)


@pytest.mark.parametrize("key", [key for key in ZOO if "DILATION" not in key])
def test_each_contradiction_has_both_values_and_what_to_add(key, tmp_path):
    """What is printed is taken by a command and by a config file."""
    cfg = with_norms_in_fpn(DETECTOR)
    setting = {key: ZOO[key]}
    here = str(eval(f"cfg.{key}", {"cfg": cfg}))
    head, line, *rest = refusal(setting, cfg).split("\n")
    assert head.startswith("weights there/model.pkl need other settings")
    assert line == f"  {key}: {ZOO[key]!r} in the file, {here!r} in the config"
    assert rest[0] == "Add to the command" and rest[2] == "or to the end of the config file"
    assert "MODEL.INIT.SETTINGS take" in rest[4] and "MODEL.INIT.SETTINGS ignore" in rest[4]

    base, path = tmp_path / "base.yaml", tmp_path / "own.yaml"
    base.write_text(f'_BASE_: "crnas_d2://{DETECTOR}"\nMODEL.FPN.NORM: SyncBN\n')
    path.write_text('_BASE_: "base.yaml"\nMODEL:\n  FPN: {OUT_CHANNELS: 64}\n')
    check_settings(setting, read_config(str(path), shlex.split(rest[1])), "there/model.pkl")
    path.write_text(f"{path.read_text()}{rest[3].strip()}\n")
    cfg = read_config(str(path))
    assert cfg.MODEL.FPN.OUT_CHANNELS == 64
    check_settings(setting, cfg, "there/model.pkl")


def test_all_of_a_zoo_detectors_at_once():
    cfg = with_norms_in_fpn(DETECTOR)
    wanted = {key: value for key, value in ZOO.items() if "DILATION" not in key}
    assert find_contradictions(ZOO, cfg) == wanted
    text = refusal(ZOO, cfg)
    assert as_command(wanted) in text
    assert all(f"\n  {line}\n" in text for line in as_yaml(wanted).split("\n"))

    taken = take_settings(ZOO, cfg, "model.pkl")
    assert "INPUT.FORMAT is 'BGR', which model.pkl needs, and not 'RGB'" in taken
    assert len(taken) == len(wanted)
    assert (cfg.MODEL.RESNETS.NORM, cfg.MODEL.FPN.NORM) == ("FrozenBN", "")
    assert cfg.MODEL.RESNETS.STRIDE_IN_1X1 is True and cfg.MODEL.PIXEL_STD == [1.0, 1.0, 1.0]
    check_settings(ZOO, cfg, "model.pkl")


def test_ignored_on_purpose(caplog):
    cfg = crnas_d2.get_config(DETECTOR)
    cfg.MODEL.INIT.SETTINGS = "ignore"
    with caplog.at_level(logging.WARNING):
        check_settings(ZOO, cfg, "model.pkl")
    assert "INPUT.FORMAT: 'BGR' in the file, 'RGB' in the config" in caplog.text
    assert cfg.INPUT.FORMAT == "RGB"


STRIDE, DILATION = "MODEL.RESNETS.STRIDE_IN_1X1", "MODEL.RESNETS.RES5_DILATION"


@pytest.mark.parametrize(
    "config, without",
    [
        (DETECTOR, {DILATION}),
        (BASIC, {DILATION, STRIDE}),
        (MNV2, {DILATION, STRIDE}),
        (NAS_FPN, {DILATION, "MODEL.FPN.NORM"}),
        (CLASSIFIER, {DILATION, "MODEL.FPN.NORM"}),
        (C4, {DILATION, "MODEL.FPN.NORM", "MODEL.RESNETS.NORM"}),  # as it is
        (DC5, {"MODEL.FPN.NORM", "MODEL.RESNETS.NORM"}),
    ],
)
def test_what_a_model_has_no_use_for_is_not_compared(config, without):
    assert find_contradictions(ZOO, with_norms_in_fpn(config)).keys() == ZOO.keys() - without


@pytest.mark.parametrize(
    "key, value, here, is_same",
    [
        ("MODEL.PIXEL_STD", "[1.0, 1.0, 1.0]", [1, 1, 1], True),
        ("MODEL.PIXEL_STD", "[57.375, 57.12, 58.395]", [57.375, 57.120, 58.395], True),
        ("MODEL.PIXEL_STD", "[57.375, 57.12, 58.395]", [58.395, 57.12, 57.375], False),
        ("MODEL.PIXEL_MEAN", "[103.53, 116.28, 123.675]", [103.5300, 116.28, 123.68], True),
        ("MODEL.PIXEL_MEAN", "[0.0, 0.0, 0.0]", [0, 0, 0], True),
        ("MODEL.PIXEL_MEAN", "[103.53, 116.28, 123.675]", [103.53], False),
        ("MODEL.FPN.NORM", "BN", "SyncBN", True),
        ("MODEL.FPN.NORM", "BN", "GN", False),
        ("MODEL.FPN.NORM", "GN", "GN", True),
        ("MODEL.FPN.NORM", "", "BN", False),
    ],
)
def test_equal_values(key, value, here, is_same):
    cfg = crnas_d2.get_config(DETECTOR)
    cfg.merge_from_list([key, here])
    assert (find_contradictions({key: value}, cfg) == {}) == is_same


def test_a_header_gives_back_what_it_was_given():
    header = as_header(ZOO)
    assert all(isinstance(text, str) and text for text in header.values())
    assert from_header({"format": "x", **header}) == ZOO


def folded(state_dict):
    """As if each norm had been folded into the convolution before it."""
    state_dict = dict(state_dict)
    for name in [name for name in state_dict if name.endswith("running_var")]:
        norm = name.removesuffix("running_var")
        state_dict[f"{norm}bias"] = torch.randn_like(state_dict[f"{norm}bias"])
        state_dict[f"{norm}running_var"] = torch.full_like(state_dict[name], 1 - 1e-5)
    return state_dict


def trained(state_dict):
    return {
        name: torch.rand_like(t) + 0.5 if "running_" in name else t
        for name, t in state_dict.items()
    }


@pytest.mark.parametrize("make", [resnet18, lambda: mobilenet_v2(width_mult=0.25)])
def test_norms_that_were_folded_are_recognised(make):
    norm = "MODEL.RESNETS.NORM"
    assert norm not in convert(make().state_dict())[1].settings
    assert norm not in convert(trained(make().state_dict()))[1].settings
    description = convert(folded(make().state_dict()))[1]
    assert description.settings[norm] == description.arguments["norm"] == "FrozenBN"


@pytest.mark.parametrize("norm", [*TRAINABLE, "FrozenBN"])
@pytest.mark.parametrize("make", [folded, "msra"])
def test_norms_without_statistics_are_refused_for_any_trainable_norm(tmp_path, norm, make):
    path = str(tmp_path / "weights.pth")
    if make == "msra":
        zoo_files.write_zoo_detector(path, zoo_files.FASTER)
    else:
        torch.save(make(resnet18().state_dict()), path)
    settings = {"MODEL.RESNETS.NORM": read_seed_network(path).settings["MODEL.RESNETS.NORM"]}
    cfg = crnas_d2.get_config(BASIC)
    cfg.MODEL.RESNETS.NORM = norm
    if norm == "FrozenBN":
        check_settings(settings, cfg, path)
    else:
        assert f"MODEL.RESNETS.NORM: 'FrozenBN' in the file, '{norm}' in the" in refusal(
            settings, cfg
        )


def test_norms_that_are_not_there():
    state_dict = {
        name: tensor for name, tensor in resnet18().state_dict().items() if ".bn" not in f".{name}"
    }
    state_dict = {n: t for n, t in state_dict.items() if "downsample.1" not in n}
    state_dict["conv1.bias"] = torch.zeros(64)
    with pytest.raises(ValueError, match=r"norms were folded into .* \(stem.conv1.bias, \.\.\.\)"):
        convert(state_dict)


@pytest.mark.parametrize("norm", ["BN", "FrozenBN", "naiveSyncBN_N", "GN", "LN", ""])
def test_a_checkpoint_needs_the_norm_that_it_was_trained_with(tmp_path, norm):
    cfg = crnas_d2.get_config("COCO-Detection/faster_rcnn_R_18_FPN_1x.yaml")
    cfg.MODEL.DEVICE, cfg.MODEL.ROI_BOX_HEAD.FC_DIM = "cpu", 8
    cfg.MODEL.RESNETS.NORM = norm
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = 32
    torch.manual_seed(0)
    model = randomize(build_model(cfg).backbone.bottom_up)
    tensors = {f"backbone.bottom_up.{name}": t for name, t in model.state_dict().items()}
    path = str(tmp_path / "model.pth")
    torch.save({"model": tensors, "model_config": flatten_model_config(cfg)}, path)
    settings = read_facts(path).network.settings
    assert find_contradictions(settings, cfg) == {}
    cfg.MODEL.RESNETS.NORM = "BN"
    expected = {"MODEL.RESNETS.NORM": norm} if norm in ("GN", "LN") else {}
    assert find_contradictions(settings, cfg) == expected


def test_a_single_measured_norm_is_enough_for_any_norm():
    tensors = {
        "a.norm.weight": torch.rand(3),
        "a.norm.bias": torch.rand(3),
        "a.norm.running_mean": torch.zeros(3),
        "a.norm.running_var": torch.ones(3),
    }
    assert find_norm(tensors) == "FrozenBN"
    tensors["b.norm.running_var"] = torch.rand(4)
    tensors["b.norm.running_mean"] = torch.zeros(4)
    assert find_norm(tensors) == ""
    assert find_norm({"a.norm.weight": torch.ones(3), "a.norm.bias": torch.ones(3)}) == "GN"


def write_user_checkpoint(folder, opts=(), config=zoo_files.FASTER):
    """As Detectron2's trainer leaves one: without an author, and with its config beside."""
    cfg = zoo_files.zoo_config(config, opts)
    torch.manual_seed(0)
    model = build_model(cfg)
    for name, tensor in model.state_dict().items():
        if "running_" in name:
            tensor.uniform_(0.5, 1.5)
    torch.save({"model": model.state_dict(), "iteration": 9}, folder / "model_final.pth")
    (folder / "config.yaml").write_text(cfg.dump())
    return str(folder / "model_final.pth")


OTHERS = ["MODEL.PIXEL_STD", [57.0, 57.0, 58.0], "INPUT.FORMAT", "RGB"]


def test_the_config_beside_a_users_checkpoint(tmp_path):
    path = write_user_checkpoint(tmp_path, [*OTHERS, "MODEL.FPN.NORM", "SyncBN"])
    expected = {**ZOO, "INPUT.FORMAT": "RGB", "MODEL.PIXEL_STD": "[57.0, 57.0, 58.0]"}
    del expected["MODEL.RESNETS.NORM"], expected[DILATION]  # they are measured; it has an FPN
    assert read_seed_network(path).settings == {**expected, "MODEL.FPN.NORM": "SyncBN"}
    stated = read_seed_network(path, "torchvision").settings
    assert stated["MODEL.PIXEL_STD"] == "[58.395, 57.12, 57.375]"


def test_nothing_in_the_config_beside_is_run(tmp_path):
    """Detectron2 writes tags for tuples; anybody may write others."""
    path = write_user_checkpoint(tmp_path)
    trace = tmp_path / "trace"
    (tmp_path / "config.yaml").write_text(
        "INPUT: {FORMAT: BGR, MIN_SIZE_TRAIN: !!python/tuple [640, 672]}\n"
        "MODEL:\n  PIXEL_MEAN: !!python/tuple [1.0, 2.0, 3.0]\n  PIXEL_STD: [4.0, 5.0, 6.0]\n"
        "  RESNETS: {STRIDE_IN_1X1: true}\n  OTHER: !mine {a: 1}\n"
        f"X: !!python/object/apply:os.mkdir ['{trace}']\nVERSION: 2\n"
    )
    settings = read_seed_network(path).settings
    assert settings["MODEL.PIXEL_MEAN"] == "[1.0, 2.0, 3.0]"
    assert settings["MODEL.RESNETS.STRIDE_IN_1X1"] == "True"
    assert not trace.exists()


@pytest.mark.parametrize("beside", [None, "a: [", "- 1", "INPUT: {FORMAT: BGR}", "model: {a: 1}"])
def test_an_origin_that_nothing_tells_is_demanded(tmp_path, beside):
    path = write_user_checkpoint(tmp_path)
    if beside is None:
        (tmp_path / "config.yaml").unlink()
    else:
        (tmp_path / "config.yaml").write_text(beside)
    for read in (read_seed_network, read_facts):
        message = (
            "model_final.pth: nothing tells whose weights .* expected MODEL.INIT.SOURCE or --source, "
            "one of torchvision, timm, msra, fair, or the config.yaml"
        )
        with pytest.raises(ValueError, match=message):
            read(path)
    settings = read_seed_network(path, "msra").settings
    unknown = ("MODEL.RESNETS.NORM", DILATION)
    assert settings == {k: v for k, v in ZOO.items() if k not in unknown}
    assert read_facts(path, "msra").network.settings == settings


def test_a_zoo_detector_with_statistics_of_its_own_is_of_nobody_known(tmp_path):
    """Detectron2's zoo has such ones from MSRA's weights, from torchvision's, and from none."""
    path = str(tmp_path / "model_final.pkl")
    opts = ["MODEL.RESNETS.NORM", "BN", "MODEL.FPN.NORM", "BN"]
    model = zoo_files.build_zoo_detector(zoo_files.FASTER, opts)
    with pytest.MonkeyPatch.context() as patch:
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.uniform_()
        patch.setattr(zoo_files, "build_zoo_detector", lambda *args: model)
        zoo_files.write_zoo_detector(path)
    with pytest.raises(ValueError, match="nothing tells whose"):
        read_seed_network(path)
    settings = read_seed_network(path, "torchvision").settings
    assert settings["MODEL.RESNETS.STRIDE_IN_1X1"] == "False"
    assert settings["MODEL.PIXEL_STD"] == "[1.0, 1.0, 1.0]"  # it is in the file
    assert settings["MODEL.FPN.NORM"] == "BN" and "MODEL.RESNETS.NORM" not in settings


def test_group_norms_of_a_zoo_detector(tmp_path):
    path = str(tmp_path / "model_final.pkl")
    opts = ["MODEL.RESNETS.STEM_OUT_CHANNELS", 32, "MODEL.RESNETS.RES2_OUT_CHANNELS", 32]
    opts += ["MODEL.RESNETS.WIDTH_PER_GROUP", 32, "MODEL.FPN.OUT_CHANNELS", 32]
    opts += ["MODEL.RESNETS.NORM", "GN", "MODEL.FPN.NORM", "GN"]
    zoo_files.write_zoo_detector(path, zoo_files.FASTER, opts)
    settings = read_seed_network(path, "fair").settings
    assert settings["MODEL.RESNETS.NORM"] == settings["MODEL.FPN.NORM"] == "GN"


def test_names_of_detectron2_alone_tell_nothing(tmp_path):
    path = str(tmp_path / "weights.pth")
    backbone = zoo_files.build_zoo_detector().backbone.bottom_up.state_dict()
    torch.save(dict(backbone), path)
    with pytest.raises(ValueError, match="weights.pth: nothing tells whose weights these are"):
        read_seed_network(path)
    expected = {k: v for k, v in ZOO.items() if "DILATION" not in k and "FPN" not in k}
    assert read_seed_network(path, "msra").settings == expected


def test_other_means_and_stds_can_be_stated(tmp_path):
    path, out = str(tmp_path / "in.pth"), str(tmp_path / "out.safetensors")
    torch.save(resnet18().state_dict(), path)
    stated = {"pixel_mean": [127.5, 127.5, 127.5], "pixel_std": [127.5, 127.5, 127]}
    seed = read_seed_network(path, **stated)
    description = seed.describe()
    save_network(out, seed)
    for settings in (seed.settings, description.settings, read_seed_network(out).settings):
        assert settings["MODEL.PIXEL_MEAN"] == "[127.5, 127.5, 127.5]"
        assert settings["MODEL.PIXEL_STD"] == "[127.5, 127.5, 127.0]"
    config = yaml.safe_load(yaml.safe_dump(description.config()))
    assert config["MODEL"]["PIXEL_STD"] == [127.5, 127.5, 127.0]


@pytest.mark.parametrize(
    "stated, message",
    [
        ({"pixel_mean": [1, 2]}, r"pixel_mean is \[1, 2\]; expected three"),
        ({"pixel_mean": [1, -2, 3]}, r"pixel_mean is \[1, -2, 3\]; expected three no negative"),
        ({"pixel_std": [1, 0, 1]}, r"pixel_std is \[1, 0, 1\]; expected three positive numbers"),
        ({"pixel_std": [1, float("nan"), 1]}, "pixel_std is"),
        ({"pixel_std": [1, 1, 1, 1]}, "pixel_std is"),
    ],
)
def test_means_and_stds_of_wrong_count_or_sign(tmp_path, stated, message):
    path = str(tmp_path / "in.pth")
    torch.save(resnet18().state_dict(), path)
    with pytest.raises(ValueError, match=message):
        read_seed_network(path, **stated)
