"""archtrain and archval: the two parts of a training set that the search uses (section 4.1).

The supernet is trained on archtrain and its architectures are compared on archval, so that the test
set stays unseen. Any dataset in COCO format that is registered in Detectron2 can be split.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import quote

from iopath.common.file_io import LazyPath, file_lock

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from ..files import file_sha256, no_garbage_collection, read_json, write_atomically
from ..paths import cache_folder, datasets_root, is_remote
from .cache import remembered, state_of
from .draw import Draw, DrawSettings, draw_archval
from .object_counts import ClassCounts, count_coco

__all__ = [
    "PARTS",
    "passing_draws",
    "read_draw",
    "register_splits",
    "split_names",
    "split_source",
    "write_splits",
]

PARTS = ("archtrain", "archval")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CountedDraw(Draw):
    """A split with class counts.

    Attributes:
        counts: counts of archtrain and archval.
    """

    counts: tuple[ClassCounts, ...] = ()


def split_names(source: str) -> tuple[str, str]:
    """Get the names of the parts of a dataset.

    "coco_2017_train" has the parts "coco_2017_archtrain" and "coco_2017_archval". A name that does
    not end in "_train" is used as a whole.
    """
    stem = source.removesuffix("_train")
    archtrain, archval = (f"{stem}_{part}" for part in PARTS)
    return archtrain, archval


def split_source(name: str) -> str | None:
    """Get the registered dataset of which ``name`` is a part by :func:`split_names`, if any."""
    stem, _, part = name.rpartition("_")
    if part not in PARTS:
        return None
    return next((s for s in (f"{stem}_train", stem) if s in DatasetCatalog), None)


def register_splits(
    source: str,
    size: int = 5000,
    seed: int = 0,
    folder: str = "",
    group_key: str = "",
    cache_dir: str = "",
) -> tuple[str, str]:
    """Register archtrain and archval of a dataset. Nothing is read or written before first use.

    The parts inherit the metadata of the source, such as its categories. Parts that are already
    registered are replaced if the settings differ.

    Args:
        source: name of a registered dataset in COCO format, such as "coco_2017_train".
        size, seed, folder, group_key, cache_dir: see :func:`write_splits`.

    Returns:
        The names of archtrain and archval.

    Raises:
        ValueError: ``source`` is not registered or not in COCO format, ``size`` is below 1, or a
            name is taken by something else.
    """
    if size < 1:
        raise ValueError(f"archval of {source!r} needs at least 1 image, not {size}")
    if source not in DatasetCatalog:
        raise ValueError(f"cannot split {source!r}: no dataset of this name is registered")
    meta = MetadataCatalog.get(source)
    if meta.get("evaluator_type") != "coco" or not meta.get("json_file"):
        raise ValueError(f"cannot split {source!r}: it is not a dataset in COCO format, but {meta}")
    names = split_names(source)
    settings = (source, size, seed, folder, group_key, cache_dir)
    for name in names:
        if name in DatasetCatalog:
            known = MetadataCatalog.get(name).get("split_settings")
            if known is None or known[0] != source:
                raise ValueError(f"cannot split {source!r}: the name {name!r} is taken already")
    inherited = {
        key: value
        for key, value in meta.as_dict().items()
        if key not in ("name", "json_file", "source", "image_root", "evaluator_type")
    }

    @functools.lru_cache(maxsize=1)
    def files() -> dict[str, str]:
        return dict(zip(names, write_splits(*settings)))

    for name in names:
        if name in DatasetCatalog:
            if MetadataCatalog.get(name).split_settings == settings:
                continue
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
        register_coco_instances(
            name,
            {**inherited, "split_settings": settings},
            LazyPath(lambda name=name: files()[name]),
            meta.image_root,
        )
    return names


def write_splits(
    source: str,
    size: int,
    seed: int,
    folder: str = "",
    group_key: str = "",
    cache_dir: str = "",
) -> tuple[str, str]:
    """Write archtrain and archval of a dataset as COCO json files, unless they exist.

    Their names contain the settings, "_stratified" for a split by class, and a hash of the source
    file, so another split or a changed source makes other files. Every image is in one of the two
    with all its annotations. Everything else is the same as in the source. Equal settings give
    equal bytes. This is safe to call from many processes: one writes the files, and the others
    wait.

    Args:
        source: name of a registered dataset in COCO format.
        size: number of images in archval, or as near to it as whole groups permit. archtrain has
            the rest.
        seed, group_key: see :class:`DrawSettings`.
        folder: folder of the files. By default ``crnas_d2_splits`` in Detectron2's folder of
            datasets.

        cache_dir: see :func:`read_draw`.

    Returns:
        The paths of the files of archtrain and archval.

    Raises:
        FileNotFoundError: the source has no json file.
        ValueError: see :func:`read_draw`.
    """
    drawn, paths = _plan(source, size, seed, folder, group_key, cache_dir)
    if all(map(os.path.isfile, paths)):
        return paths
    with file_lock(paths[0]):
        if not all(map(os.path.isfile, paths)):
            for path, part in zip(paths, _partition(read_json(_source_file(source)), drawn)):
                write_atomically(path, json.dumps(part, separators=(",", ":")).encode())
                logger.info(f"Wrote {len(part['images'])} images of {source} to {path}")
    return paths


@contextlib.contextmanager
def passing_draws() -> Iterator[str]:
    """Provide a temporary folder for splits that only a check needs, without logging them."""
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with tempfile.TemporaryDirectory() as folder:
            yield folder
    finally:
        logger.setLevel(level)


def are_written(source: str, *settings: Any) -> bool:
    """Whether the files of :func:`write_splits` with the same arguments exist already."""
    return all(map(os.path.isfile, _plan(source, *settings)[1]))


def _plan(
    source: str, size: int, seed: int, folder: str, group_key: str, cache_dir: str
) -> tuple[CountedDraw, tuple[str, str]]:
    """Get the split, and the paths of the two files."""
    drawn = read_draw(source, DrawSettings(size, seed, group_key), cache_dir)
    json_file = _source_file(source)
    folder = folder or os.path.join(datasets_root(), "crnas_d2_splits")
    settings = f"size{size}_seed{seed}"
    settings += "_stratified" if drawn.stratified else ""
    settings += f"_by_{quote(group_key, safe='')}" if group_key else ""
    settings += f"_{file_sha256(json_file)[:16]}"
    stems = [re.sub(r"[^-.\w]", "_", name) for name in split_names(source)]
    archtrain, archval = (os.path.join(folder, f"{stem}_{settings}.json") for stem in stems)
    return drawn, (archtrain, archval)


def read_draw(source: str, settings: DrawSettings, cache_dir: str = "") -> CountedDraw:
    """Get the split of archval from a registered dataset in COCO format, which is cached.

    Args:
        source: name of the dataset.
        settings: settings of the split.
        cache_dir: ``DATASETS.CACHE_DIR``.

    Raises:
        FileNotFoundError: it has no json file.
        ValueError: the file is invalid, or archval cannot be split from it.
    """
    json_file = _source_file(source)
    try:
        return _read_draw(json_file, state_of(json_file), settings, cache_folder(cache_dir))
    except ValueError as error:
        shown = MetadataCatalog.get(source).get("source") or json_file
        raise ValueError(f"cannot split {source!r}: {shown}: {error}") from error.__cause__


@functools.lru_cache(maxsize=16)
def _read_draw(json_file: str, state: Any, settings: DrawSettings, folder: str) -> CountedDraw:
    def draw() -> dict[str, Any]:
        drawn = _draw(json_file, settings)
        return {
            "archval": sorted(drawn.archval, key=str),
            "stratified": drawn.stratified,
            "counts": list(map(asdict, drawn.counts)),
        }

    drawn = remembered(folder, "draw", [state, asdict(settings)], draw) if state else draw()
    archtrain, archval = map(ClassCounts.from_json, drawn["counts"])
    return CountedDraw(frozenset(drawn["archval"]), drawn["stratified"], (archtrain, archval))


@no_garbage_collection()
def _draw(json_file: str, settings: DrawSettings) -> CountedDraw:
    coco = read_json(json_file)
    try:
        images, annotations = coco["images"], coco["annotations"]
        ids = {image["id"] for image in images}
        strays = {annotation["image_id"] for annotation in annotations} - ids
        if len(ids) < len(images):
            raise ValueError("it has several images with the same id")
        if strays:
            stray = min(strays, key=str)
            raise ValueError(f"it has annotations of an image {stray!r} that is not in it")
        drawn = draw_archval(images, annotations, settings)
        return CountedDraw(drawn.archval, drawn.stratified, count_coco(coco, drawn.archval))
    except (KeyError, TypeError) as error:
        raise ValueError(f"it is not in COCO format: {error!r}") from error


def _source_file(source: str) -> str:
    path = os.fspath(MetadataCatalog.get(source).json_file)
    if not is_remote(path) and not os.path.isfile(path):
        raise FileNotFoundError(
            f"cannot split {source!r}: there is no file {path}. Detectron2's own datasets are "
            "looked for below the folder in the environment variable DETECTRON2_DATASETS."
        )
    return path


def _partition(coco: dict[str, Any], drawn: Draw) -> list[dict[str, Any]]:
    """Get the contents of archtrain and archval."""
    return [
        {
            **coco,
            "images": [i for i in coco["images"] if (i["id"] in drawn.archval) is chosen],
            "annotations": [
                a for a in coco["annotations"] if (a["image_id"] in drawn.archval) is chosen
            ],
        }
        for chosen in (False, True)
    ]
