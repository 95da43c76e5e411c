"""Images that two datasets have in common, even under different names."""

from __future__ import annotations

import filecmp
import functools
import math
import os
from collections import defaultdict
from typing import Any

from iopath.common.file_io import LazyPath

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from ..paths import cache_folder, real_file
from .cache import state_of
from .draw import DrawSettings
from .listing import images_of_json
from .splits import PARTS, CountedDraw, read_draw, split_names, split_source

MOST_COMPARED = 200


def shared_images(one: str, other: str, data: CfgNode) -> set[str]:
    """Get the files that are images of both datasets, with symbolic links resolved.

    A part that is split from a training set is looked up there, and does not have to be written
    yet.

    Args:
        one, other: names of registered datasets, or of parts of them.
        data: ``DATASETS``, of which ``ARCHVAL`` and ``CACHE_DIR`` are used.

    Raises:
        OSError: a dataset does not exist.
    """
    if share_by_name(one, other) is False:
        return set()
    return image_files(one, data) & image_files(other, data)


def copied_images(one: str, other: str, data: CfgNode) -> tuple[dict[str, str], int]:
    """Find images of a dataset that are byte-identical to images of another one.

    Only local files are compared, at most :data:`MOST_COMPARED` of the first dataset, evenly
    spaced. The arguments and errors are those of :func:`shared_images`.

    Returns:
        The files of the first dataset with their duplicates in the other, and the number of files
        that were compared.
    """
    if share_by_name(one, other) is False:
        return {}, 0
    files = sorted(path for path in image_files(one, data) if os.path.isfile(path))
    files = files[:: math.ceil(len(files) / MOST_COMPARED)] if files else []
    of_size = defaultdict(list)
    for path in filter(os.path.isfile, image_files(other, data)):
        of_size[os.path.getsize(path)].append(path)
    copies = {}
    for path in files:
        same = (it for it in of_size[os.path.getsize(path)] if filecmp.cmp(path, it, shallow=False))
        copy = next(same, None)
        if copy:
            copies[path] = copy
    return copies, len(files)


def share_by_name(one: str, other: str) -> bool | None:
    """Whether two datasets share images, as far as their names determine it, otherwise None.

    The two parts of one split do not, whereas a dataset and a part of it do.
    """
    sources = [source_of_drawn(name) for name in (one, other)]
    if one == other or sources[0] == other or sources[1] == one:
        return True
    return False if sources[0] and sources[0] == sources[1] else None


def is_made_at_first_use(name: str) -> bool:
    """Whether reading the images of a dataset may have to generate them."""
    meta = MetadataCatalog.get(source_of_drawn(name) or name)
    return isinstance(meta.get("json_file") or meta.get("dirname"), LazyPath)


def image_files(name: str, data: CfgNode) -> set[str]:
    """Get the image files of a dataset, see :func:`shared_images`."""
    source = source_of_drawn(name)
    if not source:
        return set(_all_images(name, data).values())
    chosen = drawn_from(source, data).archval
    is_archval = name == split_names(source)[PARTS.index("archval")]
    files = _all_images(source, data).items()
    return {file for image_id, file in files if (image_id in chosen) is is_archval}


def drawn_from(source: str, data: CfgNode) -> CountedDraw:
    """Get the split of archval from a registered dataset.

    Args:
        source: name of the dataset.
        data: as in :func:`shared_images`.

    Raises:
        FileNotFoundError, ValueError: see :func:`read_draw`.
    """
    archval = data.ARCHVAL
    settings = DrawSettings(archval.SIZE, archval.SEED, archval.GROUP_KEY)
    return read_draw(source, settings, data.CACHE_DIR)


def source_of_drawn(name: str) -> str | None:
    """Get the dataset that a part is split from. None for a dataset of its own."""
    own = name in DatasetCatalog and not MetadataCatalog.get(name).get("split_settings")
    return None if own else split_source(name)


def _all_images(name: str, data: CfgNode) -> dict[int | str, str]:
    """Get the files by the ids of the images."""
    meta = MetadataCatalog.get(name)
    if meta.get("evaluator_type") == "coco" and meta.get("json_file"):
        json_file, root = os.fspath(meta.json_file), os.fspath(meta.image_root)
        return _images_of_json(json_file, root, state_of(json_file), cache_folder(data.CACHE_DIR))
    return {i: real_file(image["file_name"]) for i, image in enumerate(DatasetCatalog.get(name))}


@functools.lru_cache(maxsize=4)
def _images_of_json(json_file: str, root: str, state: Any, folder: str) -> dict[int | str, str]:
    images = images_of_json(json_file, state, folder)
    return {image["id"]: real_file(os.path.join(root, image["file_name"])) for image in images}
