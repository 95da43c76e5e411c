"""Latency: in turn, under equal conditions, with as many boxes in every network."""

import itertools
import random
import statistics

import pytest
import torch

from crnas_d2 import Architecture, get_config
from crnas_d2.analysis.latency import Latency, Timing, _build, measure_latency, time_in_turn
from crnas_d2.config import set_architecture

CODES = [(1, 1, 1, 1), (1, 2, 1, 1), (1, 1, 1, 3)]


class Machine:
    """A clock, and passes that take the seconds that are told, times how slow it is at the time."""

    def __init__(self, seconds):
        self.seconds, self.now, self.slowness, self.log = seconds, 100.0, 1.0, []

    def clock(self):
        return self.now

    def passes(self):
        return {code: lambda code=code: self._pass(code) for code in self.seconds}

    def _pass(self, code):
        self.log.append(code)
        self.now += self.seconds[code] * self.slowness


def test_each_turn_has_each_detector_once_in_an_order_by_chance():
    machine = Machine(dict.fromkeys(itertools.product((1, 2), repeat=3), 1.0))
    times = time_in_turn(machine.passes(), runs=6, warm_up=2, clock=machine.clock)
    turns = [machine.log[start : start + 8] for start in range(0, len(machine.log), 8)]
    assert len(turns) == 8
    assert all(sorted(turn) == sorted(machine.seconds) for turn in turns)
    assert len(set(map(tuple, turns))) == 8
    assert {len(seconds) for seconds in times.values()} == {6}
    again = Machine(machine.seconds)
    time_in_turn(again.passes(), runs=6, warm_up=2, clock=again.clock)
    assert again.log == machine.log


def test_warm_up_does_not_count():
    machine = Machine({(1,): 1.0, (2,): 2.0})
    passes = machine.passes()

    def cold():
        machine.now += 50.0 if machine.log.count((1,)) < 3 else 0.0
        machine._pass((1,))

    times = time_in_turn({**passes, (1,): cold}, runs=4, warm_up=3, clock=machine.clock)
    assert times == {(1,): [1.0] * 4, (2,): [2.0] * 4}


def test_drift_meets_all_alike():
    """Of a machine that becomes three times slower, the medians have the ratio of the true times."""
    seconds = {(n,): 1.0 + n / 10 for n in range(5)}
    machine = Machine(seconds)

    def slower(run):
        machine.slowness += 2 / (5 * 61)
        run()

    passes = {code: lambda run=run: slower(run) for code, run in machine.passes().items()}
    times = time_in_turn(passes, runs=61, warm_up=0, clock=machine.clock)
    medians = {code: statistics.median(t) for code, t in times.items()}
    for code in seconds:
        assert medians[code] / medians[(0,)] == pytest.approx(seconds[code], rel=0.01)


def test_median_and_quartiles_in_milliseconds():
    seconds = [random.Random(3).uniform(0.01, 0.02) for _ in range(21)]
    lower, median, upper = statistics.quantiles(seconds, n=4, method="inclusive")
    latency = Latency.of(seconds)
    assert (latency.lower, latency.median, latency.upper) == pytest.approx(
        (lower * 1e3, median * 1e3, upper * 1e3)
    )
    assert latency.runs == 21


def detector(base, *opts):
    cfg = get_config(base)
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", *opts])
    return cfg


def variants(cfg, codes=CODES):
    cfgs = {code: cfg.clone() for code in codes}
    for code, variant in cfgs.items():
        set_architecture(variant, Architecture(code))
    return cfgs


THIN = ["MODEL.RESNETS.STEM_OUT_CHANNELS", 8, "MODEL.RESNETS.RES2_OUT_CHANNELS", 16]
THIN += ["MODEL.RESNETS.WIDTH_PER_GROUP", 4]
THIN_FPN = [*THIN, "MODEL.FPN.OUT_CHANNELS", 8, "MODEL.ROI_BOX_HEAD.FC_DIM", 8]
THIN_FPN += ["MODEL.RPN.POST_NMS_TOPK_TEST", 30]
FASTER = "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"


@pytest.mark.parametrize(
    "base, opts, found",
    [
        (FASTER, [*THIN_FPN, "TEST.DETECTIONS_PER_IMAGE", 20], 20),
        (FASTER, [*THIN_FPN, "MODEL.MASK_ON", True, "TEST.DETECTIONS_PER_IMAGE", 5], 5),
        (
            FASTER,
            [*THIN_FPN, "MODEL.KEYPOINT_ON", True, "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", [8]]
            + ["TEST.DETECTIONS_PER_IMAGE", 5],
            5,
        ),
        (
            FASTER,
            [*THIN_FPN, "MODEL.META_ARCHITECTURE", "PanopticFPN", "MODEL.MASK_ON", True]
            + ["MODEL.SEM_SEG_HEAD.CONVS_DIM", 32, "TEST.DETECTIONS_PER_IMAGE", 5],
            5,
        ),
        (
            "COCO-Cascade/cascade_mask_rcnn_R_101_FPN_20e.yaml",
            [*THIN_FPN, "TEST.DETECTIONS_PER_IMAGE", 20],
            20,
        ),
        (
            "COCO-Detection/faster_rcnn_R_50_C4_1x.yaml",
            [*THIN, "MODEL.RPN.POST_NMS_TOPK_TEST", 30, "TEST.DETECTIONS_PER_IMAGE", 10],
            10,
        ),
        (
            "COCO-Detection/retinanet_R_50_FPN_1x.yaml",
            [*THIN, "MODEL.FPN.OUT_CHANNELS", 32, "MODEL.RETINANET.NUM_CONVS", 1],
            100,
        ),
    ],
    ids=["Faster", "Mask", "Keypoint", "Panoptic", "Cascade", "C4", "RetinaNet"],
)
def test_as_many_boxes_in_every_network(base, opts, found):
    cfg = detector(base, *opts)
    outputs, proposals = [], []
    image = torch.randint(256, (3, 128, 96), generator=torch.Generator().manual_seed(1)).byte()
    for model in _build(variants(cfg), torch.device("cpu")).values():
        if getattr(model, "proposal_generator", None):
            model.proposal_generator.register_forward_hook(
                lambda module, args, output: proposals.append(len(output[0][0]))
            )
        with torch.inference_mode():
            outputs += [model([{"image": image}] * 2) for _ in range(2)]
    instances = [image["instances"] for batch in outputs for image in batch]
    assert {len(found) for found in instances} == {found}
    assert set(proposals) == ({30} if "rcnn" in base else set())
    first = instances[0]
    for other in instances[2::2]:  # the same image of the batch, in other networks and runs
        assert torch.equal(other.pred_boxes.tensor, first.pred_boxes.tensor)
        assert torch.equal(other.pred_classes, first.pred_classes)
        assert torch.equal(other.scores, first.scores)
    if cfg.MODEL.MASK_ON:
        assert {len(found.pred_masks) for found in instances} == {found}


def test_random_weights_alone_would_find_as_many_as_they_like():
    """What the made outputs are for."""
    cfg = detector(FASTER, *THIN_FPN, "TEST.DETECTIONS_PER_IMAGE", 20)
    counts = set()
    with torch.inference_mode():
        for model in _build(variants(cfg), torch.device("cpu")).values():
            model.roi_heads.box_predictor._forward_hooks.clear()
            image = torch.zeros(3, 96, 96, dtype=torch.uint8)
            counts.add(len(model([{"image": image}])[0]["instances"]))
    assert counts != {20}


def test_networks_share_weights_and_leave_the_generators_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    models = _build(variants(detector(FASTER, *THIN_FPN)), torch.device("cpu"))
    assert torch.equal(torch.rand(3), expected)
    shallow, deep = models[1, 1, 1, 1], models[1, 1, 1, 3]
    shared = dict(deep.named_parameters())
    for name, parameter in shallow.named_parameters():
        assert parameter.data_ptr() == shared[name].data_ptr()
    assert len(shared) > len(list(shallow.parameters()))


def test_a_detector_whose_boxes_cannot_be_made():
    cfg = detector(FASTER, *THIN_FPN, "MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals")
    with pytest.raises(ValueError, match="latency of a GeneralizedRCNN.*expected an RPN"):
        _build(variants(cfg, CODES[:1]), torch.device("cpu"))


def test_a_segmentor_has_no_boxes():
    cfg = detector(FASTER, *THIN, "MODEL.META_ARCHITECTURE", "SemanticSegmentor")
    models = _build(variants(cfg, CODES[:1]), torch.device("cpu"))
    assert len(models) == 1


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_whole_detectors_are_timed(monkeypatch, precision):
    ticks, tick = itertools.count(), 1e3 / 1024
    cfgs = variants(detector(FASTER, *THIN_FPN))
    timing = Timing((64, 96), batch=2, precision=precision, runs=3, warm_up=1)
    forward = torch.nn.Module.__call__
    calls = []

    def counted(self, *args, **kwargs):
        if type(self).__name__ == "GeneralizedRCNN":
            batch = args[0]
            calls.append((len(batch), tuple(batch[0]["image"].shape), self.training))
            assert torch.is_inference_mode_enabled()
            assert torch.is_autocast_enabled("cpu") == (precision != "float32")
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(torch.nn.Module, "__call__", counted)
    latencies = measure_latency(cfgs, timing, clock=lambda: next(ticks) / 1024)
    assert calls == [(2, (3, 64, 96), False)] * 12
    assert latencies == {code: Latency(tick, tick, tick, 3) for code in CODES}
