"""train_net.py on images with one class each, and its weights in a detector."""

import json

import pytest
import torch
from image_folder import write_image_folder

from crnas_d2.commands import train as train_command
from crnas_d2.config import configs_dir
from crnas_d2.engine import CRTrainer, setup

from detectron2.engine import default_argument_parser

TINY = """
_BASE_: "{configs}/ImageNet/Base-ImageNet.yaml"
MODEL:
  DEVICE: "cpu"
  BACKBONE: {{NAME: "{builder}"}}
  CR: {{BLOCK: "basic", STAGE_CODE: [1, 1, 2, 1]}}
  SUPERNET: {{STAGE_CHOICES: [[1, 2], [1], [1, 2], [1]], TEST_PATHS: {paths}}}
  RESNETS: {{STEM_OUT_CHANNELS: 8, RES2_OUT_CHANNELS: 8}}
DATASETS:
  IMAGE_FOLDERS:
    - ["{name}_train", "{root}/train"]
    - ["{name}_val", "{root}/val"]
  TRAIN: ["{name}_train"]
  TEST: ["{name}_val"]
INPUT: {{CLASSIFICATION: {{CROP_SIZE: 32, TEST_SIZE: 36}}}}
DATALOADER: {{NUM_WORKERS: 0}}
SOLVER: {{IMS_PER_BATCH: 4, BASE_LR: 0.01, MAX_ITER: 2, WARMUP_ITERS: 1, CHECKPOINT_PERIOD: 1}}
OUTPUT_DIR: "{root}/output"
SEED: 1
"""


def write_config(root, builder="build_cr_backbone", paths=()):
    for split, images in (("train", 3), ("val", 2)):
        write_image_folder(root / split, images, seed=images)
    path = root / "classifier.yaml"
    options = dict(builder=builder, paths=[list(p) for p in paths], root=root, name=f"{root}")
    path.write_text(TINY.format(configs=configs_dir(), **options))
    return path


def train(config, *arguments):
    return train_command.train(
        default_argument_parser().parse_args(["--config-file", str(config), *map(str, arguments)])
    )


def last_metrics(root):
    return json.loads((root / "output" / "metrics.json").read_text().splitlines()[-1])


def log(root):
    return (root / "output" / "log.txt").read_text()


def read(path):
    return torch.load(path, weights_only=True)


def test_trains_evaluates_and_resumes(tmp_path):
    config = write_config(tmp_path)
    train(config)
    metrics = last_metrics(tmp_path)
    assert metrics["classification/top1"] in [pytest.approx(100 * hits / 6) for hits in range(7)]
    assert metrics["classification/top5"] == 100
    assert f"9 images of 3 classes in {tmp_path}/train, 3 to 3" in log(tmp_path)
    weights = tmp_path / "output" / "model_final.pth"
    saved = read(weights)
    assert saved["model"]["linear.weight"].shape == (3, 64)
    assert saved["model_config"]["MODEL.CLASSIFIER.NUM_CLASSES"] == "3"

    again = train(config, "--eval-only", "MODEL.WEIGHTS", weights)["classification"]
    assert again == {key: metrics[f"classification/{key}"] for key in ("top1", "top5")}

    (tmp_path / "output" / "last_checkpoint").write_text("model_0000000.pth")
    train(config, "--resume")
    assert "Starting at iteration 1 of 2" in log(tmp_path)
    resumed = read(weights)["model"]
    assert all(torch.equal(tensor, saved["model"][key]) for key, tensor in resumed.items())


def test_batches(tmp_path):
    config = write_config(tmp_path)
    cfg = setup(default_argument_parser().parse_args(["--config-file", str(config)]))
    first, again = (next(iter(CRTrainer.build_train_loader(cfg))) for _ in range(2))
    assert first["image"].shape == (4, 3, 32, 32)
    assert first["image"].dtype == torch.uint8
    assert torch.equal(first["image"], again["image"])
    assert torch.equal(first["label"], again["label"])
    test = list(CRTrainer.build_test_loader(cfg, cfg.DATASETS.TEST[0]))
    assert [len(batch["label"]) for batch in test] == [4, 2]
    assert torch.cat([batch["label"] for batch in test]).tolist() == [0, 0, 1, 1, 2, 2]


def test_detector_starts_from_the_backbone(tmp_path, tiny_config):
    train(write_config(tmp_path / "classifier"))
    weights = tmp_path / "classifier" / "output" / "model_final.pth"
    # a step without a change, so that the weights saved are those loaded
    options = ["SOLVER.MAX_ITER", 1, "SOLVER.BASE_LR", 0.0, "DATASETS.TEST", "()"]
    train(tiny_config, "MODEL.WEIGHTS", weights, *options)
    assert "from model_final.pth: the backbone (stem, res2, res3, res4, res5)" in log(tmp_path)
    classifier = read(weights)["model"]
    detector = read(tmp_path / "output" / "model_final.pth")["model"]
    loaded = [key for key in classifier if key.endswith(("weight", "norm.bias"))]
    loaded.remove("linear.weight")
    assert len(loaded) == 3 * 14  # stem, 5 blocks of 2, 3 shortcuts: weight, and weight, bias of BN
    for key in loaded:
        ours = detector[key.replace("backbone.", "backbone.bottom_up.")]
        assert torch.equal(ours, classifier[key]), key


def test_classifier_is_not_evaluated_as_a_detector(tmp_path, tiny_config):
    train(write_config(tmp_path / "classifier"))
    weights = tmp_path / "classifier" / "output" / "model_final.pth"
    with pytest.raises(ValueError, match="META_ARCHITECTURE: ImageClassifier in the checkpoint"):
        train(tiny_config, "--eval-only", "MODEL.WEIGHTS", weights)


def test_supernet_is_pre_trained_path_by_path(tmp_path):
    paths = [(1, 1, 1, 1), (2, 1, 2, 1)]
    train(write_config(tmp_path, "build_stage_supernet_backbone", paths))
    metrics = last_metrics(tmp_path)
    for path in ("1-1-1-1", "2-1-2-1"):
        assert 0 <= metrics[f"{path}/classification/top1"] <= 100


def test_missing_folder_stops_before_anything_is_written(tmp_path):
    config = write_config(tmp_path)
    (tmp_path / "val").rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match=f"no folder {tmp_path}/val"):
        train(config)
    assert not (tmp_path / "output").exists()
