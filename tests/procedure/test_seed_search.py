"""From torchvision's file of a MobileNetV2 to what was found, trained and put to use."""

import json
import shlex

import pytest
import torch
import yaml
from tiny_coco import write_tiny_coco
from torchvision.models import mobilenet_v2

from crnas_d2.checkpoint.seed_network import read_seed_network
from crnas_d2.commands import predict
from crnas_d2.config import read_config
from crnas_d2.files import file_sha256
from crnas_d2.procedure import Procedure, Recipe
from crnas_d2.procedure.overview import describe
from crnas_d2.report import report_procedure

WEIGHTS = "mobilenet_v2-b0353104.pth"
# The recipe that ships, so small that it takes seconds
SMALL = {
    "DATASETS.ARCHVAL.SIZE": 2,
    "MODEL.DEVICE": "cpu",
    "MODEL.CR.WIDTH_MULTIPLIER": 0.25,
    "MODEL.FPN.OUT_CHANNELS": 8,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 8,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 5,
    "MODEL.SUPERNET.STAGE_CHOICES": "[[1], [1], [2], [2, 3], [3, 4], [3, 4], [3, 4], [1], [1], [1]]",
    "MODEL.SUPERNET.OPERATIONS": [0, 1],
    "INPUT.MIN_SIZE_TRAIN": "(64,)",
    "INPUT.MIN_SIZE_TEST": 64,
    "DATALOADER.NUM_WORKERS": 0,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.BASE_LR": 1e-9,
    "SOLVER.MAX_ITER": 1,
    "SOLVER.STEPS": "()",
    "SEARCH.SURVIVORS": 1,
    "SEARCH.RECIPE.SHORTLIST.CODES": 0,
    "SEARCH.BN.BATCHES": 1,
    "SEARCH.BN.IMAGES_PER_BATCH": 2,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of a search that has ended."""
    folder = tmp_path_factory.mktemp("from_weights")
    torch.manual_seed(0)
    torch.save(mobilenet_v2(width_mult=0.25).state_dict(), folder / WEIGHTS)
    for seed, (split, images) in enumerate((("train", 6), ("val", 2))):
        write_tiny_coco(folder / split, images=images, seed=seed)
    procedure(folder).run()
    return folder


def procedure(folder, *opts):
    data = [
        [f"own_{s}", str(folder / s / "annotations.json"), str(folder / s / "images")]
        for s in ("train", "val")
    ]
    keys = {
        **SMALL,
        "SEARCH.RECIPE.SEED_WEIGHTS": folder / WEIGHTS,
        "DATASETS.COCO_JSON": data,
        "DATASETS.ARCHVAL.DIR": folder,
        "OUTPUT_DIR": folder / "output",
    }
    words = [str(word) for pair in keys.items() for word in pair]
    return Procedure(Recipe("Search/own_data_MNV2.yaml", [*words, *map(str, opts)]))


def backbone(path):
    tensors = torch.load(path, weights_only=True)["model"]
    prefix = "backbone.bottom_up."
    return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}


def test_every_training_has_started_from_the_file(folder):
    """After an iteration of no size, the parameters are still those of the file."""
    expected = read_seed_network(str(folder / WEIGHTS)).weights
    trained = backbone(folder / "output" / "baseline" / "model_final.pth")
    parameters = [n for n in trained if not n.endswith(("running_mean", "running_var", "tracked"))]
    assert len(parameters) == 3 * 52
    for name in parameters:
        assert torch.allclose(trained[name], expected[name], atol=1e-6), name
    for step, name, source in (
        ("stage_supernet", "c64.ops.4.3.project.weight", "c64.3.project.weight"),
        ("stage_supernet", "c160.ops.4.3.project.weight", "c160.2.project.weight"),
        ("dilation_supernet", "c24.1.depthwise.ops.1.weight", "c24.1.depthwise.weight"),
        ("final", "c96.0.expand.weight", "c96.0.expand.weight"),
    ):
        trained = backbone(folder / "output" / step / "model_final.pth")
        assert torch.allclose(trained[name], expected[source], atol=1e-6), (step, name)


def test_what_it_started_from_is_on_record(folder, monkeypatch):
    sha256 = file_sha256(str(folder / WEIGHTS))
    output = folder / "output"
    for step in ("stage_search", "operation_search"):
        searched = json.loads((output / step / "result.json").read_text())["searched"]
        assert searched["supernet"]["seed_weights"] == {"name": WEIGHTS, "sha256": sha256}
    # Without its figures
    monkeypatch.setattr("crnas_d2.report.search_page.SearchPage._attempt", lambda *_: None)
    with open(report_procedure(procedure(folder))) as file:
        page = file.read()
    names = "stage_supernet, dilation_supernet, baseline, final of each seed"
    assert f"{names} start from {WEIGHTS}, remapped (SHA-256 {sha256})." in page


def test_a_short_list_starts_from_the_file_too(folder):
    planned = procedure(folder, "SEARCH.RECIPE.SHORTLIST.CODES", 1)
    names = (
        "stage_supernet, stage_shortlist, dilation_supernet, operation_shortlist, baseline, final "
        "of each seed"
    )
    assert planned.start[0].startswith(f"{names} start from {WEIGHTS}, remapped")
    for step in planned.steps:
        if "shortlist" in step.name:
            cfg = planned.config(step)
            assert cfg.MODEL.WEIGHTS == str(folder / WEIGHTS) and cfg.MODEL.INIT.REMAP is True


def test_the_found_detector_is_trained_again_from_the_file(folder, monkeypatch):
    """By the command in its head; the file itself has the trained weights, and needs no remapping."""
    output = folder / "output"
    lines = (output / "final.yaml").read_text().splitlines()
    assert "INIT" not in yaml.safe_load((output / "final.yaml").read_text())["MODEL"]
    (command,) = [line for line in lines if "crnas train" in line]
    words = shlex.split(command.removeprefix("#"))
    monkeypatch.chdir(output)
    cfg = read_config("final.yaml", words[words.index("OUTPUT_DIR") :])
    assert cfg.MODEL.WEIGHTS == str(folder / WEIGHTS) and cfg.MODEL.INIT.REMAP is True


def test_it_predicts(folder, tmp_path):
    images, found = folder / "val" / "images", tmp_path / "predictions"
    arguments = ["--model", folder / "output", "--input", images, "--output", found]
    predict.main([*map(str, arguments), "--conf-threshold", "0"])
    assert json.loads((found / "predictions.json").read_text())["annotations"]


def test_another_file_does_not_go_on_with_these_steps(folder):
    """Whatever its name."""
    (folder / "elsewhere").mkdir()
    other = folder / "elsewhere" / WEIGHTS
    torch.manual_seed(1)
    torch.save(mobilenet_v2().state_dict(), other)
    changed = procedure(folder, "SEARCH.RECIPE.SEED_WEIGHTS", other)
    assert all(row.endswith(" open") for row in describe(changed).splitlines()[2:8])
    sha256 = [file_sha256(str(path)) for path in (folder / WEIGHTS, other)]
    message = (
        f"stage_supernet was begun with other values:\n  weights: {sha256[0]} there, {sha256[1]}"
    )
    with pytest.raises(ValueError, match=message):
        changed.run()
