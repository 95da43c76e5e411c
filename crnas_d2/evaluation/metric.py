"""Checks of ``SEARCH.METRIC``, by which architectures are ranked."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from pycocotools.cocoeval import Params

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from ..data.class_names import tell_apart
from ..data.labels import is_labeled
from ..data.splits import split_source
from ..engine.evaluators import AP, DETECTIONS, OUTPUTS, results_of, shown_names
from ..files import read_json

TASKS = ("bbox", "segm")
SIZES = {"APs": "small", "APm": "medium", "APl": "large"}  # names of the areas in pycocotools


def check_metric_name(cfg: CfgNode) -> None:
    """Check ``SEARCH.METRIC`` as far as possible without the data.

    Raises:
        ValueError: the model gives no such result.
    """
    metric, model = cfg.SEARCH.METRIC, cfg.MODEL.META_ARCHITECTURE
    task, _, name = metric.partition("/")
    if task == "segm" and not cfg.MODEL.MASK_ON:
        raise ValueError(f"SEARCH.METRIC is {metric!r}, and MODEL.MASK_ON is False")
    if "instances" not in OUTPUTS.get(model, DETECTIONS):
        raise ValueError(
            f"SEARCH.METRIC is {metric!r}; MODEL.META_ARCHITECTURE {model!r} gives no boxes of classes"
        )
    if task not in TASKS or not (name in AP or name.startswith("AP-")):
        tasks = TASKS if cfg.MODEL.MASK_ON else TASKS[:1]
        names = ", ".join(f"{task}/{name}" for task in tasks for name in AP)
        raise ValueError(
            f"SEARCH.METRIC is {metric!r}; expected one of {names}, or, of a class, "
            f"{' or '.join(f'{task}/AP-NAME' for task in tasks)}"
        )


def check_metric(cfg: CfgNode) -> None:
    """Check that archval will yield ``SEARCH.METRIC``.

    Args:
        cfg: config of a search, whose datasets are registered.

    Raises:
        ValueError: the model gives no such result, or archval is not scored as COCO, has no such
            class, or has no object that the metric counts.
    """
    check_metric_name(cfg)
    (archval,) = cfg.DATASETS.TEST
    kind = MetadataCatalog.get(archval).get("evaluator_type")
    if kind != "coco":
        raise ValueError(
            f"the test set {archval!r} of a search has evaluator_type {kind!r}; expected 'coco'"
        )
    if not is_labeled(archval):
        raise ValueError(
            f"{archval}, on which a search compares architectures, has no annotations to do it by"
        )
    check_counted(cfg)


def check_counted(cfg: CfgNode) -> None:
    """Check that the first test set, which is scored as COCO, has objects for ``SEARCH.METRIC``.

    Args:
        cfg: config of a detector, whose datasets are registered.

    Raises:
        ValueError: it has no such class, or no object that the metric counts.
    """
    test, metric = cfg.DATASETS.TEST[0], cfg.SEARCH.METRIC
    metadata = MetadataCatalog.get(test)
    names = [name for name in results_of(test, cfg) if name.startswith(TASKS)]
    if metric not in names:
        raise ValueError(f"SEARCH.METRIC is {metric!r}; expected one of {shown_names(names)}")
    json_file = os.fspath(metadata.json_file)
    counts, what = _counted(metric, metadata)
    objects = (o for o in read_json(json_file).get("annotations", []) if not o["iscrowd"])
    if not any(map(counts, objects)):
        raise ValueError(
            f"SEARCH.METRIC is {metric!r}, and {test} ({_origin(test)}) has no {what} (with iscrowd 0) "
            "to measure it by; expected another metric, or a dataset that has some"
        )


def _origin(name: str) -> str:
    """Get the user's own file behind a dataset."""
    is_drawn = MetadataCatalog.get(name).get("split_settings")
    metadata = MetadataCatalog.get(split_source(name) if is_drawn else name)
    path = os.fspath(metadata.get("source") or metadata.json_file)
    return f"drawn from {path}" if is_drawn else path


def _counted(metric: str, metadata: Any) -> tuple[Callable[[dict[str, Any]], bool], str]:
    """Get a predicate for the objects that a metric counts, and a description of such an object.

    The predicate decides as pycocotools does, for objects that are not iscrowd.
    """
    name = metric.partition("/")[2]
    if name in SIZES:
        params = Params("bbox")
        low, high = params.areaRng[params.areaRngLbl.index(SIZES[name])]
        what = f"object with an area from {low:,.0f} to {high:,.0f} pixels"
        return lambda annotation: low <= annotation["area"] <= high, what
    if name in AP:
        return lambda _: True, "object"
    class_name = name.removeprefix("AP-")
    indices = metadata.thing_dataset_id_to_contiguous_id
    index = tell_apart(metadata.thing_classes).index(class_name)
    what = f"object of class {class_name!r}"
    return lambda annotation: indices[annotation["category_id"]] == index, what
