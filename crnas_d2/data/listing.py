"""Which pictures a data set has; its objects are not read where that is possible."""

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
    """A picture as its data set has it.

    Attributes:
        path: of the file.
        image_id: None where it has none.
        size: (width, height) in pixels; None where the data set does not tell.
    """

    path: str
    image_id: int | str | None
    size: tuple[int, int] | None


@dataclass(frozen=True)
class Listing:
    """Of the pictures of a data set.

    Attributes:
        source: the file or folder of the data set, or else its name.
        state: changes with the source, as far as that can be told.
        read: gives the pictures.
    """

    source: str
    state: Any
    read: Callable[[], list[Listed]] = field(compare=False)


def listing_of(name: str, folder: str) -> Listing:
    """
    Args:
        name: of a registered data set. One that is made at first use is made.
        folder: see :func:`~crnas_d2.files.cache_folder`.

    Raises:
        FileNotFoundError: it is not there.
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
    """What the user calls a data set by; a corrected copy may be read in its place."""
    meta = MetadataCatalog.get(name)
    values = (meta.get(key) for key in ("source", "json_file", "dirname"))
    return next((os.fspath(v) for v in values if isinstance(v, (str, os.PathLike)) and v), name)


def images_of_json(json_file: str, state: Any, folder: str) -> list[dict[str, Any]]:
    """The images of a COCO json, with their ``file_name``, ``id``, ``width`` and ``height``.

    Args:
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
