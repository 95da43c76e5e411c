"""Settings of the weights a training starts from: compared before any work, or taken."""

import pytest
import torch
import yaml
from runs import parse, train

import crnas_d2.checkpoint.seed_network as seed_network
from crnas_d2.config import read_config
from crnas_d2.engine import CRTrainer, setup

from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone, build_model

MSRA = ["MODEL.INIT.SOURCE", "msra"]
TAKE = ["MODEL.INIT.SETTINGS", "take"]
NEEDED = {
    "INPUT.FORMAT": "BGR",
    "MODEL.PIXEL_MEAN": [103.53, 116.28, 123.675],
    "MODEL.PIXEL_STD": [1.0, 1.0, 1.0],
    "MODEL.RESNETS.NORM": "FrozenBN",
    "MODEL.FPN.NORM": "",
}


@pytest.fixture
def weights(tiny_config, tmp_path):
    """Of the tiny detector, with what Detectron2's zoo has and nothing tells: affine norms, and a
    pyramid without any."""
    torch.manual_seed(0)
    opts = ["MODEL.RESNETS.NORM", "FrozenBN", "MODEL.FPN.NORM", ""]
    model = build_model(read_config(str(tiny_config), opts))
    tensors = {k: t for k, t in model.state_dict().items() if "box_predictor" not in k}
    for name, tensor in tensors.items():
        if ".norm.weight" in name:
            tensor.uniform_(0.5, 1.0)
    (tmp_path / "zoo").mkdir()
    path = tmp_path / "zoo" / "weights.pth"
    torch.save({"model": tensors}, path)
    return path


@pytest.fixture
def normed_config(tiny_config, tmp_path):
    """Its FPN has norms, other than that of the weights."""
    path = tmp_path / "normed.yaml"
    path.write_text(f'_BASE_: "{tiny_config}"\nMODEL:\n  FPN:\n    NORM: "BN"\nVERSION: 2\n')
    return path


def test_a_contradiction_ends_the_run_before_it_begins(normed_config, weights, tmp_path):
    with pytest.raises(ValueError, match="weights.pth: nothing tells whose weights these are"):
        train(normed_config, "MODEL.WEIGHTS", weights)
    with pytest.raises(ValueError) as error:
        train(normed_config, "MODEL.WEIGHTS", weights, *MSRA)
    assert all(f"\n  {key}: " in str(error.value) for key in NEEDED)
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize("key, value", [("SETTINGS", "no"), ("SOURCE", "caffe")])
def test_values_of_the_keys(tiny_config, key, value):
    with pytest.raises(ValueError, match=f"MODEL.INIT.{key} is '{value}'; expected .*'"):
        train(tiny_config, f"MODEL.INIT.{key}", value)


def test_taken_end_to_end(normed_config, weights, tmp_path):
    """They are in the model, the checkpoints, config.yaml and the log; the same command resumes."""
    options = ["MODEL.WEIGHTS", weights, *MSRA, *TAKE]
    train(normed_config, *options, "SOLVER.MAX_ITER", 2)
    output = tmp_path / "output"
    content = yaml.safe_load((output / "config.yaml").read_text())
    saved = torch.load(output / "model_final.pth", weights_only=True)["model_config"]
    log = (output / "log.txt").read_text()
    for key, value in NEEDED.items():
        node = content
        for name in key.split("."):
            node = node[name]
        assert node == value and saved[key] == str(value)
        assert f"MODEL.INIT.SETTINGS is 'take': {key} is {str(value)!r}, which " in log

    theirs = torch.load(weights, weights_only=True)["model"]
    model = CRTrainer.build_model(
        setup(parse(normed_config, *options, "OUTPUT_DIR", tmp_path / "other"))
    )
    assert model.pixel_mean.flatten().tolist() == pytest.approx(NEEDED["MODEL.PIXEL_MEAN"])
    stem = "backbone.bottom_up.stem.conv1.norm.weight"
    trained = torch.load(output / "model_final.pth", weights_only=True)["model"]
    assert torch.equal(trained[stem], theirs[stem])  # frozen, as the weights need it

    train(normed_config, "--resume", *options, "SOLVER.MAX_ITER", 3)
    assert torch.load(output / "model_final.pth", weights_only=True)["iteration"] == 2

    checkpoint = ["--eval-only", "MODEL.WEIGHTS", output / "model_final.pth"]
    with pytest.raises(ValueError, match="INPUT.FORMAT: 'BGR' in the file, 'RGB' in the config"):
        train(normed_config, *checkpoint)
    results = train(normed_config, *checkpoint, *TAKE)
    assert "bbox" in results


def test_the_order_of_the_channels_is_that_of_the_checkpoint(tiny_config, tmp_path):
    train(tiny_config, "SOLVER.MAX_ITER", 1)
    path = tmp_path / "output" / "model_final.pth"
    content = torch.load(path, weights_only=True)
    assert content["model_config"]["INPUT.FORMAT"] == "RGB"
    swapped = ["INPUT.FORMAT", "BGR"]
    other = ["OUTPUT_DIR", tmp_path / "other"]
    for arguments in (
        ["--resume"],
        ["--eval-only", "MODEL.WEIGHTS", path],
        ["MODEL.WEIGHTS", path],
    ):
        with pytest.raises(ValueError, match="INPUT.FORMAT: '?RGB"):
            train(
                tiny_config, *arguments, *swapped, *(other if "--resume" not in arguments else [])
            )
    del content["model_config"]["INPUT.FORMAT"]  # as older checkpoints are
    torch.save(content, path)
    train(tiny_config, "--eval-only", "MODEL.WEIGHTS", path, *swapped)


@BACKBONE_REGISTRY.register()
class BackboneFromElsewhere(Backbone):
    def __init__(self, cfg, input_shape):
        super().__init__()
        self.layer = torch.nn.Conv2d(input_shape.channels, 16, 3, stride=16, padding=1)

    def forward(self, x):
        return {"c4": self.layer(x)}

    def output_shape(self):
        return {"c4": ShapeSpec(channels=16, stride=16)}


def test_the_settings_of_backbones_from_elsewhere_are_their_own(tiny_config, tmp_path):
    backbone = [
        *("MODEL.BACKBONE.NAME", "BackboneFromElsewhere"),
        *("MODEL.RPN.IN_FEATURES", "['c4']", "MODEL.ROI_HEADS.IN_FEATURES", "['c4']"),
        *("MODEL.ANCHOR_GENERATOR.SIZES", "[[16]]"),
    ]
    train(tiny_config, *backbone, "SOLVER.MAX_ITER", 1)
    train(tiny_config, "--resume", *backbone, "SOLVER.MAX_ITER", 2)
    path = tmp_path / "output" / "model_final.pth"
    assert torch.load(path, weights_only=True)["iteration"] == 1
    assert "bbox" in train(tiny_config, "--eval-only", *backbone, "MODEL.WEIGHTS", path)


def test_a_file_is_read_once_by_all_checks(tiny_config, weights, tmp_path, monkeypatch):
    read = []
    reader = seed_network.read_weights_file
    monkeypatch.setattr(
        seed_network,
        "read_weights_file",
        lambda path, *args: read.append(path) or reader(path, *args),
    )
    for folder in ("a", "b"):
        args = [
            tiny_config,
            "MODEL.WEIGHTS",
            weights,
            *MSRA,
            *TAKE,
            "OUTPUT_DIR",
            tmp_path / folder,
        ]
        setup(parse(*args))
    assert read == [str(weights)]
