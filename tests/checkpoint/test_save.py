"""Networks as files: written whole or not at all, and the same when they are read again."""

import json

import pytest
import torch
import zoo_files
from iopath.common.file_io import PathHandler, PathManager
from safetensors import safe_open
from torchvision.models import mobilenet_v2, resnet18

from crnas_d2.checkpoint import CRCheckpointer, read_seed_network, save_network
from crnas_d2.checkpoint.save import check_output
from crnas_d2.checkpoint.settings import take_settings
from crnas_d2.config import add_crnas_config

from detectron2.config import get_cfg


class Elsewhere(PathHandler):
    """Files ``elsewhere://name`` of a folder."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def _get_supported_prefixes(self):
        return ["elsewhere://"]

    def _get_local_path(self, path, force=False, **kwargs):
        return str(self.folder / path.removeprefix("elsewhere://"))

    def _open(self, path, mode="r", buffering=-1, **kwargs):
        return open(self._get_local_path(path), mode)


def public(folder, make=resnet18):
    torch.save(make().state_dict(), folder / "weights.pth")
    return read_seed_network(str(folder / "weights.pth"))


def test_remote_files_come_through_the_path_manager(tmp_path, monkeypatch):
    manager = PathManager()
    manager.register_handler(Elsewhere(tmp_path))
    for module in ("checkpoint.weights_file", "files"):
        monkeypatch.setattr(f"crnas_d2.{module}.PathManager", manager)
    public(tmp_path)
    description = read_seed_network("elsewhere://weights.pth").describe()
    assert description.arguments["stage_code"] == [2, 2, 2, 2]


@pytest.mark.parametrize("make", [resnet18, mobilenet_v2])
def test_a_saved_backbone_fills_a_model_to_the_last_tensor(tmp_path, make):
    path, seed = str(tmp_path / "weights.safetensors"), public(tmp_path, make)
    written = save_network(path, seed)
    model = seed.describe().build(norm="FrozenBN")
    cfg = get_cfg()
    add_crnas_config(cfg)
    take_settings(seed.settings, cfg, path)
    CRCheckpointer(model, str(tmp_path), cfg).load(path)
    loaded = model.state_dict()
    assert loaded.keys() == written.keys() == seed.weights.keys()
    assert all(torch.equal(loaded[name], seed.weights[name]) for name in loaded)


def test_the_header(tmp_path):
    path = str(tmp_path / "weights.safetensors")
    seed = public(tmp_path)
    save_network(path, seed)
    with safe_open(path, "pt") as file:
        header = file.metadata()
    assert header == {
        "format": "crnas_d2.backbone",
        "source": "torchvision",
        "family": "resnet",
        "stage_code": "[2, 2, 2, 2]",
        "operation_code": str([0] * 8),
        "input_format": "RGB",
        "pixel_mean": "[123.675, 116.28, 103.53]",
        "pixel_std": "[58.395, 57.12, 57.375]",
        "seed_network": "weights.pth",
        "seed_network_sha256": seed.sha256,
    }


DETECTORS = {
    "Faster": zoo_files.FASTER,
    "Mask": zoo_files.MASK,
    "Cascade": zoo_files.CASCADE,
    "RetinaNet": zoo_files.RETINANET,
    "C4": zoo_files.C4,
    "DC5": zoo_files.DC5,
    "ResNeXt": zoo_files.X_101,
}


@pytest.mark.parametrize("config", DETECTORS.values(), ids=DETECTORS)
def test_detectors_of_the_zoo_keep_their_names_and_all_that_belongs_to_them(tmp_path, config):
    paths = [str(tmp_path / name) for name in ("model_final.pkl", "out.safetensors")]
    model = zoo_files.write_zoo_detector(paths[0], config)
    seed = read_seed_network(paths[0])
    written = save_network(paths[1], seed)
    expected = model.state_dict()
    assert written.keys() == expected.keys()
    assert all(torch.equal(written[name], expected[name]) for name in expected)

    again = read_seed_network(paths[1])
    assert again.settings == seed.settings and again.settings["INPUT.FORMAT"] == "BGR"
    assert again.class_names == seed.class_names and len(seed.class_names) == 80
    assert again.architecture == seed.architecture and seed.architecture is not None
    assert (again.family, again.source) == (seed.family, seed.source)
    for one, other in ((again.weights, seed.weights), (again.rest, seed.rest)):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
    with safe_open(paths[1], "pt") as file:
        header = file.metadata()
    assert header["format"] == "crnas_d2.model"
    assert json.loads(header["class_names"])[:2] == ["person", "bicycle"]


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"before")
    seed = public(tmp_path)
    monkeypatch.setattr("os.replace", lambda *args: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save_network(str(path), seed)
    assert path.read_bytes() == b"before"
    assert {entry.name for entry in tmp_path.iterdir()} == {"weights.pth", "weights.safetensors"}


def test_outputs_that_cannot_be_written_are_refused(tmp_path):
    there = tmp_path / "there.safetensors"
    there.write_bytes(b"before")
    for output, error, message in [
        (tmp_path / "weights.pth", ValueError, "expected a local file .*.safetensors"),
        ("s3://bucket/weights.safetensors", ValueError, "expected a local file"),
        (tmp_path / "no" / "weights.safetensors", FileNotFoundError, "there is no such folder"),
        (there, FileExistsError, "there.safetensors exists"),
    ]:
        with pytest.raises(error, match=message):
            check_output(str(output), False, [])
    check_output(str(there), True, [])
    check_output(str(tmp_path / "new.safetensors"), False, [])


def test_the_input_is_never_replaced(tmp_path):
    path = tmp_path / "resnet18.safetensors"
    path.touch()
    (tmp_path / "link.safetensors").symlink_to(path)
    for output in (path, tmp_path / "link.safetensors"):
        with pytest.raises(ValueError, match=f"output {output} is read too, as {path}"):
            check_output(str(output), True, [str(path)])
