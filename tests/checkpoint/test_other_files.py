"""Files that hold no weights, or none that can be read, are named as what they are."""

import io
import json
import pickle
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from containers import CONTAINERS, assert_same, small, write_old
from torch import nn

from crnas_d2.checkpoint.weights_file import read_checkpoint, read_weights_file


def zip_of(path, *names):
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")


def tar_of(path, mode):
    with tarfile.open(path, mode) as archive:
        info = tarfile.TarInfo("weights.pth")
        info.size = 4
        archive.addfile(info, io.BytesIO(b"abcd"))


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


HTML = b"\n<!DOCTYPE html>\n<html><head><title>Not found</title></head></html>"


FILES = {
    "empty": (lambda p: p.touch(), "is empty; .*: download the file itself"),
    "zeros": (lambda p: p.write_bytes(bytes(5000)), "is nothing but zeros; "),
    "Git LFS": (lambda p: p.write_bytes(LFS), "is a pointer of Git LFS; .*`git lfs pull`"),
    "HTML": (lambda p: p.write_bytes(HTML), "is an HTML page; "),
    "html": (lambda p: p.write_bytes(b"<html lang='en'>"), "is an HTML page; "),
    "XML": (
        lambda p: p.write_bytes(b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>"),
        "is an XML text, such as a server's error; ",
    ),
    "JSON": (lambda p: p.write_text(json.dumps({"message": "Not Found"})), "is a JSON text"),
    "JSON list": (lambda p: p.write_text('[{"a": 1}]'), "is a JSON text"),
    "Keras .h5": (lambda p: p.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99)), "is an HDF5 file"),
    "TensorFlow Lite": (
        lambda p: p.write_bytes(b"\x1c\0\0\0TFL3" + bytes(99)),
        "is a TensorFlow Lite model; ",
    ),
    "SavedModel": (
        lambda p: p.write_bytes(b"\x08\x01\x12\xd0\x05\x0a\x10serve"),
        "is a SavedModel of TensorFlow; ",
    ),
    "TensorFlow index": (
        lambda p: p.write_bytes(b"\0\0\1\2" + bytes(90) + bytes.fromhex("57fb808b247547db")),
        "is a checkpoint of TensorFlow; ",
    ),
    "checkpoint": (
        lambda p: p.write_text('model_checkpoint_path: "model.ckpt"'),
        "is the index of TensorFlow's checkpoints; ",
    ),
    "gzip": (lambda p: p.write_bytes(b"\x1f\x8b\x08\0" + bytes(99)), "is a compressed archive; "),
    "tar": (lambda p: tar_of(p, "w"), "is a tar archive; .*: unpack it"),
    "tar.gz": (lambda p: tar_of(p, "w:gz"), "is a compressed archive; "),
    "zip": (
        lambda p: zip_of(p, "a.txt", "b/c.txt"),
        r"is a zip archive of other files \(a.txt, b/c.txt\); .*: unpack it",
    ),
    "Keras zip": (
        lambda p: zip_of(p, "metadata.json", "config.json", "model.weights.h5"),
        "is a Keras model; ",
    ),
    "npz": (lambda p: np.savez(p.open("wb"), a=np.ones(2)), "is an archive of NumPy arrays"),
    "npy": (lambda p: np.save(p.open("wb"), np.ones(2)), "is a single NumPy array; "),
    "folder": (lambda p: p.mkdir(), "is a folder; .*: give the file in it"),
    "text": (lambda p: p.write_text("no weights"), "cannot be read as weights: .*; expected a "),
    "bytes": (lambda p: p.write_bytes(bytes(range(255, 0, -1))), "cannot be read as weights: "),
    "list": (
        lambda p: torch.save([torch.ones(1)], p),
        "holds no dict of named tensors, but a list",
    ),
    "tensor": (
        lambda p: torch.save(torch.ones(1), p),
        "holds no dict of named tensors, but a Tensor",
    ),
    "numbers": (
        lambda p: p.write_bytes(pickle.dumps({0: np.ones(2)})),
        r"holds no dict of named tensors, but 0 \(ndarray\)",
    ),
    "nothing": (lambda p: torch.save({}, p), "holds no dict of named tensors, but nothing"),
}


@pytest.mark.parametrize("ending", ["pth", "safetensors", "pkl"])
@pytest.mark.parametrize("write, message", FILES.values(), ids=FILES)
def test_other_files_are_named(tmp_path, write, message, ending):
    path = tmp_path / f"weights.{ending}"
    write(path)
    with pytest.raises(ValueError, match=f"^{path} {message}") as error:
        read_weights_file(str(path))
    assert "\n" not in str(error.value)


def save_torchscript(model, path):
    torch.jit.script(model).save(path)


def save_torch_export(model, path):
    torch.export.save(torch.export.export(model, (torch.zeros(1, 3, 4, 4),)), path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "save, what",
    [
        (save_torchscript, "x.pt is a TorchScript model; "),
        (save_torch_export, "x.pt2 is a model of torch.export; "),
    ],
)
def test_the_state_dict_of_a_program(save, what, tmp_path):
    """By the command that the error names."""
    path, weights = tmp_path / what.split()[0], tmp_path / "weights.pth"
    model = nn.Sequential(nn.Conv2d(3, 2, 1))
    save(model, path)
    with pytest.raises(ValueError, match=what) as error:
        read_weights_file(str(path))
    exec(str(error.value).rpartition("state dict: ")[2].replace("weights.pth", str(weights)))
    assert_same(read_weights_file(str(weights)).tensors, model.state_dict())


@pytest.mark.filterwarnings("ignore")
def test_onnx(tmp_path):
    onnx = pytest.importorskip("onnx")
    path = str(tmp_path / "x.onnx")
    torch.onnx.export(nn.Conv2d(3, 2, 1), (torch.zeros(1, 3, 4, 4),), path, dynamo=False)
    with pytest.raises(ValueError, match="x.onnx is an ONNX model; "):
        read_weights_file(path)
    onnx.save(onnx.ModelProto(ir_version=8, graph=onnx.load(path).graph), path)
    with pytest.raises(ValueError, match="x.onnx is an ONNX model; "):
        read_weights_file(path)


def test_folders_and_prefixes_of_tensorflow(tmp_path):
    (tmp_path / "saved_model.pb").touch()
    with pytest.raises(ValueError, match="is a SavedModel of TensorFlow; "):
        read_weights_file(str(tmp_path))
    (tmp_path / "model.ckpt.index").touch()
    with pytest.raises(ValueError, match="model.ckpt is a checkpoint of TensorFlow; "):
        read_weights_file(str(tmp_path / "model.ckpt"))


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file .*absent.pth"):
        read_weights_file(str(tmp_path / "absent.pth"))


@pytest.mark.parametrize("kept", [0.3, 0.9, 0.999])
@pytest.mark.parametrize("write", CONTAINERS.values(), ids=CONTAINERS)
def test_cut_off_files_are_named(tmp_path, write, kept):
    path = tmp_path / "x"
    write({"a": torch.randn(50, 50), "b": torch.randn(50, 50)}, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(ValueError, match=f"^{path} (is cut off|cannot be read as weights)"):
        read_weights_file(str(path))


def test_checkpoints_of_other_formats_are_named(tmp_path):
    path = tmp_path / "x.pth"
    write_old(small(), path)
    with pytest.raises(ValueError, match="x.pth is cut off, or not in the zip format of torch.sav"):
        read_checkpoint(str(path))
    path.write_bytes(HTML)
    with pytest.raises(ValueError, match="x.pth is an HTML page"):
        read_checkpoint(str(path))
