"""Test images with their ground truth and with the detections of each network."""

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
from ..data.images import read_pixels
from ..files import read_json
from ..procedure.networks import Network
from .drawing import draw_objects
from .runs import read_keys
from .themes import data_uri

IMAGES = 6
LOWEST_SCORE = 0.5
SIDE = 400  # longer side of a drawn image, in pixels
QUALITY = 80  # of a JPEG
MOST_NAMES = 8  # in an image's alternative text
RESULTS = os.path.join("inference", "coco_instances_results.json")


def draw_compared(networks: Sequence[Network], dataset: str) -> list[dict[str, Any]]:
    """Draw a few evenly spaced images that have objects, for a template.

    Args:
        networks: trained and tested networks.
        dataset: the dataset that was tested last.

    Raises:
        OSError, ValueError: there are no results in COCO format, or they do not belong to the
            dataset.

    """
    metadata = MetadataCatalog.get(dataset)
    if metadata.get("evaluator_type") != "coco":
        raise ValueError(
            f"{dataset} is tested by the evaluator {metadata.get('evaluator_type')!r}; images "
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
    """Convert a results file to Detectron2's annotation format with scores, by image.

    Raises:
        ValueError: it is not a results file, or belongs to another dataset.
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
            f"{results[0]['image_id']!r}, those of the dataset such as {images[0]['image_id']!r}"
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
    """Refuse results whose category ids belong to other classes, as after a change of annotations.

    This is only known if a run has left its config.yaml in the parent folder.

    Args:
        path: path of a results file.
        class_names: names of the classes of the ground truth, in the order of the ids.

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
    """Draw an image with its ground truth, and again with each set of detections.

    Masks of the ground truth are drawn if the detections have masks.

    Args:
        detections: sets of detections in Detectron2's annotation format with scores, the last one
            on top.
        image: image in Detectron2's format.
        class_names: names of all classes.
        side: longer side of each drawing, in pixels.

    Returns:
        A list of uint8 arrays of shape (h, w, 3).
    """
    pixels = read_pixels(image["file_name"])
    truth = image["annotations"]
    if not any("segmentation" in d for found in detections for d in found):
        truth = [{k: v for k, v in o.items() if k != "segmentation"} for o in truth]
    scale = side / max(pixels.shape[:2])
    return [draw_objects(pixels, objects, class_names, scale) for objects in (truth, *detections)]


def describe(title: str, objects: Sequence[Mapping[str, Any]], class_names: Sequence[str]) -> str:
    """Describe objects as text, such as "ground truth: 3, 7" or "found: 3 (0.98)"."""
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
