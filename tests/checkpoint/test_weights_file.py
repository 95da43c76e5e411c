"""The reader of weights: every container and wrapper, and what it says of all other files."""

import argparse
import collections
import datetime
import logging
import pathlib
import pickle
import types

import numpy as np
import pytest
import safetensors.torch
import torch
from containers import CONTAINERS, arrays, assert_same, small
from omegaconf import OmegaConf
from torch import nn
from torchvision.models import mobilenet_v2, resnet18

from crnas_d2 import CRResNet, add_crnas_config
from crnas_d2.checkpoint import CRCheckpointer
from crnas_d2.checkpoint.weights_file import read_weights_file

from detectron2.config import get_cfg


@pytest.fixture(scope="module")
def state_dict():
    torch.manual_seed(0)
    return mobilenet_v2(width_mult=0.1, num_classes=3).state_dict()


@pytest.mark.parametrize("write", CONTAINERS.values(), ids=CONTAINERS)
def test_every_container_under_every_name(tmp_path, state_dict, write):
    plain = dict(sorted(state_dict.items()))  # as safetensors keeps no order
    for ending in ("", ".pth", ".pt", ".pyth", ".ckpt", ".bin", ".pkl", ".safetensors"):
        path = tmp_path / f"weights{ending}"
        write(plain, path)
        file = read_weights_file(str(path))
        assert_same(dict(sorted(file.tensors.items())), plain)
        assert file.path == str(path)
        path.unlink()


def test_header_author_and_config(tmp_path):
    path = str(tmp_path / "x")
    safetensors.torch.save_file(small(), path, {"format": "pt", "family": "resnet"})
    assert read_weights_file(path).header == {"format": "pt", "family": "resnet"}
    content = {"model": arrays(small()), "__author__": "Detectron2 Model Zoo"}
    (tmp_path / "x").write_bytes(pickle.dumps(content))
    file = read_weights_file(path)
    assert (file.author, file.header, file.model_config) == ("Detectron2 Model Zoo", {}, {})
    torch.save({"model": small(), "model_config": {"INPUT.FORMAT": "BGR"}}, path)
    file = read_weights_file(path)
    assert (file.author, file.model_config) == ("", {"INPUT.FORMAT": "BGR"})
    assert read_weights_file(path, "encoder.").tensors.keys() == small().keys()
    for others in ({"depth": 50}, {"MODEL.DEPTH": 50}, {"arch": "resnet50"}, {50: "layers"}, "r50"):
        torch.save({"model": small(), "model_config": others}, path)
        assert read_weights_file(path).model_config == {}


def test_tensors_of_a_zip_stay_in_the_file(tmp_path):
    """So that a large file is not held twice."""
    tensors = {"a": torch.randn(1000, 1000)}
    torch.save(tensors, tmp_path / "x.pth")
    read = read_weights_file(str(tmp_path / "x.pth")).tensors["a"]
    mapped = pathlib.Path("/proc/self/maps").read_text()
    assert str(tmp_path / "x.pth") in mapped
    read.zero_()
    assert torch.equal(torch.load(tmp_path / "x.pth")["a"], tensors["a"])


# Wrappers ------------------------------------------------------------------------------------------


def prefixed(prefix, tensors):
    return {f"{prefix}{key}": tensor for key, tensor in tensors.items()}


WRAPPED = {
    "plain PyTorch": lambda t: {"epoch": 3, "model_state_dict": t, "loss": 0.1},
    "ImageNet example": lambda t: {
        "epoch": 3,
        "arch": "resnet50",
        "state_dict": prefixed("module.", t),
        "best_acc1": torch.tensor(70.0),
        "optimizer": {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": []},
    },
    "Lightning": lambda t: {
        "state_dict": prefixed("model.", t),
        "hyper_parameters": {"lr": 0.1},
        "pytorch-lightning_version": "2.0",
    },
    "mmdet": lambda t: {"meta": {"CLASSES": ("cat",)}, "state_dict": collections.OrderedDict(t)},
    "DETR": lambda t: {"model": t, "optimizer": {}, "args": argparse.Namespace(lr=0.1)},
    "pycls": lambda t: {"epoch": 1, "model_state": t, "cfg": "A: 1"},
    "Detectron": lambda t: {"blobs": t, "cfg": "MODEL: {}"},
    "CIFAR": lambda t: {"net": prefixed("module.", t), "acc": 90.0},
    "network": lambda t: {"network": t},
    "DeepSpeed": lambda t: {"module": t, "dp_world_size": 8},
    "compiled": lambda t: prefixed("_orig_mod.module.", t),
    "parallel": lambda t: prefixed("module.", t),
    "nested": lambda t: {"state_dict": {"model": prefixed("module.", t)}},
}


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
@pytest.mark.parametrize("write", ["torch", "old torch", "pickle of tensors"])
def test_state_dicts_in_any_wrapper(tmp_path, wrap, write):
    CONTAINERS[write](wrap(small()), tmp_path / "x")
    assert_same(read_weights_file(str(tmp_path / "x")).tensors, small())


def test_the_entry_that_is_taken_is_said_where_there_are_others(tmp_path, caplog):
    path = str(tmp_path / "timm.pth.tar")
    average = {key: tensor * 2 for key, tensor in small().items()}
    torch.save({"state_dict": small(), "state_dict_ema": average, "arch": "x"}, path)
    assert_same(read_weights_file(path).tensors, small())
    assert f"{path}: taking its entry 'state_dict', not 'state_dict_ema'" in caplog.text
    assert_same(read_weights_file(path, "state_dict_ema").tensors, average)
    caplog.clear()
    torch.save({"model_ema": average}, path)
    assert_same(read_weights_file(path).tensors, average)
    assert "taking its entry 'model_ema'" in caplog.text
    caplog.clear()
    torch.save({"state_dict": small(), "optimizer": {"state": {}}}, path)
    read_weights_file(path)
    assert caplog.text == ""


def test_what_timm_itself_saves(tmp_path):
    timm = pytest.importorskip("timm")
    utils = pytest.importorskip("timm.utils")
    model = timm.create_model("mobilenetv2_035", num_classes=3)
    average = utils.ModelEmaV2(model)
    with torch.no_grad():
        model.conv_stem.weight.add_(1)
    saver = utils.CheckpointSaver(
        model,
        torch.optim.SGD(model.parameters(), 0.1, momentum=0.9),
        argparse.Namespace(model="mobilenetv2_035", lr=0.1, output=pathlib.Path("out")),
        average,
        checkpoint_dir=str(tmp_path),
        recovery_dir=str(tmp_path),
    )
    saver.save_checkpoint(0, 70.0)
    path = str(tmp_path / "last.pth.tar")
    assert_same(read_weights_file(path).tensors, model.state_dict())
    assert_same(read_weights_file(path, "state_dict_ema").tensors, average.module.state_dict())


@pytest.mark.parametrize(
    "wrap, prefix",
    [
        (lambda t: {**prefixed("backbone.", t), "head.weight": torch.ones(1)}, "backbone."),
        (lambda t: {**prefixed("backbone.", t), "head.weight": torch.ones(1)}, "backbone"),
        (
            lambda t: {
                "state_dict": {
                    **prefixed("module.encoder_q.", t),
                    **prefixed("module.encoder_k.", small()),
                }
            },
            "module.encoder_q.",
        ),
        (
            lambda t: prefixed("module.encoder_q.", {**t}) | {"module.queue": torch.ones(2)},
            "encoder_q",
        ),
        (
            lambda t: {"student": small(), "teacher": prefixed("module.backbone.", t)},
            "teacher.module.backbone",
        ),
        (lambda t: {"student": small(), "teacher": prefixed("module.", t)}, "teacher"),
        (
            lambda t: {"state_dict": prefixed("model.", t) | {"loss.weight": torch.ones(1)}},
            "model.",
        ),
        (lambda t: prefixed("gpu_0/", t), "gpu_0/"),
    ],
)
def test_a_prefix_takes_a_part(tmp_path, wrap, prefix):
    wanted = {key: tensor * 3 for key, tensor in small().items()}
    torch.save(wrap(wanted), tmp_path / "x.pth")
    assert_same(read_weights_file(str(tmp_path / "x.pth"), prefix).tensors, wanted)


def test_model_weights_takes_the_prefix(tmp_path):
    network, other = (resnet18(num_classes=2).state_dict() for _ in range(2))
    content = prefixed("module.encoder_q.", network) | prefixed("module.encoder_k.", other)
    torch.save({"state_dict": content}, tmp_path / "x.pth.tar")
    cfg = get_cfg()
    add_crnas_config(cfg)
    cfg.merge_from_list(["MODEL.INIT.PREFIX", "module.encoder_q", "MODEL.INIT.SETTINGS", "ignore"])
    model = CRResNet(block="basic", stage_code=[2, 2, 2, 2], res2_out_channels=64, norm="BN")
    CRCheckpointer(model, "", cfg).load(str(tmp_path / "x.pth.tar"))
    assert torch.equal(model.stem.conv1.weight, network["conv1.weight"])
    assert torch.equal(model.res5[1].conv2.norm.bias, network["layer4.1.bn2.bias"])


def test_a_prefix_that_is_not_there(tmp_path):
    torch.save({**prefixed("module.net.", small()), "module.head.b": torch.ones(1)}, tmp_path / "x")
    with pytest.raises(ValueError) as error:
        read_weights_file(str(tmp_path / "x"), "backbone")
    assert str(error.value) == (
        f"{tmp_path}/x: none of the 3 tensors has a name that begins with 'backbone.'; "
        "expected one of net., head."
    )


def test_entries_that_no_wrapper_is_known_for_are_named(tmp_path):
    torch.save({"student": small(), "teacher": small(), "epoch": 3}, tmp_path / "x")
    message = r"x holds no dict of named tensors, but 'student' \(dict\), 'teacher' \(dict\), "
    message += r"'epoch' \(int\); MODEL.INIT.PREFIX or --prefix takes an entry by its name"
    with pytest.raises(ValueError, match=message):
        read_weights_file(str(tmp_path / "x"))


# What lies beside the weights ----------------------------------------------------------------------


class Recorded:
    """Unpickled, it would make a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


BESIDE = {
    "args": argparse.Namespace(lr=0.1, output=pathlib.Path("/tmp"), nested=argparse.Namespace(a=1)),
    "simple": types.SimpleNamespace(a=1),
    "path": pathlib.PurePosixPath("a/b"),
    "time": [datetime.datetime(2024, 1, 2), datetime.timedelta(3), datetime.timezone.utc],
    "metrics": {"ap": np.float64(3.5), "curve": np.ones(3)},
    "counts": collections.Counter("abc"),
    "lists": collections.defaultdict(list, a=[1]),
    "last": collections.deque([1.0, 2.0], maxlen=3),
    "seen": {1, 2},
    "fixed": frozenset({1}),
    "random": torch.get_rng_state(),
    "device": torch.device("cpu"),
    "dtype": torch.float16,
    "parameter": nn.Parameter(torch.ones(2)),
    "cfg": get_cfg(),
    "omegaconf": OmegaConf.create({"lr": 0.1, "steps": [1, "a"], "x": {"y": None}}),
    "sparse": torch.eye(3).to_sparse(),
}


@pytest.mark.parametrize("beside", BESIDE)
@pytest.mark.parametrize(
    "write", ["torch", "torch, protocol 4", "old torch", "pickle of tensors", "pickle of tensors 0"]
)
def test_plain_things_beside_the_weights(tmp_path, beside, write):
    CONTAINERS[write]({"a": BESIDE[beside], "model": small()}, tmp_path / "x")
    assert_same(read_weights_file(str(tmp_path / "x")).tensors, small())


@pytest.mark.parametrize("write", ["torch", "torch, protocol 4", "old torch", "pickle of tensors"])
@pytest.mark.parametrize("place", ["in", "beside"])
def test_no_code_of_a_file_is_run(tmp_path, write, place):
    trace, path = tmp_path / "trace", tmp_path / "x.pth"
    foreign = {"evil": Recorded(trace)}
    content = {"model": {**small(), **foreign}} if place == "in" else {"model": small(), **foreign}
    CONTAINERS[write](content, path)
    load = f"torch.load({str(path)!r}, weights_only=False)"
    if write == "pickle of tensors":
        load = f"pickle.load(open({str(path)!r}, 'rb'))"
    with pytest.raises(ValueError) as error:
        read_weights_file(str(path))
    assert str(error.value).replace("needs _io.open", "needs io.open") == (
        f"{path} needs io.open, which could run code and is not imported; where you trust the file, "
        f"save the state dict alone: torch.save({load}['model'], 'weights.pth')"
    )
    assert not trace.exists()


@pytest.mark.parametrize("write", ["torch", "old torch"])
@pytest.mark.filterwarnings("ignore")
def test_whole_models(tmp_path, write):
    path, model = tmp_path / "x.pth", resnet18(num_classes=2)
    CONTAINERS[write](model, path)
    line = f"torch.save(torch.load({str(path)!r}, weights_only=False).state_dict(), 'weights.pth')"
    with pytest.raises(ValueError) as error:
        read_weights_file(str(path))
    assert str(error.value).endswith(f": {line}")
    assert f"{path} holds a whole model, not its state dict alone, and needs torch" in str(
        error.value
    )
    exec(line.replace("'weights.pth'", f"{str(tmp_path / 'weights.pth')!r}"))
    assert_same(read_weights_file(str(tmp_path / "weights.pth")).tensors, model.state_dict())
    CONTAINERS[write]({"model": model, "epoch": 3}, path)
    with pytest.raises(
        ValueError, match=r"holds a whole model.*False\)\['model'\].state_dict\(\), "
    ):
        read_weights_file(str(path))


# Values --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("write", ["torch", "old torch", "safetensors"])
def test_other_precisions_become_float32(tmp_path, dtype, write):
    weight = torch.randn(4, 3).to(dtype)
    CONTAINERS[write]({"a.weight": weight}, tmp_path / "x")
    read = read_weights_file(str(tmp_path / "x")).tensors["a.weight"]
    assert read.dtype == torch.float32 and torch.equal(read, weight.float())


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f4"])
def test_arrays_of_other_precisions_become_float32(tmp_path, dtype):
    weight = np.arange(6).reshape(2, 3).astype(dtype)
    (tmp_path / "x").write_bytes(pickle.dumps({"w": weight.T, "n": np.array(7)}, 5))
    read = read_weights_file(str(tmp_path / "x")).tensors
    assert read["w"].dtype == torch.float32 and read["w"].is_contiguous()
    assert np.array_equal(read["w"].numpy(), weight.T)
    assert read["n"].item() == 7 and not read["n"].is_floating_point()


@pytest.mark.parametrize(
    "value, kind",
    [
        (torch.ones(4, dtype=torch.int8), "torch.int8"),
        (torch.ones(4, dtype=torch.bool), "torch.bool"),
        (torch.ones(4, dtype=torch.complex64), "torch.complex64"),
    ],
)
def test_other_kinds_of_tensors_are_named(tmp_path, value, kind):
    torch.save({"conv1.weight": value}, tmp_path / "x.pth")
    message = f"x.pth: conv1.weight is {kind}; expected a tensor or array of floating point"
    with pytest.raises(ValueError, match=message):
        read_weights_file(str(tmp_path / "x.pth"))


def test_tables_and_masks_of_integers_are_left_out(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    tables = {"attn.relative_position_index": torch.arange(9), "mask": torch.ones(4).bool()}
    torch.save({**small(), **tables}, tmp_path / "x.pth")
    assert_same(read_weights_file(str(tmp_path / "x.pth")).tensors, small())
    assert "no floating-point numbers: attn.relative_position_index, mask" in caplog.text


@pytest.mark.filterwarnings("ignore")
def test_quantized_tensors_are_named(tmp_path):
    weight = torch.quantize_per_tensor(torch.randn(4, 3), 0.1, 0, torch.qint8)
    torch.save({"conv1.weight": weight}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="x.pth: conv1.weight is torch.qint8; expected"):
        read_weights_file(str(tmp_path / "x.pth"))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("write", ["torch", "pickle 2", "safetensors"])
def test_weights_that_are_not_finite_are_named(tmp_path, value, write):
    tensors = small()
    tensors["conv1.weight"][1, 0, 2, 2] = value
    CONTAINERS[write](tensors, tmp_path / "x")
    with pytest.raises(ValueError, match=r"x: 1 tensor\(s\) have Inf or NaN \(conv1.weight\)"):
        read_weights_file(str(tmp_path / "x"))


def test_what_is_no_tensor_is_left_out(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    torch.save({**small(), "epoch": 3, "name": "x"}, tmp_path / "x.pth")
    assert_same(read_weights_file(str(tmp_path / "x.pth")).tensors, small())
    assert "x.pth: leaving out what are no tensors: epoch, name" in caplog.text


# Other files ---------------------------------------------------------------------------------------
