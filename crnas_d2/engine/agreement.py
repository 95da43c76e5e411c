"""Compares the detections of two runs of one detector on the same image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import scipy
import torch
from torchvision.ops import box_iou

# Outputs with N rows each, which include "pred_boxes", "pred_classes" and "scores"
Detections = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Selection:
    """How a detector selects its detections among candidates.

    Attributes:
        score_threshold: scores have to be above this.
        iou_threshold: if two boxes of one class overlap by more than this, NMS drops the one with
            the lower score.
        most: maximum number of detections, of which those with the highest scores are kept.
    """

    score_threshold: float
    iou_threshold: float
    most: float


@dataclass(frozen=True)
class Agreement:
    """The matched detections of a first and a second run.

    Attributes:
        limits: for each output, the maximum difference within a pair.
        differences: for each output, the largest difference that occurs within a pair.
        missing, extra: indices of the detections of the first and of the second run without a
            partner.
    """

    limits: Mapping[str, float]
    differences: Mapping[str, float]
    missing: list[int]
    extra: list[int]


def match_detections(first: Detections, second: Detections, tolerance: float) -> Agreement:
    """Match as many detections as possible one to one, regardless of their order.

    The order is arbitrary for equal scores. Two detections are a pair only if their classes are
    equal and no other output of theirs differs by more than the tolerance, relative to the largest
    value that the output has in the first run.
    """
    limits = {
        name: tolerance * values.abs().max().item() if values.numel() else 0.0
        for name, values in first.items()
        if name != "pred_classes"
    }
    distances = relative_distances(first, second, limits)
    unfit = len(distances) + 1.0  # more than all pairs together
    rows, columns = scipy.optimize.linear_sum_assignment(distances.where(distances <= 1, unfit))
    fits = distances[rows, columns] <= 1
    rows, columns = torch.as_tensor(rows)[fits], torch.as_tensor(columns)[fits]
    differences = {
        name: (first[name][rows].double() - second[name][columns].double()).abs().max().item()
        for name in limits
        if len(rows) and first[name].numel()
    }
    return Agreement(
        limits,
        differences,
        missing=sorted(set(range(len(distances))) - set(rows.tolist())),
        extra=sorted(set(range(distances.shape[1])) - set(columns.tolist())),
    )


def relative_distances(
    first: Detections, second: Detections, limits: Mapping[str, float]
) -> torch.Tensor:
    """Compute the distances between all detections of two runs.

    The distance is the largest difference among the outputs with a limit, divided by the limit. It
    is infinite if the classes differ or a value is not a number.

    Returns:
        Distances of shape (N, M).
    """
    distances = (first["pred_classes"][:, None] != second["pred_classes"]).double()
    distances[distances > 0] = torch.inf
    for name, limit in limits.items():
        if first[name].shape[1:] != second[name].shape[1:]:
            return distances + torch.inf
        pair = [d[name].double()[:, None].flatten(1) for d in (first, second)]
        difference = (pair[0][:, None] - pair[1]).abs().amax(dim=-1) / max(limit, 1e-300)
        distances = distances.maximum(difference.nan_to_num(nan=torch.inf))
    return distances


def leave_out_ties(
    agreement: Agreement,
    first: Detections,
    second: Detections,
    selection: Selection,
    find_candidates: Callable[[float], Detections],
) -> tuple[list[int], list[int]]:
    """Keep those detections without a partner that the selection cannot explain by a tie.

    There is a tie if two scores differ by no more than their limit: the scores of a detection and
    of the threshold, or of the last detection if both runs have the maximum number; or the scores
    of two boxes of one class, of which NMS keeps one. In the last case the box of the second run
    has to be a candidate of the first run, as otherwise it is wrong.

    Args:
        agreement: the matched detections.
        first, second: detections of the two runs.
        selection: how they were selected.
        find_candidates: takes a score, and returns the detections of the first run before NMS with
            higher scores.

    Returns:
        The remaining indices of ``missing`` and ``extra``.
    """
    limit = agreement.limits["scores"]
    cut = selection.score_threshold
    if min(len(first["scores"]), len(second["scores"])) >= selection.most:
        cut = max(cut, first["scores"].min().item())
    missing = [i for i in agreement.missing if not first["scores"][i] <= cut + limit]
    extra = [i for i in agreement.extra if not second["scores"][i] <= cut + limit]
    if not missing or not extra:
        return missing, extra
    limits = {name: agreement.limits[name] for name in ("pred_boxes", "scores")}
    candidates = find_candidates(second["scores"][extra].min().item() - 2 * limit)
    known = (relative_distances(candidates, second, limits) <= 1).any(dim=0)
    overlaps = box_iou(first["pred_boxes"], second["pred_boxes"]) > selection.iou_threshold
    ties = relative_distances(first, second, {"scores": limit}) <= 1
    # another box, not another mask of the same box
    ties &= relative_distances(first, second, limits) > 1
    ties &= overlaps & known
    return (
        [i for i in missing if not ties[i, extra].any()],
        [i for i in extra if not ties[missing, i].any()],
    )
