"""Lists the images of a dataset, without reading its objects if possible."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from detectron2.data import DatasetCatalog, MetadataCatalog

from ..files import read_json
from .cache import remembered, state_of


class Listed(NamedTuple):
    """An image as described by its dataset.

    Attributes:
        path: path of the file.
        image_id: id of the image. None if it has none.
        size: (width, height) in pixels. None if the dataset does not state it.
    """

    path: str
    image_id: int | str | None
    size: tuple[int, int] | None


@dataclass(frozen=True)
class Listing:
    """The images of a dataset.

    Attributes:
        source: file or folder of the dataset, or else its name.
        state: changes with the source, as far as this is known.
        read: reads the images.
    """

    source: str
    state: Any
    read: Callable[[], list[Listed]] = field(compare=False)


def listing_of(name: str, folder: str) -> Listing:
    """Get the listing of a dataset.

    Args:
        name: name of a registered dataset, which is generated if it is generated on first use.
        folder: see :func:`~crnas_d2.files.cache_folder`.

    Raises:
        FileNotFoundError: it does not exist.
    """
    meta = MetadataCatalog.get(name)
    if meta.get("evaluator_type") == "coco" and meta.get("json_file"):
        json_file, root = os.fspath(meta.json_file), os.fspath(meta.image_root)
        state = state_of(json_file)
        read = functools.partial(_read_json, json_file, root, state, folder)
        return Listing(_source(name), (json_file, root, state), read)
    read = functools.partial(_read_loaded, name)
    return Listing(_source(name), DatasetCatalog.data[name], read)


def _source(name: str) -> str:
    """Get the user's own path of a dataset, in place of which a corrected copy may be read."""
    meta = MetadataCatalog.get(name)
    values = (meta.get(key) for key in ("source", "json_file", "dirname"))
    return next((os.fspath(v) for v in values if isinstance(v, (str, os.PathLike)) and v), name)


def images_of_json(json_file: str, state: Any, folder: str) -> list[dict[str, Any]]:
    """Get the images of a COCO json with their ``file_name``, ``id``, ``width`` and ``height``.

    Args:
        json_file: path of the json file.
        state: see :func:`~crnas_d2.data.cache.state_of`.
        folder: see :func:`~crnas_d2.files.cache_folder`.
    """

    def images() -> list[dict[str, Any]]:
        return [
            {key: image[key] for key in ("file_name", "id", "width", "height") if key in image}
            for image in read_json(json_file)["images"]
        ]

    return remembered(folder, "images", state, images) if state else images()


def _read_json(json_file: str, root: str, state: Any, folder: str) -> list[Listed]:
    images = images_of_json(json_file, state, folder)
    return [_listed(image, image.get("id"), root) for image in images]


def _read_loaded(name: str) -> list[Listed]:
    images = DatasetCatalog.get(name)
    return [_listed(image, image.get("image_id")) for image in images if "file_name" in image]


def _listed(image: dict[str, Any], image_id: int | str | None, root: str = "") -> Listed:
    sized = "width" in image and "height" in image
    return Listed(
        os.path.join(root, image["file_name"]),
        image_id,
        (image["width"], image["height"]) if sized else None,
    )
