"""A representative sample of a dataset's images with their objects."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..data.images import UnreadableError, read_pixels
from ..data.objects import LARGE, SMALL, Objects
from .compared_images import SIDE, describe, jpeg
from .drawing import draw_objects
from .themes import data_uri

MOST = 16
SEED = 0


def choose(objects: Objects, count: int = MOST, seed: int = SEED) -> Iterator[int]:
    """Iterate over distinct images, the first of which show every class and size if possible.

    After ``count`` images, the order is random.

    Args:
        objects: objects in the original images.
        count: number of images to choose.
        seed: seed of the random order.
    """
    areas = np.digitize(objects.lengths**2, [SMALL, LARGE])
    seen: dict[int, set] = {}
    for image, cls, area in zip(objects.images, objects.classes, areas):
        seen.setdefault(int(image), set()).update(
            (("class", int(cls)), ("area", int(area)), (int(cls), int(area)))
        )
    rest = np.random.default_rng(seed).permutation(len(objects.sizes)).tolist()
    missing = set().union(*seen.values())
    for _ in range(min(count, len(rest))):
        useful = [i for i in rest if not missing.isdisjoint(seen.get(i, ()))] if missing else []
        best = max(useful, key=lambda i: _worth(seen[i] & missing), default=rest[0])
        missing -= seen.get(best, set())
        rest.remove(best)
        yield best
    yield from rest


def _worth(shown: set) -> tuple[int, int]:
    alone = sum(isinstance(part[0], str) for part in shown)
    return alone, len(shown)


def draw_sample(
    dataset: Sequence[Mapping[str, Any]],
    objects: Objects,
    class_names: Sequence[str],
    masks: bool,
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Draw a sample.

    Args:
        dataset: dataset in Detectron2's format.
        objects: its objects.
        class_names: names of its classes.
        masks: whether to draw masks too.

    Returns:
        The images for a template, and a sentence for each unreadable one, by its file.
    """
    samples: list[dict[str, Any]] = []
    faults: dict[str, str] = {}
    for index in choose(objects):
        if len(samples) == MOST or len(faults) == MOST:
            break
        image = dataset[index]
        try:
            pixels = read_pixels(image["file_name"])
        except UnreadableError as error:
            faults[image["file_name"]] = str(error)
            continue
        annotations = image.get("annotations", [])
        shown = [{k: v for k, v in o.items() if k in _shown(masks)} for o in annotations]
        drawn = draw_objects(pixels, shown, class_names, SIDE / max(pixels.shape[:2]))
        name, (height, width) = os.path.basename(image["file_name"]), pixels.shape[:2]
        said = image.get("height", height), image.get("width", width)
        samples.append(
            {
                "title": f"{name}, {width} x {height}",
                "note": "" if said == (height, width) else f"said to be {said[1]} x {said[0]}",
                "alt": describe(name, shown, class_names),
                "uri": data_uri("jpeg", jpeg(drawn)),
                "width": drawn.shape[1],
                "height": drawn.shape[0],
            }
        )
    return samples, faults


def _shown(masks: bool) -> set[str]:
    keys = {"bbox", "bbox_mode", "category_id", "iscrowd"}
    return keys | {"segmentation"} if masks else keys
