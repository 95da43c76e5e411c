"""What differs on a GPU: each test runs on the CPU, and where there is a GPU on that too, against the CPU."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from engine.runs import TRAIN_NET, TWO_PROCESSES, train
from thin_detector import write_detector
from tiny_coco import write_tiny_coco
from tiny_search import build, load, some_paths, write_search_config
from warm_python import warm_python

from crnas_d2.analysis import analyze_detector
from crnas_d2.analysis.erf import effective_receptive_fields, noise_images
from crnas_d2.analysis.latency import Timing, describe_device, measure_latency
from crnas_d2.checkpoint import CRCheckpointer
from crnas_d2.config import configs_dir, read_config
from crnas_d2.engine import CRTrainer
from crnas_d2.engine.predicting import Predictor
from crnas_d2.evaluation.evaluator import ArchitectureEvaluator
from crnas_d2.modeling.activation_checkpoint import CheckpointedStage
from crnas_d2.procedure.search_keys import settled

BASE = "COCO-Detection/faster_rcnn_CR_R_18_FPN_1x.yaml"


def gpus(count):
    there = torch.cuda.is_available() and torch.cuda.device_count() >= count
    return pytest.mark.skipif(not there, reason=f"needs {count} GPU{'s' * (count > 1)}")


ON_GPU = pytest.param("cuda", marks=gpus(1))


@pytest.fixture(params=["cpu", ON_GPU])
def device(request):
    return request.param


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    """The config of a thin detector with random weights."""
    return write_detector(tmp_path_factory.mktemp("detector"), BASE)


@pytest.fixture
def training(tmp_path):
    """Arguments of a training of a few iterations, its config first."""
    data = {name: write_tiny_coco(tmp_path / name, images=8, seed=i) for i, name in enumerate("tv")}
    listed = [[f"{n}_{tmp_path}", str(f), str(f.parent / "images")] for n, f in data.items()]
    config = tmp_path / "train.yaml"
    config.write_text(f'_BASE_: "{configs_dir()}/Digits/faster_rcnn_R_18_FPN.yaml"\n')
    return [
        config,
        *("DATASETS.COCO_JSON", listed, "DATASETS.TRAIN", (listed[0][0],)),
        *("DATASETS.TEST", (listed[1][0],), "OUTPUT_DIR", tmp_path / "output"),
        *("SOLVER.MAX_ITER", 6, "SOLVER.IMS_PER_BATCH", 4, "SOLVER.STEPS", ()),
        *("INPUT.MIN_SIZE_TRAIN", (64,), "INPUT.MIN_SIZE_TEST", 64, "TEST.EVAL_PERIOD", 0),
        *("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0, "MODEL.RPN.POST_NMS_TOPK_TEST", 20),
    ]


def scores_of_last_test(output):
    """The scores of all detections of the last test, in order."""
    found = json.loads((output / "inference" / "coco_instances_results.json").read_text())
    assert len(found) > 20
    return sorted(detection["score"] for detection in found)


def assert_the_file_tests_alike(output, config, *options):
    """One process that tests model_final.pth gets the scores with which the training ended."""
    scores = scores_of_last_test(output)
    train(config, "--eval-only", *options, "MODEL.WEIGHTS", output / "model_final.pth")
    np.testing.assert_allclose(scores_of_last_test(output), scores, atol=1e-3)


@pytest.mark.parametrize(
    "step, mode", [("stage", "recalibrate"), ("stage", "running"), ("dilation", "running")]
)
def test_a_search_scores_architectures_as_on_the_cpu(step, mode, device, tmp_path):
    """Small differences of sums move few boxes across a threshold."""
    config = write_search_config(tmp_path, step)
    scores = {}
    for where in ("cpu", device):
        cfg = settled(load(config, "MODEL.DEVICE", where, "SEARCH.BN.MODE", mode))
        evaluator = ArchitectureEvaluator(cfg, build(cfg))
        paths = some_paths(evaluator.space, 4)
        evaluations = list(evaluator.evaluate(paths))
        assert [e.status for e in evaluations] == ["done"] * 4
        scores[where] = [e.metrics["bbox/AP"] for e in evaluations]
    assert max(scores["cpu"]) > 1
    assert scores[device] == pytest.approx(scores["cpu"], abs=0.0 if device == "cpu" else 3.0)


@gpus(1)
def test_a_search_in_half_precision(tmp_path):
    config = write_search_config(tmp_path, "stage")
    scores = []
    for amp in (False, True):
        cfg = settled(load(config, "MODEL.DEVICE", "cuda", "SEARCH.AMP", amp))
        evaluator = ArchitectureEvaluator(cfg, build(cfg))
        evaluations = list(evaluator.evaluate(some_paths(evaluator.space, 4)))
        scores.append([e.metrics["bbox/AP"] for e in evaluations])
    assert scores[0] != scores[1] == pytest.approx(scores[0], abs=5.0)


@pytest.mark.parametrize(
    "device, amp",
    [("cpu", False), *(pytest.param("cuda", amp, marks=gpus(1)) for amp in (False, True))],
)
def test_the_file_of_a_training_tests_as_it_did(training, device, amp, tmp_path):
    """In half precision too, which Detectron2 has on GPUs only."""
    options = [*training, "MODEL.DEVICE", device, "SOLVER.AMP.ENABLED", amp]
    train(*options)
    assert_the_file_tests_alike(tmp_path / "output", *options)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=gpus(2))])
def test_two_processes_keep_one_network(training, device, tmp_path):
    """By NCCL and with SyncBN on two GPUs, by gloo elsewhere."""
    norms = ["MODEL.RESNETS.NORM", "SyncBN", "MODEL.FPN.NORM", "SyncBN"]
    config, *options = [*training, "MODEL.DEVICE", device, *norms]
    command = [TRAIN_NET, "--config-file", config, *TWO_PROCESSES, *options]
    if device == "cpu":
        run = warm_python().run(command)
    else:  # a warm process sees no GPU
        command = [sys.executable, *map(str, command)]
        run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-4000:]
    assert_the_file_tests_alike(tmp_path / "output", config, *options)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_latency(detector, device, precision):
    cfg = read_config(detector, ["MODEL.DEVICE", device])
    code = tuple(cfg.MODEL.CR.STAGE_CODE)
    timing = Timing((64, 96), precision=precision, runs=2, warm_up=1)
    latency = measure_latency({code: cfg}, timing)[code]
    assert 0 < latency.lower <= latency.median
    assert describe_device(device)["device"].startswith(f"{device}, ")


def test_detections_are_those_of_the_cpu(detector, device):
    image = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
    found = [
        Predictor(read_config(detector, ["MODEL.DEVICE", where]))(image)["instances"].to("cpu")
        for where in ("cpu", device)
    ]
    assert len(found[0]) > 10
    best = [instances.scores.sort(descending=True).values[:10] for instances in found]
    torch.testing.assert_close(best[1], best[0], rtol=0, atol=1e-2)


def test_receptive_fields_are_those_of_the_cpu(detector, device):
    model = Predictor(read_config(detector, ["MODEL.DEVICE", "cpu"])).model
    images = noise_images(2, 64)
    expected = effective_receptive_fields(model, ["c4", "p3"], images)
    erfs = effective_receptive_fields(model.to(device), ["c4", "p3"], images.to(device))
    for name, erf in erfs.items():
        np.testing.assert_allclose(erf.map, expected[name].map, atol=2e-2)


def test_the_cost_does_not_depend_on_the_device(detector, device):
    costs = [
        analyze_detector(read_config(detector, ["MODEL.DEVICE", where]), (64, 96))
        for where in ("cpu", device)
    ]
    assert costs[0] == costs[1]


def test_activation_checkpointing_has_the_same_gradients(detector, device):
    gradients = []
    for checkpointed in (False, True):
        opts = ["MODEL.DEVICE", device, "MODEL.CR.ACTIVATION_CHECKPOINT", checkpointed]
        cfg = read_config(detector, opts)
        model = CRTrainer.build_model(cfg)
        CRCheckpointer(model, "", cfg).load(cfg.MODEL.WEIGHTS)
        backbone = model.backbone.train()
        assert any(isinstance(m, CheckpointedStage) for m in backbone.modules()) == checkpointed
        features = backbone(noise_images(2, 64).to(device))
        sum(feature.square().mean() for feature in features.values()).backward()
        gradients.append([p.grad.cpu() for p in backbone.parameters() if p.requires_grad])
    assert gradients[0]
    for one, other in zip(*gradients):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-4)
