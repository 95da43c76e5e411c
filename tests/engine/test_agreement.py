"""Detections are compared with those that they are, not with those at their place."""

import math

import pytest
import torch

from crnas_d2.engine.agreement import Selection, leave_out_ties, match_detections

SELECTION = Selection(score_threshold=0.05, iou_threshold=0.5, most=100)
TOLERANCE = 1e-3


def detections(count=6, masks=False):
    """Boxes that do not overlap, in two classes."""
    generator = torch.Generator().manual_seed(0)
    corners = torch.arange(count)[:, None] * torch.tensor([40.0, 0.0])
    sizes = 20 + 10 * torch.rand(count, 2, generator=generator)
    made = {
        "pred_boxes": torch.cat([corners, corners + sizes], dim=1),
        "pred_classes": torch.arange(count) % 2,
        "scores": torch.linspace(0.9, 0.4, count),
    }
    if masks:
        made["pred_masks"] = torch.rand(count, 1, 28, 28, generator=generator)
    return made


def changed(made, index, **values):
    copy = {name: tensor.clone() for name, tensor in made.items()}
    for name, value in values.items():
        copy[name][index] = torch.as_tensor(value)
    return copy


def picked(made, indices):
    return {name: tensor[indices] for name, tensor in made.items()}


def joined(*parts):
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def differing(first, second, selection=SELECTION, candidates=None):
    """How many of the first and of the second make a difference."""
    found = match_detections(first, second, TOLERANCE)
    before_nms = first if candidates is None else joined(first, candidates)

    def find_candidates(score):
        return picked(before_nms, (before_nms["scores"] > score).nonzero()[:, 0])

    left = leave_out_ties(found, first, second, selection, find_candidates)
    return tuple(map(len, left))


@pytest.mark.parametrize("masks", [False, True])
def test_order_makes_no_difference(masks):
    first = detections(masks=masks)
    first["scores"][2:4] = 0.6  # whichever of the two comes first
    second = picked(first, torch.tensor([0, 1, 3, 2, 4, 5]))
    found = match_detections(first, second, TOLERANCE)
    assert (found.missing, found.extra) == ([], [])
    assert found.differences == dict.fromkeys(first.keys() - {"pred_classes"}, 0)
    reversed_ = picked(first, torch.arange(5, -1, -1))
    assert differing(first, reversed_) == (0, 0)


def test_largest_differences_and_limits():
    first = detections()
    second = changed(first, 1, pred_boxes=first["pred_boxes"][1] + 0.01)
    second["scores"][3] -= 0.0005
    found = match_detections(first, second, TOLERANCE)
    assert found.differences == pytest.approx({"pred_boxes": 0.01, "scores": 0.0005}, rel=1e-2)
    largest = first["pred_boxes"].max().item()
    assert found.limits == pytest.approx({"pred_boxes": 1e-3 * largest, "scores": 0.9e-3})
    assert not found.missing and not found.extra


def test_partners_are_found_where_there_are_several():
    """The nearest one of the first box is the only one of the second: all fit, one to one."""
    first = detections(2)
    first["pred_classes"][:] = 0
    first["scores"][:] = 0.5
    first["pred_boxes"][:] = torch.tensor([[0, 0, 100, 100.0], [0.08, 0, 100, 100]])
    second = changed(first, 0, pred_boxes=[0.09, 0, 100, 100])
    second["pred_boxes"][1] = torch.tensor([0.16, 0, 100, 100])
    assert differing(first, second) == (0, 0)


@pytest.mark.parametrize(
    "values",
    [
        {"pred_boxes": [0.0, 0.0, 21.0, 24.0]},
        {"pred_classes": 1},
        {"scores": 0.89},
        {"scores": math.nan},
        {"pred_boxes": [math.nan] * 4},
        {"pred_masks": 0.5},
    ],
)
def test_what_is_changed_is_a_difference(values):
    first = detections(masks=True)
    assert differing(first, changed(first, 0, **values)) == (1, 1)


def test_a_moved_box_is_no_tie_of_nms():
    first = detections()
    moved = changed(first, 2, pred_boxes=first["pred_boxes"][2] + 1)
    assert differing(first, moved) == (1, 1)


def test_a_sure_detection_is_missing():
    first = detections()
    for keep in ([1, 2, 3, 4, 5], [0, 1, 2, 3, 4]):
        assert differing(first, picked(first, keep)) == (1, 0)
        assert differing(picked(first, keep), first) == (0, 1)


def test_twice_is_once_too_often():
    first = detections()
    second = joined(first, picked(first, [0]))
    assert differing(first, second) == (0, 1)


def test_nothing_is_found():
    none = picked(detections(masks=True), [])
    assert differing(none, none) == (0, 0)
    assert differing(none, detections(masks=True)) == (0, 6)
    assert differing(detections(masks=True), none) == (6, 0)


def test_other_shapes_never_fit():
    first = detections(masks=True)
    second = {**first, "pred_masks": first["pred_masks"][..., :14]}
    assert differing(first, second) == (6, 6)


def test_a_score_at_the_threshold_may_be_above_or_below():
    first = detections()
    at_threshold = Selection(first["scores"][5].item() - 1e-5, 0.5, 100)
    assert differing(first, picked(first, [0, 1, 2, 3, 4]), at_threshold) == (0, 0)
    assert differing(picked(first, [0, 1, 2, 3, 4]), first, at_threshold) == (0, 0)
    assert differing(first, picked(first, [0, 1, 2, 3, 5]), at_threshold) == (1, 0)
    clearly_above = Selection(first["scores"][5].item() - 0.01, 0.5, 100)
    assert differing(first, picked(first, [0, 1, 2, 3, 4]), clearly_above) == (1, 0)


def test_the_last_of_as_many_as_there_may_be_may_be_another():
    both = detections()
    both["scores"][4:] = 0.5
    first, second = picked(both, [0, 1, 2, 3, 4]), picked(both, [0, 1, 2, 3, 5])
    assert differing(first, second, Selection(0.05, 0.5, 5)) == (0, 0)
    assert differing(first, second, Selection(0.05, 0.5, 6)) == (1, 1)  # there was room for both
    assert differing(first, picked(both, [0, 1, 2, 3]), Selection(0.05, 0.5, 5)) == (1, 0)


def test_nms_may_keep_either_of_two_equal_scores():
    first = detections()
    other = changed(picked(first, [2]), 0, pred_boxes=first["pred_boxes"][2] + 2)
    second = joined(picked(first, [0, 1, 3, 4, 5]), other)
    assert differing(first, second, candidates=other) == (0, 0)
    assert differing(first, second) == (1, 1)  # the model does not know of this box
    surer = changed(other, 0, scores=other["scores"][0] + 0.01)
    second = joined(picked(first, [0, 1, 3, 4, 5]), surer)
    assert differing(first, second, candidates=surer) == (1, 1)
    elsewhere = changed(other, 0, pred_boxes=first["pred_boxes"][2] + 15)
    second = joined(picked(first, [0, 1, 3, 4, 5]), elsewhere)
    assert differing(first, second, candidates=elsewhere) == (1, 1)
