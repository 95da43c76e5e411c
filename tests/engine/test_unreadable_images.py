"""An image that cannot be decoded ends a job with one sentence, which names its file."""

import io
import os
import sys

import numpy as np
import pytest
from PIL import Image

from crnas_d2 import get_config
from crnas_d2.commands import train
from crnas_d2.data.images import UnreadableError
from crnas_d2.data.naming_mapper import NamingMapper
from crnas_d2.engine.faults import tell_faults
from crnas_d2.engine.loader import build_train_loader

from detectron2.data import DatasetMapper, build_detection_test_loader

NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def encoded(form):
    buffer = io.BytesIO()
    Image.fromarray(NOISE).save(buffer, form)
    return buffer.getvalue()


DAMAGED = {
    "half a JPEG": encoded("JPEG")[:2000],
    "half a PNG": encoded("PNG")[:3000],
    "text": b"no image",
    "nothing": b"",
    "half a BMP": encoded("BMP")[:3000],
    "half a TIFF": encoded("TIFF")[:3000],
    "half a WEBP": encoded("WEBP")[:3000],
}


@pytest.fixture
def cfg_of_data():
    cfg = get_config("Small-Data/faster_rcnn_R_18_FPN.yaml")
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST = (64,), 64
    return cfg


def raised(loader):
    """What is told of the exception that ends it, as of a command."""
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stderr", out)
        with pytest.raises(SystemExit) as ended, tell_faults(show_traceback=False):
            for _ in zip(range(8), loader):
                pass
    assert ended.value.code == 1
    return out.getvalue()


@pytest.mark.parametrize(
    "case, workers", [*((case, 0) for case in DAMAGED), ("half a JPEG", 1), ("text", 1)]
)
def test_of_a_loader(cfg_of_data, tmp_path, case, workers):
    path = tmp_path / "image.png"
    path.write_bytes(DAMAGED[case])
    dataset = [{"file_name": str(path), "height": 64, "width": 64, "annotations": []}]
    mapper = DatasetMapper(cfg_of_data, is_train=True)
    loader = build_train_loader(
        *(dataset, mapper, [0]), total_batch_size=1, seed=0, num_workers=workers
    )
    said = raised(loader)
    assert said.startswith(f"{os.path.basename(sys.argv[0])}: error: {path}: ")
    assert said.count("\n") == 1 and "Traceback" not in said

    test_mapper = NamingMapper(DatasetMapper(cfg_of_data, is_train=False))
    assert (
        raised(build_detection_test_loader(dataset, mapper=test_mapper, num_workers=workers))
        == said
    )


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_has_gone_and_one_of_another_size(cfg_of_data, tmp_path, workers):
    mapper = NamingMapper(DatasetMapper(cfg_of_data, is_train=False))
    path = str(tmp_path / "image.png")
    dataset = [{"file_name": path, "height": 64, "width": 65}]
    loader = build_detection_test_loader(dataset, mapper=mapper, num_workers=workers)
    assert raised(loader).endswith(f": error: {path}: No such file or directory\n")
    Image.fromarray(NOISE).save(path)
    said = raised(loader)
    assert f": error: Mismatched image shape for image {path}, got (64, 64)" in said
    assert said.count("\n") == 1


def test_a_fault_of_the_mapper_itself_stays_what_it_is(tmp_path):
    path = str(tmp_path / "image.png")
    Image.fromarray(NOISE).save(path)

    def fail(dataset_dict):
        raise KeyError("a bug")

    with pytest.raises(KeyError, match="a bug"):
        NamingMapper(fail)({"file_name": path})
    with pytest.raises(UnreadableError, match="gone.png: No such file"):
        NamingMapper(fail)({"file_name": path, "sem_seg_file_name": str(tmp_path / "gone.png")})


def break_images(config):
    folder = config.parent / "data" / "images"
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes()[:-60])
    return folder


@pytest.mark.parametrize("workers", [0, 1])
def test_of_a_training(tiny_config, capsys, monkeypatch, workers):
    folder = break_images(tiny_config)
    monkeypatch.setattr(sys, "argv", ["/bin/crnas train"])
    command = ["--config-file", str(tiny_config), "DATALOADER.NUM_WORKERS", str(workers)]
    with pytest.raises(SystemExit) as ended:
        train.main([*command, "DATASETS.CHECK_IMAGES", "none"])
    said = capsys.readouterr().err
    assert ended.value.code == 1
    (line,) = [line for line in said.splitlines() if "error" in line]
    assert f"crnas train: error: {folder}{os.sep}" in line and "truncated" in line
    assert "Traceback" not in said
    log = (tiny_config.parent / "output" / "log.txt").read_text()
    assert "Traceback" in log and line.partition("error: ")[2] in log
