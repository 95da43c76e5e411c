"""Own data sets in COCO format: a json file of boxes and a folder of images."""

import logging
import os
import re
from reprlib import repr as short
from typing import Any, Collection, Dict, Iterator, List, Optional, Set, Tuple

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from PIL import Image

from ..files import is_remote, raise_faults, read_json, real_path
from .masks import mask_fault

__all__ = [
    "SCORED_KEYS",
    "box_fault",
    "leaves_root",
    "register_coco_json",
    "size_fault",
    "validate_coco_json",
]

# What pycocotools reads from every annotation that it scores, beside those that are always needed.
SCORED_KEYS = ("area", "iscrowd")

# pycocotools keeps ids as floating-point numbers, which hold those below exactly.
ID_LIMIT = 10**15

# A box may leave its image by this many pixels: x and width may each be rounded to whole pixels,
# and some tools count from 1. Detectron2 clips such a box.
BOX_TOLERANCE = 1.0


def register_coco_json(
    name: str, json_file: str, image_root: str, required: Collection[str] = ()
) -> None:
    """Validate a data set in COCO format and register it, with its categories, in Detectron2.

    To register the same files under the same name again is fine.

    Args:
        name: such as "bccd_train".
        json_file, image_root, required: see :func:`validate_coco_json`.

    Raises:
        FileNotFoundError, ValueError: as :func:`validate_coco_json`; or the name stands for
            another data set already.
    """
    categories = validate_coco_json(json_file, image_root, required)
    if name in DatasetCatalog:
        meta = MetadataCatalog.get(name)
        known = [meta.get("json_file", f"no json file, but {meta}"), meta.get("image_root", "")]
        if [real_path(str(p)) for p in known] != [real_path(p) for p in (json_file, image_root)]:
            raise ValueError(
                f"the data set name {name!r} is taken: it stands for {known[0]} with images in "
                f"{known[1]!r}, so it cannot stand for {json_file} with images in {image_root!r}"
            )
        # The file may have been edited since.
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    register_coco_instances(
        name,
        {
            "thing_classes": list(categories.values()),
            "thing_dataset_id_to_contiguous_id": {id: i for i, id in enumerate(categories)},
        },
        json_file,
        image_root,
    )


def validate_coco_json(
    json_file: str, image_root: str, required: Collection[str] = ()
) -> Dict[int, str]:
    """Check a data set in COCO format (detection, instance segmentation) in one pass.

    Ids are integers, each used once; every annotation belongs to an image and a category of the
    file; its box [x, y, width, height] is finite, not empty, and leaves the image by at most
    ``BOX_TOLERANCE`` pixels; masks are polygons or run lengths of the image's size; images have a
    size that can be read and a file of their own below the image root (that it exists is checked
    only where the root is local); category names are unique.

    Args:
        json_file: path or URI of the json file.
        image_root: folder that the file names in it are relative to.
        required: keys that every annotation must have besides: ``SCORED_KEYS`` for a data set that
            is scored, "segmentation" for training with masks.

    Returns:
        names of the categories by their id, in the order of the ids, which is also the order of
        Detectron2's class indices.

    Raises:
        FileNotFoundError: no such file or folder.
        ValueError: names the file, the first faults with the ids that have them, and how many
            faults there are.
    """
    if not is_remote(image_root) and not os.path.isdir(image_root):
        raise FileNotFoundError(f"the image root {image_root!r} of {json_file} is not a folder")
    coco = read_json(json_file)
    raise_faults(json_file, _section_faults(coco))
    faults: List[str] = []
    categories = _check_categories(coco["categories"], faults)
    sizes = _check_images(coco["images"], image_root, faults)
    ids = _check_annotations(coco["annotations"], sizes, categories, required, faults)
    raise_faults(json_file, faults)
    if 0 in ids and set(SCORED_KEYS) <= set(required):
        logging.getLogger(__name__).warning(
            f"{json_file} has an annotation with id 0. pycocotools takes a detection that matches "
            "it for a false positive, so AP comes out a little too low: count ids from 1."
        )
    return dict(sorted(categories.items()))


def leaves_root(file_name: str) -> bool:
    """Whether a name, joined to a folder, may lead out of it. Symbolic links are not followed:
    to link images into a folder is the owner's own choice."""
    parts = re.split(r"[/\\]", file_name)
    return os.path.isabs(file_name) or not parts[0] or ".." in parts or "\0" in file_name


def size_fault(width: int, height: int) -> Optional[str]:
    """
    Args:
        width, height: of an image, above 0.

    Returns:
        what is wrong with them; None where nothing is.
    """
    limit = Image.MAX_IMAGE_PIXELS and 2 * Image.MAX_IMAGE_PIXELS
    if limit and width * height > limit:
        return (
            f"width, height are {short(width)}, {short(height)}; expected at most {limit} pixels, as Pillow opens "
            "no larger image"
        )
    return None


def box_fault(
    x: float, y: float, width: float, height: float, size: Tuple[int, int]
) -> Optional[str]:
    """
    Args:
        x, y, width, height: of a box, in pixels.
        size: (width, height) of its image.

    Returns:
        what is wrong with the box; None where nothing is.
    """
    # Stated so that NaN does not pass.
    if not (width > 0 and height > 0):
        return "is empty"
    inside = (
        x >= -BOX_TOLERANCE
        and y >= -BOX_TOLERANCE
        and x + width <= size[0] + BOX_TOLERANCE
        and y + height <= size[1] + BOX_TOLERANCE
    )
    if not inside:
        return f"leaves the image of {size[0]} x {size[1]} pixels"
    return None


def _section_faults(coco: Any) -> List[str]:
    if not isinstance(coco, dict):
        return [f"the top level is {short(coco)}; expected an object with images, annotations, ..."]
    return [
        f"{key!r} is {short(coco.get(key))}; expected a list that is not empty"
        for key in ("images", "annotations", "categories")
        if not isinstance(coco.get(key), list) or not coco[key]
    ]


def _with_id(entries: List[Any], kind: str, faults: List[str]) -> Iterator[Tuple[int, Dict]]:
    """The entries that have an id of their own."""
    seen: Set[int] = set()
    for index, entry in enumerate(entries):
        id = entry.get("id") if type(entry) is dict else None
        if type(id) is not int or abs(id) >= ID_LIMIT:
            faults.append(
                f"{kind} at index {index}: {short(entry)}; expected an object with an integer id "
                "of at most 15 digits"
            )
        elif id in seen:
            faults.append(f"{kind} {id}: another {kind} has the same id")
        else:
            seen.add(id)
            yield id, entry


def _check_categories(entries: List[Any], faults: List[str]) -> Dict[int, str]:
    """Returns: name by id."""
    categories: Dict[int, str] = {}
    owners: Dict[str, int] = {}
    for id, category in _with_id(entries, "category", faults):
        name = categories[id] = category.get("name")
        if type(name) is not str or not name.strip():
            faults.append(f"category {id}: name is {short(name)}; expected text")
        elif owners.setdefault(name, id) != id:
            faults.append(f"category {id}: category {owners[name]} has the same name {name!r}")
    return categories


def _check_images(
    entries: List[Any], image_root: str, faults: List[str]
) -> Dict[int, Optional[Tuple[int, int]]]:
    """Returns: (width, height) by id, None where the file has no valid size."""
    sizes: Dict[int, Optional[Tuple[int, int]]] = {}
    owners: Dict[str, int] = {}
    local = not is_remote(image_root)
    for id, image in _with_id(entries, "image", faults):
        size = image.get("width"), image.get("height")
        sizes[id] = size if all(type(v) is int and v > 0 for v in size) else None
        if sizes[id] is None:
            faults.append(f"image {id}: width, height are {short(size)}; expected integers above 0")
        elif size_fault(*size):
            sizes[id] = None
            faults.append(f"image {id}: {size_fault(*size)}")
        name = image.get("file_name")
        if type(name) is not str or not name:
            faults.append(f"image {id}: file_name is {short(name)}; expected text")
        elif leaves_root(name):
            faults.append(f"image {id}: file_name {name!r} leads out of the image root")
        elif owners.setdefault(os.path.normpath(name), id) != id:
            other = owners[os.path.normpath(name)]
            faults.append(f"image {id}: image {other} has the same file_name {name!r}")
        elif local and not os.path.isfile(os.path.join(image_root, name)):
            faults.append(f"image {id}: there is no file {os.path.join(image_root, name)}")
    return sizes


def _check_annotations(
    entries: List[Any],
    sizes: Dict[int, Optional[Tuple[int, int]]],
    categories: Collection[int],
    required: Collection[str],
    faults: List[str],
) -> Set[int]:
    """Returns: the ids."""
    ids: Set[int] = set()
    for id, annotation in _with_id(entries, "annotation", faults):
        ids.add(id)
        image_id = annotation.get("image_id")
        if type(image_id) is not int or image_id not in sizes:
            faults.append(f"annotation {id}: there is no image with its image_id {short(image_id)}")
            continue
        for fault in _annotation_faults(annotation, sizes[image_id], categories, required):
            faults.append(f"annotation {id} (of image {image_id}): {fault}")
    return ids


def _annotation_faults(
    annotation: Dict,
    size: Optional[Tuple[int, int]],
    categories: Collection[int],
    required: Collection[str],
) -> Iterator[str]:
    category_id, box = annotation.get("category_id"), annotation.get("bbox")
    if type(category_id) is not int or category_id not in categories:
        yield f"there is no category with its category_id {short(category_id)}"
    if type(box) is not list or len(box) != 4 or not all(map(_is_number, box)):
        yield f"bbox is {short(box)}; expected 4 finite numbers [x, y, width, height]"
    elif size is not None:
        fault = box_fault(*box, size)
        if fault:
            yield f"bbox {box} {fault}"
    for key in required:
        if annotation.get(key) in (None, []):
            yield f"it has no {key!r}"
    if annotation.get("iscrowd", 0) not in (0, 1):
        yield f"iscrowd is {short(annotation['iscrowd'])}; expected 0 or 1"
    if annotation.get("ignore", 0) != 0:
        yield "'ignore' is set, which Detectron2 does not support"
    area = annotation.get("area")
    if area is not None and not (_is_number(area) and area >= 0):
        yield f"area is {short(area)}; expected a number that is not negative"
    segmentation = annotation.get("segmentation")
    fault = mask_fault(segmentation, size) if segmentation else None
    if fault:
        yield fault


def _is_number(value: Any) -> bool:
    # Also false for NaN.
    return type(value) in (int, float) and abs(value) < 1e12
