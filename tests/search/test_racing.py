"""Who is dropped, from made APs and in a race of made detections."""

import logging

import numpy as np
import pytest
from evaluation.made_scenes import (
    CONTIGUOUS_IDS,
    make_annotations,
    make_coco,
    make_results,
    of_images,
)

from crnas_d2.evaluation.bootstrap import BootstrapAP, ResampledImages, poisson_weights
from crnas_d2.search.racing import race, to_drop

IMAGE_IDS = list(range(1, 61))
SLICES = [IMAGE_IDS[::3], IMAGE_IDS[1::3], IMAGE_IDS[2::3]]
GOOD, TWIN, CLOSE, BAD = (2, 2), (3, 1), (1, 3), (1, 1)


@pytest.fixture(scope="module")
def coco():
    return make_coco(IMAGE_IDS, make_annotations(np.random.default_rng(0), IMAGE_IDS))


@pytest.fixture(scope="module")
def results(coco):
    """Detections that differ between architectures by how near to the objects they are."""

    def make(seed, spread):
        rng = np.random.default_rng(seed)
        return make_results(rng, coco.dataset["annotations"], IMAGE_IDS, spread)

    good = make(1, 2.0)
    return {GOOD: good, TWIN: good, CLOSE: make(2, 2.2), BAD: make(3, 8.0)}


class Detector:
    """Gives recorded detections, and notes what it was asked for."""

    def __init__(self, results, failing=()):
        self.results, self.failing, self.calls = results, failing, []

    def __call__(self, codes, index):
        self.calls.append((list(codes), index))
        return {
            code: of_images(self.results[code], SLICES[index])
            for code in codes
            if (code, index) not in self.failing
        }


def run(coco, detect, codes=(BAD, GOOD, CLOSE, TWIN), slices=SLICES, **kwargs):
    kwargs = {"confidence": 0.99, "resamples": 200, "seed": 0} | kwargs
    return race(codes, slices, detect, coco, CONTIGUOUS_IDS, **kwargs)


LEADER = np.linspace(20, 40, 100)


@pytest.mark.parametrize("below", [0, 94, 95, 96, 99, 100])
@pytest.mark.parametrize("confidence", [0.95, 0.99, 1])
def test_drops_what_is_below_the_leader_often_enough(below, confidence):
    other = LEADER + 1
    other[:below] -= 2
    dropped = to_drop({(2,): other, (1,): LEADER}, {(1,): 30, (2,): 29}, confidence)
    assert dropped == ([(2,)] if below >= 100 * confidence else [])


def test_resamples_are_compared_in_pairs():
    """Always 0.1 below, though each alone varies by 20."""
    scores = {(1,): 30, (2,): 29.9, (3,): 29.9}
    shuffled = np.random.default_rng(0).permutation(LEADER) - 0.1
    resampled = {(1,): LEADER, (2,): LEADER - 0.1, (3,): shuffled}
    assert to_drop(resampled, scores, 1) == [(2,)]


def test_the_leader_is_the_best_score_and_of_equals_the_smaller_code():
    low = LEADER - 1
    # By the resamples alone (2,) is ahead, but the score decides who leads.
    assert to_drop({(2,): LEADER, (1,): low}, {(1,): 31, (2,): 30}, 0.9) == []
    for scores in ({(1,): 30, (2,): 30}, {(2,): 30, (1,): 30}):
        assert to_drop({(2,): LEADER, (1,): low}, scores, 0.9) == []
        assert to_drop({(2,): low, (1,): LEADER}, scores, 0.9) == [(2,)]
    assert to_drop({(2, 1): LEADER, (10, 1): low}, {(2, 1): 30, (10, 1): 30}, 0.9) == [(10, 1)]


@pytest.mark.parametrize("confidence", [1e-9, 0.5, 1])
def test_equals_and_nan_are_not_below(confidence):
    resampled = {(1,): LEADER, (2,): LEADER.copy(), (3,): np.full(100, np.nan)}
    assert to_drop(resampled, dict.fromkeys(resampled, 30), confidence) == []


@pytest.mark.parametrize("confidence", [0, -1, 1.01, float("nan")])
def test_confidence_out_of_range(coco, confidence):
    with pytest.raises(ValueError, match=f"confidence {confidence}; expected more than 0"):
        to_drop({(1,): LEADER}, {(1,): 30}, confidence)
    with pytest.raises(ValueError, match=f"confidence {confidence}; expected more than 0"):
        run(coco, None, confidence=confidence)


def test_different_codes():
    with pytest.raises(ValueError, match=r"\[\(2,\)\] have only one of them"):
        to_drop({(1,): LEADER}, {(1,): 30, (2,): 30}, 0.9)


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_the_worse_is_dropped_and_equals_stay(coco, results, iou_type):
    detect = Detector(results)
    seen = run(coco, detect, iou_type=iou_type)
    assert list(seen) == [BAD, GOOD, CLOSE, TWIN]
    assert (seen[BAD], seen[GOOD], seen[TWIN]) == (1, 3, 3)
    still = [[code for code in seen if seen[code] > index] for index in range(3)]
    assert detect.calls == [(codes, index) for index, codes in enumerate(still)]


def test_a_confidence_of_1_is_the_most_careful(coco, results):
    seen = {c: run(coco, Detector(results), confidence=c) for c in (0.6, 0.99, 1)}
    assert seen[0.6][CLOSE] < seen[1][CLOSE] == 3
    for code in results:
        assert seen[0.6][code] <= seen[0.99][code] <= seen[1][code]


def test_identical_detections_are_never_dropped(coco, results):
    codes = [(n,) for n in range(5)]
    detect = Detector(dict.fromkeys(codes, results[BAD]))
    assert run(coco, detect, codes, confidence=1e-9) == dict.fromkeys(codes, 3)


@pytest.mark.parametrize(
    "resamples, confidence, seed", [(50, 0.8, 4), *[(1, 0.5, seed) for seed in range(4)]]
)
def test_decisions_are_those_of_to_drop_on_the_images_so_far(
    coco, results, resamples, confidence, seed
):
    image_ids = sum(SLICES, [])

    def ap(code, so_far, weights):
        images = ResampledImages(coco, CONTIGUOUS_IDS, image_ids, weights)
        architecture = BootstrapAP(images)
        architecture.add(so_far, of_images(results[code], so_far))
        return architecture.ap()

    racing = list(results)
    expected = dict.fromkeys(racing, 3)
    for index in (0, 1):
        so_far = sum(SLICES[: index + 1], [])
        scores = {code: ap(code, so_far, np.ones((60, 1)))[0] for code in racing}
        drawn = poisson_weights(60, resamples, seed)
        dropped = to_drop({code: ap(code, so_far, drawn) for code in racing}, scores, confidence)
        expected |= dict.fromkeys(dropped, index + 1)
        racing = [code for code in racing if code not in dropped]
    kwargs = {"resamples": resamples, "confidence": confidence, "seed": seed}
    assert run(coco, Detector(results), list(results), **kwargs) == expected


def test_the_same_again_and_in_another_order(coco, results):
    seen = run(coco, Detector(results), confidence=0.8)
    assert run(coco, Detector(results), confidence=0.8) == seen
    assert run(coco, Detector(results), [TWIN, CLOSE, GOOD, BAD], confidence=0.8) == seen


def test_failed_architectures_leave(coco, results):
    detect = Detector(results, failing=[(GOOD, 1), (CLOSE, 0)])
    assert run(coco, detect) == {BAD: 1, GOOD: 1, CLOSE: 0, TWIN: 3}
    assert [codes for codes, _ in detect.calls] == [[BAD, GOOD, CLOSE, TWIN], [GOOD, TWIN], [TWIN]]
    all_fail = Detector(results, failing=[(code, 0) for code in results])
    assert set(run(coco, all_fail).values()) == {0}
    assert len(all_fail.calls) == 1


def test_one_slice_or_one_architecture_decides_nothing(coco, results):
    assert set(run(coco, Detector(results), slices=SLICES[:1]).values()) == {1}
    assert run(coco, Detector(results), [BAD]) == {BAD: 3}


def test_slices_without_objects_decide_nothing(coco, results):
    empty = [image_id for image_id in IMAGE_IDS if image_id % 4 == 0]

    def detect(codes, index):
        return {code: of_images(results[code], (empty, [1, 2])[index]) for code in codes}

    assert set(run(coco, detect, slices=[empty, [1, 2]]).values()) == {2}


def test_says_who_leads(coco, results, caplog):
    with caplog.at_level(logging.INFO, "crnas_d2.search.racing"):
        run(coco, Detector(results), [BAD, TWIN, GOOD])
    first, second = caplog.messages  # nothing is decided after the last slice
    assert first.startswith("Slice 1 of 3: 1 of 3 architectures dropped; 2-2 leads with AP ")
    assert second.startswith("Slice 2 of 3: 0 of 2 architectures dropped; 2-2 leads with AP ")


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"codes": []}, "0 architectures, 0 different"),
        ({"codes": [GOOD, GOOD]}, "2 architectures, 1 different"),
        ({"slices": []}, r"slices of \[\] images"),
        ({"slices": [[1], []]}, r"slices of \[1, 0\] images"),
        ({"slices": [[1, 2], [2]]}, "3 images, but 2 different"),
        ({"slices": [[1], [1000]]}, r"images \[1000\] are not in the ground truth"),
        ({"resamples": 0}, "0 resamples"),
    ],
)
def test_bad_arguments_before_any_work(coco, kwargs, message):
    with pytest.raises(ValueError, match=message):
        run(coco, None, **kwargs)


def test_detections_that_were_not_asked_for(coco, results):
    with pytest.raises(ValueError, match=r"slice 0: .*not asked for: \[\(1, 3\)\]"):
        run(coco, lambda codes, index: {CLOSE: of_images(results[CLOSE], [])}, [GOOD, TWIN])
