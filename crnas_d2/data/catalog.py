"""The datasets of a config: registration, checks against each other, and numbers of classes."""

import itertools
import logging
import os
from collections.abc import Iterator, Sequence
from reprlib import repr as short
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.logger import log_first_n

from .class_names import tell_apart
from .coco_json import SCORED_KEYS, JsonRules, register_coco_json
from .imagenet import is_classification, register_image_folder
from .shared_images import shared_images
from .splits import PARTS, are_written, register_splits, split_names, split_source
from .voc import register_voc_dir

__all__ = [
    "coco_json_entries",
    "json_rules",
    "register_own",
    "setup_datasets",
    "warn_of_shared_images",
]


def setup_datasets(cfg: CfgNode) -> None:
    """Prepare the datasets that ``cfg`` names. It has to be called before ``cfg`` is frozen.

    1. Registers the custom datasets in ``DATASETS.COCO_JSON`` and ``DATASETS.VOC_DIRS`` after
    validating each, and those in ``DATASETS.IMAGE_FOLDERS``. Those in ``DATASETS.TEST`` must also
    have what their evaluator needs, and those in ``DATASETS.TRAIN`` masks if ``MODEL.MASK_ON``.
    2. Splits archtrain and archval by ``DATASETS.ARCHVAL`` if TRAIN or TEST names one:
    "cells_archtrain" is a part of "cells_train", or else of "cells".
    3. Checks that all datasets of TRAIN and TEST fit the task of the model and have the same
    categories in the same order, and that no image of a test set is in an archval.
    4. Sets ``NUM_CLASSES`` of the detection heads, which the mask head follows, and of the
    classifier to the number of categories, and ``MODEL.CLASS_NAMES`` to their distinct names, see
    :func:`tell_apart`.

    A second call with the same config changes nothing.

    Raises:
        FileNotFoundError, ValueError: the message names the key, dataset or file, and what was
            expected.
    """
    train, test = tuple(cfg.DATASETS.TRAIN), tuple(cfg.DATASETS.TEST)
    names = list(dict.fromkeys(train + test))
    register_own(cfg)
    for name in names:
        _register_part(name, cfg)
        _check_task(name, cfg.MODEL.META_ARCHITECTURE)
    categories = _common_categories(names)
    _check_archval_apart(train, test, cfg.DATASETS)
    if categories:
        for head in ("ROI_HEADS", "RETINANET", "CLASSIFIER"):
            if cfg.MODEL[head].NUM_CLASSES != len(categories):
                cfg.MODEL[head].NUM_CLASSES = len(categories)
        class_names = tell_apart(categories)
        if cfg.MODEL.CLASS_NAMES != class_names:
            cfg.MODEL.CLASS_NAMES = class_names
        told = f"NUM_CLASSES = {len(categories)}, from the categories of {names[0]}"
        # once, as each step reads its config many times
        log_first_n(logging.INFO, told, key="message")


def register_own(cfg: CfgNode) -> None:
    """Register only the custom datasets of a config, see :func:`setup_datasets`.

    Nothing is written except the cached results of the checks, and corrected copies.

    Raises:
        FileNotFoundError, ValueError: as :func:`setup_datasets`, or there is no dataset with a
            name in TRAIN or TEST.
    """
    rules = json_rules(cfg)
    left_out: set[Any] = set()
    for entry in coco_json_entries(cfg):
        left_out.update(register_coco_json(**entry, rules=rules).left_out)
    unknown = [entry for entry in rules.left_out_categories if entry not in left_out]
    if unknown and cfg.DATASETS.COCO_JSON:
        raise ValueError(
            f"DATASETS.LEFT_OUT_CATEGORIES has {unknown[0]!r}; expected the id or the name of a "
            "category in a file of DATASETS.COCO_JSON"
        )
    for entry in voc_dir_entries(cfg):
        register_voc_dir(**entry, cache_dir=cfg.DATASETS.CACHE_DIR)
    for name, root in image_folder_entries(cfg):
        register_image_folder(name, root)
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        if name not in DatasetCatalog and not split_source(name):
            raise ValueError(
                f"DATASETS.TRAIN or DATASETS.TEST names {name!r}, and no dataset of this name is "
                "registered. Own datasets go into DATASETS.COCO_JSON, DATASETS.VOC_DIRS or "
                "DATASETS.IMAGE_FOLDERS."
            )


def voc_dir_entries(cfg: CfgNode) -> Iterator[dict[str, Any]]:
    """Iterate over the custom datasets in VOC layout, as arguments of :func:`register_voc_dir`.

    Raises:
        ValueError: an entry of ``DATASETS.VOC_DIRS`` is malformed.
    """
    keys = ("name", "dirname", "split", "year", "class_names")
    for index, entry in enumerate(cfg.DATASETS.VOC_DIRS):
        if not (
            _has_types(entry, str, str, str, int, list)
            and _has_types(entry[4], *[str] * len(entry[4]))
        ):
            raise ValueError(
                f"DATASETS.VOC_DIRS[{index}] is {short(entry)}; "
                "expected [name, folder, split, year, [class name, ...]]"
            )
        scored, trained = (entry[0] in names for names in (cfg.DATASETS.TEST, cfg.DATASETS.TRAIN))
        yield {**dict(zip(keys, entry)), "scored": scored, "trained": trained}


def image_folder_entries(cfg: CfgNode) -> Iterator[list[str]]:
    """Iterate over name and folder of the custom datasets with one class for each image.

    Raises:
        ValueError: an entry of ``DATASETS.IMAGE_FOLDERS`` is malformed.
    """
    for index, entry in enumerate(cfg.DATASETS.IMAGE_FOLDERS):
        if not _has_types(entry, str, str):
            raise ValueError(
                f"DATASETS.IMAGE_FOLDERS[{index}] is {short(entry)}; "
                "expected two texts [name, folder that has a folder for each class]"
            )
        yield entry


def json_rules(cfg: CfgNode) -> JsonRules:
    """Get the settings of a config for its files in COCO format.

    Raises:
        ValueError: a left-out category is neither an id nor a name.
    """
    data = cfg.DATASETS
    for entry in data.LEFT_OUT_CATEGORIES:
        if type(entry) not in (int, str):
            raise ValueError(
                f"DATASETS.LEFT_OUT_CATEGORIES has {entry!r}; expected ids or names of categories"
            )
    return JsonRules(tuple(data.LEFT_OUT_CATEGORIES), data.IMAGES_OUTSIDE_ROOT, data.CACHE_DIR)


def coco_json_entries(cfg: CfgNode) -> Iterator[dict[str, Any]]:
    """Iterate over the custom datasets in COCO format, as arguments of :func:`register_coco_json`.

    Raises:
        ValueError: an entry of ``DATASETS.COCO_JSON`` is malformed.
    """
    train, test = cfg.DATASETS.TRAIN, cfg.DATASETS.TEST
    for index, entry in enumerate(cfg.DATASETS.COCO_JSON):
        if not _has_types(entry, str, str, str):
            raise ValueError(
                f"DATASETS.COCO_JSON[{index}] is {short(entry)}; "
                "expected three texts [name, json file, image root]"
            )
        name, json_file, image_root = entry
        uses = {name, *split_names(name)}
        required: tuple[str, ...] = SCORED_KEYS if uses & set(test) else ()
        if uses & set(train):
            required += ("objects",)
            if cfg.MODEL.MASK_ON and cfg.INPUT.MASK_FORMAT == "polygon":
                required += ("polygons",)
        if cfg.MODEL.MASK_ON and uses & {*train, *test}:
            required += ("segmentation",)
        yield {
            "name": name,
            "json_file": json_file,
            "image_root": image_root,
            "required": required,
        }


def _has_types(entry: Any, *types: type) -> bool:
    """Whether the entry is a list of non-empty values of these types."""
    return (
        isinstance(entry, (list, tuple))
        and [type(value) for value in entry] == list(types)
        and all(entry)
    )


def draws_anew(cfg: CfgNode) -> bool:
    """Whether :func:`setup_datasets` would write a new split of archtrain and archval.

    It is also true if this is unknown because of a fault.

    Args:
        cfg: as there.
    """
    if not any(str(name).endswith(PARTS) for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)):
        return False
    try:
        register_own(cfg)
        names = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
        sources = {split_source(name) for name in names if _is_drawn(name)}
        settings = _draw_settings(cfg)
        return not all(are_written(source, *settings) for source in sources if source)
    except (OSError, ValueError):
        return True


def _is_drawn(name: str) -> bool:
    """Whether a dataset is archtrain or archval, and not a custom dataset of such a name."""
    is_part = split_source(name) is not None
    return is_part and (
        name not in DatasetCatalog or bool(MetadataCatalog.get(name).get("split_settings"))
    )


def _draw_settings(cfg: CfgNode) -> tuple[int, int, str, str, str]:
    archval = cfg.DATASETS.ARCHVAL
    return archval.SIZE, archval.SEED, archval.DIR, archval.GROUP_KEY, cfg.DATASETS.CACHE_DIR


def _register_part(name: str, cfg: CfgNode) -> None:
    """Split archtrain and archval if ``name`` is one of them and not a custom dataset."""
    source = split_source(name)
    if source is not None and _is_drawn(name):
        register_splits(source, *_draw_settings(cfg))
        os.fspath(MetadataCatalog.get(name).json_file)  # writes the files, or raises


def _check_task(name: str, meta_architecture: str) -> None:
    if is_classification(name) != (meta_architecture == "ImageClassifier"):
        task = "classification" if is_classification(name) else "detection"
        raise ValueError(
            f"the dataset {name!r} is for {task}, and MODEL.META_ARCHITECTURE is "
            f"{meta_architecture!r}; expected 'ImageClassifier' for classification and for that alone"
        )


def _common_categories(names: Sequence[str]) -> list[str]:
    """Get the common category names of the datasets. Empty if they have none."""
    first = _categories(names[0]) if names else []
    for name in names[1:]:
        categories = _categories(name)
        if categories != first:
            pairs = itertools.zip_longest(first, categories)
            index, (a, b) = next((i, pair) for i, pair in enumerate(pairs) if len({*pair}) > 1)
            raise ValueError(
                "the datasets of DATASETS.TRAIN and DATASETS.TEST must have the same categories "
                f"in the same order: {_place(names[0])} has {len(first)} and {_place(name)} has "
                f"{len(categories)}; at index {index} stand {a!r} and {b!r}"
            )
    return first


def _categories(name: str) -> list[str]:
    meta = MetadataCatalog.get(name)
    if not meta.get("thing_classes") and (meta.get("json_file") or is_classification(name)):
        # The categories of such a dataset are only known once it is loaded.
        DatasetCatalog.get(name)
    return list(meta.get("thing_classes", []))


def _place(name: str) -> str:
    meta = MetadataCatalog.get(name)
    path = meta.get("source") or meta.get("json_file") or meta.get("dirname")
    return f"{name} ({os.fspath(path)})" if path else name


def _check_archval_apart(train: Sequence[str], test: Sequence[str], data: CfgNode) -> None:
    sources = map(split_source, (*train, *test))
    for source in {source for source in sources if source is not None}:
        archval = split_names(source)[1]
        for name in [name for name in test if name != archval and archval in DatasetCatalog]:
            shared = shared_images(archval, name, data)
            if shared:
                raise ValueError(
                    f"{len(shared)} images of the test set {_place(name)} are in {_place(archval)}, "
                    f"by which architectures are chosen; such as {min(shared)}"
                )
        if archval in test and not {archval, source}.isdisjoint(train):
            logging.getLogger(__name__).warning(
                f"{archval} is in DATASETS.TEST, and its images are in the training set too"
            )


def warn_of_shared_images(cfg: CfgNode) -> None:
    """Warn of a test set that shares images with the training set.

    Datasets that do not exist are skipped.

    Args:
        cfg: config whose datasets are registered.
    """
    for test, train in itertools.product(cfg.DATASETS.TEST, cfg.DATASETS.TRAIN):
        try:
            shared = shared_images(test, train, cfg.DATASETS)
        except OSError:
            continue
        if shared:
            logging.getLogger(__name__).warning(
                f"{len(shared)} images of {test}, on which the model is tested, are in {train}, on "
                "which it is trained: the results will be too good"
            )
