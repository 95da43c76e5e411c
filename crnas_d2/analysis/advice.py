"""Advice on a detector's input size, anchors and detections from the objects of a training set.

Each rule is shown next to the numbers that it is applied to, and each recommendation is measured.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from detectron2.config import CfgNode

from ..data.objects import Objects
from .anchor_fit import GAIN, HALF, LOSS, Anchors, suggest

# Length of an object in pixels, and the maximum share of objects that are shorter
SHORTEST = ((8, 0.01), (16, 0.1))
STEP = 32  # recommended sides are multiples of it
LARGE_FACTOR = 2.0  # enlargement of the input above which its cost is worth a remark
SAMPLE, SEED = 20_000, 0  # objects by which anchors are chosen


@dataclass(frozen=True)
class Advice:
    """The advice on one subject.

    Attributes:
        subject: what it is about.
        found: sentences with the numbers.
        rule: the rule by which they are judged.
        settings: recommended lines of a config. Empty if nothing needs to change.
    """

    subject: str
    found: str
    rule: str
    settings: str = ""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def advise(cfg: CfgNode, anchors: Anchors | None, objects: Objects) -> list[Advice]:
    """Give advice on a detector.

    Args:
        cfg: config of the detector.
        anchors: its anchors. None if it has none.
        objects: objects of the training set, in the original images.
    """
    if not len(objects.boxes):
        return []
    resized = objects.resized(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
    advice = [_input_size(cfg, objects, resized), _detections(cfg, objects)]
    return [*advice, _anchors(anchors, resized)] if anchors else advice


def _input_size(cfg: CfgNode, objects: Objects, resized: Objects) -> Advice:
    rule = "Rule: " + " and ".join(
        f"at most {100 * share:g} % of the objects are shorter than {length} pixels in the detector's "
        "input"
        for length, share in SHORTEST
    )
    rule += ", where an object's length is the square root of its area."
    shortest, longest = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
    name = f"size {shortest} (at most {longest})" if shortest else "the files' own size"
    found = f"At {name}, of the objects {_shares(resized.lengths)}."
    factor = max(length / np.quantile(resized.lengths, share) for length, share in SHORTEST)
    if factor <= 1:
        return Advice("Input size", f"{found} That is well.", rule)
    if not shortest:
        return Advice("Input size", f"{found} Enlarge the images {factor:.1f} times.", rule)
    keys = ("MIN_SIZE_TRAIN", "MAX_SIZE_TRAIN", "MIN_SIZE_TEST", "MAX_SIZE_TEST")
    larger = {key: _enlarge(cfg.INPUT[key], factor) for key in keys}
    measured = objects.resized(larger["MIN_SIZE_TEST"], larger["MAX_SIZE_TEST"])
    found += f" At {larger['MIN_SIZE_TEST']} (at most {larger['MAX_SIZE_TEST']}), "
    found += f"{_shares(measured.lengths)}."
    cost = measured.sizes.prod(axis=1).mean() / resized.sizes.prod(axis=1).mean()
    found += f" That takes {cost:.1f} times the multiply-adds and memory of the feature maps."
    enlarged = (measured.sizes > objects.sizes).any(axis=1).mean()
    if enlarged > 0.5:
        found += (
            f" It enlarges {100 * enlarged:.0f} % of the images, which adds pixels but no detail."
        )
    if cost > LARGE_FACTOR**2:
        found += " Another way is to cut the images into tiles before training and prediction."
    lines = "".join(f"  {key}: {value}\n" for key, value in larger.items())
    return Advice("Input size", found, rule, f"INPUT:\n{lines}")


def _shares(lengths: np.ndarray) -> str:
    shares = [
        f"{_percent((lengths < length).mean())} are shorter than {length} pixels"
        for length, _ in SHORTEST
    ]
    return " and ".join(shares)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _enlarge(side: Any, factor: float) -> Any:
    if isinstance(side, (tuple, list)):
        return tuple(_enlarge(value, factor) for value in side)
    return STEP * math.ceil(side * factor / STEP)


def _detections(cfg: CfgNode, objects: Objects) -> Advice:
    most, limit = int(objects.per_image.max()), cfg.TEST.DETECTIONS_PER_IMAGE
    found = f"The image with the most objects has {most:,} of them."
    rule = (
        "Rule: TEST.DETECTIONS_PER_IMAGE is not below the number of objects of any image. It is "
        f"{limit}; COCO's AP counts 100 detections of each image and class, however many there are."
    )
    if most <= limit:
        return Advice("Detections per image", f"{found} That is well.", rule)
    above = int((objects.per_image > limit).sum())
    found += f" Of {above:,} images, some objects can never be found."
    settings = f"TEST:\n  DETECTIONS_PER_IMAGE: {100 * math.ceil(most / 100)}\n"
    return Advice("Detections per image", found, rule, settings)


def _anchors(anchors: Anchors, resized: Objects) -> Advice:
    rng = np.random.default_rng(SEED)
    count = len(resized.boxes)
    if count > SAMPLE:
        resized = resized.select(np.sort(rng.choice(count, SAMPLE, replace=False)))
    fit = anchors.reach(resized)
    limits = sorted({anchors.threshold: fit.reached, HALF: fit.half}.items(), reverse=True)
    shares = " and ".join(f"an IoU of {limit:g} for {_percent(s)}" for limit, s in limits)
    found = f"The best anchor reaches {shares} of the objects; the mean is {fit.mean:.2f}."
    rule = (
        f"Rule: from an IoU of {anchors.threshold:g} on, an anchor is trained as an object; of an "
        "object that none of them reaches so, the best ones alone are. Other sizes and ratios, as "
        "many as there are, are recommended if they raise that share by "
        f"{100 * GAIN:g} % of the objects and by twice its standard error, and lose no more than "
        f"{100 * LOSS:g} % below {HALF:g}; they are chosen on half of the images and measured on "
        "the others."
    )
    better = suggest(anchors, resized)
    if better is None:
        return Advice("Anchors", f"{found} No others were measured much better.", rule)
    others = resized.select(resized.images % 2 == 1)
    before, after = (a.reach(others).reached for a in (anchors, better))
    found += (
        f" With those below, {_percent(after)} instead of {_percent(before)} of the other half of "
        f"the images' objects reach {anchors.threshold:g}."
    )
    return Advice("Anchors", found, rule, better.settings())
