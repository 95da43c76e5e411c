"""The command line of crnas erf: its table, its figure, and what it refuses."""

import os

import numpy as np
import pytest
from PIL import Image
from tiny_coco import write_tiny_coco

from crnas_d2.analysis.erf import effective_receptive_fields, noise_images, random_network
from crnas_d2.checkpoint import CRCheckpointer
from crnas_d2.config import configs_dir, read_config

DIGITS = os.path.join(configs_dir(), "Digits")
BASELINE = os.path.join(DIGITS, "faster_rcnn_R_18_FPN.yaml")
FOUND = os.path.join(DIGITS, "faster_rcnn_CR_R_18_FPN.yaml")
SUPERNET = os.path.join(DIGITS, "stage_supernet_R_18_FPN.yaml")
OWN_DATA = """
_BASE_: "{base}"
MODEL:
  PIXEL_MEAN: [0.0, 0.0, 0.0]
DATASETS:
  COCO_JSON: [["erf_rectangles", "{root}/annotations.json", "{root}/images"]]
"""


@pytest.fixture
def run(tool, tmp_path, capsys):
    def run(*options, configs=(BASELINE, FOUND), output="erf.png"):
        path = tmp_path / "figures" / output
        tool.main(["--config-file", *configs, "--output", str(path), *options])
        out = capsys.readouterr().out
        assert str(path) in out
        lines = [line.strip("|").split("|") for line in out.splitlines() if line.startswith("|")]
        return [[cell.strip() for cell in line] for line in lines[2:]], path

    return run


def test_table_and_figure_of_random_weights(run):
    options = ["--features", "c4", "p3", "--size", "64", "--num-images", "2", "--seed", "5"]
    table, path = run(*options, "--labels", "ResNet18", "CR-ResNet18")
    expected = []
    images = noise_images(2, 64, seed=5)
    for label, config in (("ResNet18", BASELINE), ("CR-ResNet18", FOUND)):
        cfg = read_config(config, ["MODEL.DEVICE", "cpu"])
        model = random_network(cfg, images, seed=5)
        for erf in effective_receptive_fields(model, ["c4", "p3"], images).values():
            stride = {"c4": "16", "p3": "8"}[erf.feature]
            expected.append([label, erf.feature, stride, f"{erf.sigma:.1f}", f"{erf.share:.1%}"])
    assert table == expected
    height, width = np.asarray(Image.open(path)).shape[:2]
    assert width > height > 300


def test_defaults(run):
    table, path = run("--size", "64", "--num-images", "1", configs=[FOUND], output="erf.svg")
    assert [row[:2] for row in table] == [
        ["faster_rcnn_CR_R_18_FPN", feature] for feature in ("p3", "p4", "p5")
    ]
    assert "<svg" in path.read_text()[:500]


def test_weights_and_images_of_a_dataset(run, tmp_path, catalogs):
    write_tiny_coco(tmp_path / "data", images=3)
    config = tmp_path / "own.yaml"
    config.write_text(OWN_DATA.format(base=BASELINE, root=tmp_path / "data"))
    cfg = read_config(str(config), ["MODEL.DEVICE", "cpu"])
    model = random_network(cfg, noise_images(1, 64), seed=7)
    CRCheckpointer(model, str(tmp_path), cfg).save("model_final")

    options = ["--labels", "a", "b", "--features", "p3", "--size", "64", "--num-images", "2"]
    table, _ = run(
        *options,
        "--dataset",
        "erf_rectangles",
        "--weights",
        str(tmp_path / "model_final.pth"),
        "random",
        configs=[str(config), str(config)],
    )
    pixels = [np.asarray(Image.open(tmp_path / "data" / "images" / f"{i:04d}.png")) for i in (1, 3)]
    images = (np.stack(pixels).transpose(0, 3, 1, 2)) / np.reshape(cfg.MODEL.PIXEL_STD, (3, 1, 1))
    images = noise_images(1, 64).new_tensor(images)
    erf = effective_receptive_fields(model, ["p3"], images)["p3"]
    assert table[0] == ["a", "p3", "8", f"{erf.sigma:.1f}", f"{erf.share:.1%}"]
    assert table[1][0] == "b" and table[1][3:] != table[0][3:]


@pytest.mark.parametrize(
    "options, message",
    [
        (["--weights", "random"], "--weights has 1 values; expected 2"),
        (["--labels", "a", "b", "c"], "--labels has 3 values; expected 2"),
        (["--labels", "a", "a"], "--labels is a a; expected labels that differ"),
        (["--size", "0"], "--size is 0; expected 1 or more"),
        (["--num-images", "0"], "--num-images is 0; expected 1 or more"),
    ],
)
def test_options_that_do_not_fit(run, capsys, options, message):
    with pytest.raises(SystemExit):
        run(*options)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "options, changes, message",
    [
        ([], {"output": "erf.jpg"}, "erf.jpg.*expected a name that ends in .svg"),
        ([], {"configs": ["no.yaml"]}, "config file 'no.yaml'"),
        ([], {"configs": [SUPERNET]}, "stage_supernet_R_18_FPN.yaml.*one network"),
        (["--weights", "no.pth", "random"], {}, "weights 'no.pth'"),
        (["--size", "50"], {}, "50x50 pixels; expected multiples of 32"),
        (["--size", "64", "--features", "c9"], {}, r"\['c9'\]; expected .* c2, c3"),
        (["--dataset", "erf_absent"], {}, "'erf_absent'"),
    ],
)
def test_what_cannot_be_drawn(run, refused, tmp_path, options, changes, message):
    with refused(message):
        run("--num-images", "1", *options, **changes)
    assert not (tmp_path / "figures").exists()
