"""Files of weights: read without running them, written whole or not at all."""

import pytest
import safetensors.torch
import torch
from torchvision.models import mobilenet_v2, resnet18

from crnas_d2.checkpoint import CRCheckpointer
from crnas_d2.checkpoint.convert import convert
from crnas_d2.checkpoint.convert_file import convert_file, save_backbone
from crnas_d2.config import add_crnas_config
from detectron2.config import get_cfg
from iopath.common.file_io import PathHandler, PathManager


class Elsewhere(PathHandler):
    """Files ``elsewhere://name`` of a folder."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def _get_supported_prefixes(self):
        return ["elsewhere://"]

    def _get_local_path(self, path, force=False, **kwargs):
        return str(self.folder / path.removeprefix("elsewhere://"))

    def _open(self, path, mode="r", **kwargs):
        return open(self._get_local_path(path), mode)


def test_remote_files_come_through_the_path_manager(tmp_path, monkeypatch):
    manager = PathManager()
    manager.register_handler(Elsewhere(tmp_path))
    for module in ("checkpoint.weights_file", "files"):
        monkeypatch.setattr(f"crnas_d2.{module}.PathManager", manager)
    torch.save(resnet18().state_dict(), tmp_path / "weights.pth")
    _, description = convert_file("elsewhere://weights.pth", str(tmp_path / "out.safetensors"))
    assert description.arguments["stage_code"] == [2, 2, 2, 2]


@pytest.mark.parametrize("make", [resnet18, mobilenet_v2])
def test_a_saved_backbone_fills_a_model_to_the_last_tensor(tmp_path, make):
    weights, description = convert(make().state_dict())
    path = str(tmp_path / "weights.safetensors")
    save_backbone(path, weights, description)
    model = description.build(norm="FrozenBN")
    cfg = get_cfg()
    add_crnas_config(cfg)
    CRCheckpointer(model, str(tmp_path), cfg).load(path)
    loaded = model.state_dict()
    assert loaded.keys() == weights.keys()
    assert all(torch.equal(loaded[name], weights[name]) for name in weights)


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"before")
    weights, description = convert(resnet18().state_dict())
    monkeypatch.setattr("os.replace", lambda *args: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save_backbone(str(path), weights, description)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_outputs_that_cannot_be_written_are_refused_before_the_input_is_read(tmp_path):
    there = tmp_path / "there.safetensors"
    there.write_bytes(b"before")
    absent = str(tmp_path / "absent.pth")
    for output, error, message in [
        (tmp_path / "weights.pth", ValueError, "expected a local file .*.safetensors"),
        ("s3://bucket/weights.safetensors", ValueError, "expected a local file"),
        (tmp_path / "no" / "weights.safetensors", FileNotFoundError, "there is no such folder"),
        (there, FileExistsError, "there.safetensors exists"),
    ]:
        with pytest.raises(error, match=message):
            convert_file(absent, str(output))
    assert there.read_bytes() == b"before"


def test_the_input_is_never_replaced(tmp_path):
    path = tmp_path / "resnet18.safetensors"
    safetensors.torch.save_file(resnet18().state_dict(), path)
    (tmp_path / "link.safetensors").symlink_to(path)
    before = path.read_bytes()
    for output in (path, tmp_path / "link.safetensors"):
        with pytest.raises(ValueError, match=f"output {output} is read too, as {path}"):
            convert_file(str(path), str(output), overwrite=True)
    assert path.read_bytes() == before
