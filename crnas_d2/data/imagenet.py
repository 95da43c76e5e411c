"""Datasets in ImageNet's layout: a folder for each class, with the images of that class.

ImageNet-1k itself is expected below Detectron2's folder of datasets::

    imagenet/{train,val}/<WordNet id>/*.JPEG
"""

import logging
import os
from typing import Any

from torchvision.datasets.folder import IMG_EXTENSIONS

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.file_io import PathManager

from ..files import raise_faults
from ..paths import datasets_root, real_path

__all__ = ["is_classification", "list_images", "register_image_folder", "register_imagenet"]


def register_imagenet() -> None:
    """Register ``imagenet_train`` and ``imagenet_val``."""
    for split in ("train", "val"):
        root = os.path.join(datasets_root(), "imagenet", split)
        register_image_folder(f"imagenet_{split}", root)


def register_image_folder(name: str, root: str | os.PathLike) -> None:
    """Register a dataset of images with one class each. Nothing is read before first use.

    It loads as a list of ``{"file_name": str, "label": int}``. ``thing_classes`` in its metadata
    are the names of the folders, which the label indexes. The same folder may be registered again
    under the same name.

    Args:
        name: name such as "birds_train".
        root: see :func:`list_images`. An ``iopath`` ``LazyPath`` is resolved on first use.

    Raises:
        ValueError: the name is taken by another dataset.
    """
    if name in DatasetCatalog:
        meta = MetadataCatalog.get(name)
        if not is_classification(name) or real_path(meta.dirname) != real_path(os.fspath(root)):
            raise ValueError(
                f"the dataset name {name!r} is taken: it stands for {meta}, so it cannot stand "
                f"for the images of {os.fspath(root)}"
            )
        return
    DatasetCatalog.register(name, lambda: _load(name, os.fspath(root)))
    MetadataCatalog.get(name).set(evaluator_type="classification", dirname=root)


def is_classification(name: str) -> bool:
    """Whether the images of a registered dataset have one class each."""
    return MetadataCatalog.get(name).get("evaluator_type") == "classification"


def list_images(root: str) -> dict[str, list[str]]:
    """List the images of each class, without opening them.

    Args:
        root: folder with a subfolder for each class. Hidden entries, files next to the subfolders,
            and files without an image extension are ignored.

    Returns:
        Names of the image files by the name of their class, both sorted.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it has no class, or a class has no image.
    """
    if not PathManager.isdir(root):
        raise FileNotFoundError(
            f"there is no folder {root}; expected one with a folder of images for each class. "
            "Detectron2's own datasets are looked for below the folder in the environment "
            "variable DETECTRON2_DATASETS."
        )
    images = {
        entry: _image_files(os.path.join(root, entry))
        for entry in sorted(PathManager.ls(root))
        if not entry.startswith(".") and PathManager.isdir(os.path.join(root, entry))
    }
    faults = [f"class {name!r} has no image" for name, files in images.items() if not files]
    raise_faults(root, faults if images else ["no folder in it; expected one for each class"])
    return images


def _image_files(folder: str) -> list[str]:
    return sorted(
        entry
        for entry in PathManager.ls(folder)
        if entry.lower().endswith(IMG_EXTENSIONS) and not entry.startswith(".")
    )


def _load(name: str, root: str) -> list[dict[str, Any]]:
    images = list_images(root)
    MetadataCatalog.get(name).thing_classes = list(images)
    counts = [len(files) for files in images.values()]
    logging.getLogger(__name__).info(
        f"{name}: {sum(counts)} images of {len(counts)} classes in {root}, "
        f"{min(counts)} to {max(counts)} of each class"
    )
    return [
        {"file_name": os.path.join(root, class_name, file), "label": label}
        for label, (class_name, files) in enumerate(images.items())
        for file in files
    ]
