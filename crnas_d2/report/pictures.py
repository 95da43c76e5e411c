"""The same test images with the ground truth and with what each network finds."""

from __future__ import annotations

import io
import itertools
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from detectron2.structures import BoxMode

from ..data.class_names import tell_apart
from ..data.pictures import read_picture
from ..files import read_json
from ..procedure.networks import Network
from .drawing import draw_objects
from .runs import read_keys
from .themes import data_uri

IMAGES = 6
LOWEST_SCORE = 0.5
SIDE = 400  # of a drawn picture, in pixels, the longer one
QUALITY = 80  # of a JPEG
MOST_NAMES = 8  # in a text that stands for a picture
RESULTS = os.path.join("inference", "coco_instances_results.json")


def draw_pictures(networks: Sequence[Network], dataset: str) -> list[dict[str, Any]]:
    """A few images, evenly spaced among those with objects, for a template.

    Args:
        networks: that were trained and tested.
        dataset: that was tested last.

    Raises:
        OSError, ValueError: there are no results in the form of COCO, or they do not belong to the
            data set.
    """
    metadata = MetadataCatalog.get(dataset)
    if metadata.get("evaluator_type") != "coco":
        raise ValueError(
            f"{dataset} is tested by the evaluator {metadata.get('evaluator_type')!r}; pictures "
            "need the json file of 'coco'"
        )
    images = DatasetCatalog.get(dataset)
    with_objects = [image for image in images if image["annotations"]] or images
    places = np.linspace(0, len(with_objects) - 1, min(IMAGES, len(with_objects)))
    chosen = [with_objects[i] for i in places.round().astype(int)]
    detections = {network.name: _read_detections(network, images, metadata) for network in networks}
    return [
        {
            "name": os.path.basename(image["file_name"]),
            "panels": _draw_panels(
                image,
                {name: found[image["image_id"]] for name, found in detections.items()},
                tell_apart(metadata.thing_classes),
            ),
        }
        for image in chosen
    ]


def _read_detections(
    network: Network, images: Sequence[Mapping[str, Any]], metadata: Metadata
) -> Mapping[Any, list[dict[str, Any]]]:
    path = os.path.join(os.path.dirname(network.weights), RESULTS)
    return detections_by_image(read_json(path), images, metadata, path)


def detections_by_image(
    results: Any, images: Sequence[Mapping[str, Any]], metadata: Metadata, path: str
) -> Mapping[Any, list[dict[str, Any]]]:
    """The content of a results file in the form of Detectron2's annotations, with their scores.

    Raises:
        ValueError: it is no such file, or that of another data set.
    """
    keys = {"image_id", "category_id", "bbox", "score"}
    if not isinstance(results, list) or not all(
        isinstance(result, dict) and keys <= result.keys() for result in results
    ):
        raise ValueError(f"{path}: expected a list of results that each have {sorted(keys)}")
    known = {image["image_id"] for image in images}
    if results and not any(result["image_id"] in known for result in results):
        raise ValueError(
            f"{path} has no result of an image of {metadata.name}: its image ids are such as "
            f"{results[0]['image_id']!r}, those of the data set such as {images[0]['image_id']!r}"
        )
    check_tested_classes(path, metadata.thing_classes)
    indices = metadata.get("thing_dataset_id_to_contiguous_id") or {
        i: i for i in range(len(metadata.thing_classes))
    }
    by_image = defaultdict(list)
    for result in results:
        category = result["category_id"]
        if category not in indices:
            raise ValueError(f"{path}: {metadata.name} has no category id {category!r}")
        by_image[result["image_id"]].append(
            {**result, "category_id": indices[category], "bbox_mode": BoxMode.XYWH_ABS}
        )
    return by_image


def check_tested_classes(path: str, class_names: Sequence[str]) -> None:
    """Refuse results whose category ids are of other classes, as when the annotations were changed
    since. That is known where a run has left its config.yaml in the folder above.

    Args:
        path: of a file of results.
        class_names: of the ground truth, in the order of the ids.

    Raises:
        ValueError: the run had other classes, or another order.
    """
    config = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(path))), "config.yaml")
    model = read_keys(config).get("MODEL")
    named = model.get("CLASS_NAMES", []) if isinstance(model, dict) else []
    tested, class_names = tell_apart(named), tell_apart(class_names)
    if tested and tested != class_names:
        pairs = itertools.zip_longest(tested, class_names)
        index, (there, here) = next((i, p) for i, p in enumerate(pairs) if p[0] != p[1])
        raise ValueError(
            f"{path}: by {config} the classes were {len(tested)} when these results were made, and "
            f"the ground truth has {len(class_names)}; at index {index} stand {there!r} and {here!r}. "
            "Expected the same in the same order: test once more with this ground truth"
        )


def _draw_panels(
    image: Mapping[str, Any],
    detections: Mapping[str, Sequence[Mapping[str, Any]]],
    class_names: Sequence[str],
) -> list[dict[str, Any]]:
    shown = {}
    for name, found in detections.items():
        sure = [detection for detection in found if detection["score"] >= LOWEST_SCORE]
        shown[name] = sorted(sure, key=lambda detection: detection["score"])
    objects = {"ground truth": image["annotations"], **shown}
    drawn = draw_truth_and(list(shown.values()), image, class_names, SIDE)
    return [
        {
            "title": title,
            "alt": describe(title, objects[title][::-1], class_names),
            "uri": data_uri("jpeg", jpeg(pixels)),
            "width": pixels.shape[1],
            "height": pixels.shape[0],
        }
        for title, pixels in zip(objects, drawn)
    ]


def draw_truth_and(
    detections: Sequence[Sequence[Mapping[str, Any]]],
    image: Mapping[str, Any],
    class_names: Sequence[str],
    side: int,
) -> list[np.ndarray]:
    """An image with its ground truth, and once more with each set of detections.

    Masks of the ground truth are drawn where the detections have some.

    Args:
        detections: in the form of Detectron2's annotations, with scores, the last one on top.
        image: in Detectron2's form.
        class_names: of all classes.
        side: the longer one of each drawing, in pixels.

    Returns:
        (h, w, 3) uint8 each.
    """
    pixels = read_picture(image["file_name"])
    truth = image["annotations"]
    if not any("segmentation" in d for found in detections for d in found):
        truth = [{k: v for k, v in o.items() if k != "segmentation"} for o in truth]
    scale = side / max(pixels.shape[:2])
    return [draw_objects(pixels, objects, class_names, scale) for objects in (truth, *detections)]


def describe(title: str, objects: Sequence[Mapping[str, Any]], class_names: Sequence[str]) -> str:
    """In words: ground truth: 3 and 7; found: 3 (0.98)."""
    names = []
    for instance in objects[:MOST_NAMES]:
        score = f" ({instance['score']:.2f})" if "score" in instance else ""
        names.append(class_names[instance["category_id"]] + score)
    more = [f"{len(objects) - MOST_NAMES} more"] if len(objects) > MOST_NAMES else []
    return f"{title}: {', '.join(names + more) or 'nothing'}"


def jpeg(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return buffer.getvalue()
