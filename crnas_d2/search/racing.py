"""A race over archval: architectures that are clearly below the leader stop early."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from pycocotools.coco import COCO

from ..evaluation.bootstrap import BootstrapAP, ResampledImages, poisson_weights
from ..evaluation.detections import Detections
from ..architecture import Code, format_code
from .ranking import find_leader

# The detections of some architectures in the images of a slice, given by its index.
Detect = Callable[[Sequence[Code], int], Mapping[Code, Detections]]


def to_drop(
    resampled: Mapping[Code, np.ndarray], scores: Mapping[Code, float], confidence: float
) -> list[Code]:
    """The architectures that are below the leader in at least ``confidence`` of the resamples.

    The leader is the one with the best score, of equals the smaller code; it is never dropped, and
    neither is what equals it in every resample. A confidence of 1 asks for a lower AP in every
    resample. R resamples tell confidences apart in steps of 1 / R.

    The confidence is that of one comparison, of two architectures on a random sample of images:
    roughly, one that is as good as the leader is dropped with probability 1 - confidence. It is not
    corrected for the number of architectures, nor for the looks after each slice, nor for the
    leader being the luckiest so far. So the best architecture is lost more often than that, and
    how often depends on how close the others are. The bootstrap itself is an approximation that is
    poor for few images, or categories with few objects.

    Args:
        resampled: (R,) APs of each architecture, in the same resamples. A NaN is not below.
        scores: their AP on the images themselves.
        confidence: above 0, at most 1.

    Returns:
        In the order of ``resampled``.

    Raises:
        ValueError: the confidence is out of range, or the two mappings have different codes.
    """
    if not 0 < confidence <= 1:
        raise ValueError(f"confidence {confidence}; expected more than 0 and at most 1")
    if resampled.keys() != scores.keys():
        raise ValueError(
            "resampled APs and scores of different architectures: "
            f"{sorted(resampled.keys() ^ scores.keys())[:5]} have only one of them"
        )
    leader = resampled[find_leader(scores)]
    return [code for code, aps in resampled.items() if np.mean(aps < leader) >= confidence]


def race(
    codes: Sequence[Code],
    slices: Sequence[Sequence[int]],
    detect: Detect,
    ground_truth: COCO,
    contiguous_ids: Mapping[int, int],
    *,
    confidence: float,
    resamples: int,
    seed: int,
    iou_type: str = "bbox",
) -> dict[Code, int]:
    """Run architectures on slice after slice; after each but the last :func:`to_drop` decides.

    All is a function of the arguments and of what ``detect`` returns: a race that is run again on
    recorded detections takes the same decisions. Of the detections only 20 bytes for each are
    kept, of architectures still in the race.

    Args:
        codes: different ones.
        slices: image ids, all different. How the bootstrap weighs an image depends on the seed and
            its place in the slices.
        detect: runs the given architectures on the slice with the given index. One that is not in
            what it returns has failed, and leaves the race.
        ground_truth, contiguous_ids, iou_type: as in
            :class:`~crnas_d2.evaluation.bootstrap.ResampledImages`.
        confidence: as in :func:`to_drop`.
        resamples: R, of the bootstrap.
        seed: of the bootstrap.

    Returns:
        For each architecture, in the order given, how many slices it has seen, from the first: all
        of them if it is still in the race at the end, k if it was dropped after slice k or failed
        on the next one.

    Raises:
        ValueError: there are no codes, slices or resamples, a code or an image comes twice, a
            slice is empty, the confidence is out of range, ``detect`` returns something for an
            architecture that it was not asked for, or one of the errors of ``ResampledImages`` and
            ``BootstrapAP``.
    """
    if not codes or len(set(codes)) < len(codes):
        raise ValueError(f"{len(codes)} architectures, {len(set(codes))} different; expected some")
    if not slices or not all(map(len, slices)):
        raise ValueError(f"slices of {[*map(len, slices)]} images; expected some, none empty")
    if resamples < 1:
        raise ValueError(f"{resamples} resamples; expected 1 or more")
    if not 0 < confidence <= 1:
        raise ValueError(f"confidence {confidence}; expected more than 0 and at most 1")
    image_ids = [image_id for of_slice in slices for image_id in of_slice]
    drawn = poisson_weights(len(image_ids), resamples, seed)
    weights = np.hstack([np.ones_like(drawn[:, :1]), drawn])  # first the images themselves
    images = ResampledImages(ground_truth, contiguous_ids, image_ids, weights, iou_type)

    seen = dict.fromkeys(codes, 0)
    racing = {code: BootstrapAP(images) for code in codes}
    for index, of_slice in enumerate(slices):
        found = detect(list(racing), index)
        if not found.keys() <= racing.keys():
            raise ValueError(
                f"slice {index}: detections of architectures that were not asked for: "
                f"{sorted(found.keys() - racing.keys())[:5]}"
            )
        racing = {code: racing[code] for code in racing if code in found}
        for code in racing:
            seen[code] += 1
        if not racing:
            break
        if len(racing) == 1 or index == len(slices) - 1:
            continue  # nothing to compare, or nothing to save
        aps = {}
        for code, architecture in racing.items():
            architecture.add(of_slice, found[code])
            aps[code] = architecture.ap()
        scores = {code: ap[0] for code, ap in aps.items()}
        dropped = to_drop({code: ap[1:] for code, ap in aps.items()}, scores, confidence)
        leader = find_leader(scores)
        logging.getLogger(__name__).info(
            f"Slice {index + 1} of {len(slices)}: {len(dropped)} of {len(racing)} architectures "
            f"dropped; {format_code(leader)} leads with AP {scores[leader]:.2f}"
        )
        for code in dropped:
            del racing[code]
    return seen
