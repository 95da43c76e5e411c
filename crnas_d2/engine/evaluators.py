"""The evaluator of each kind of test set, and checks of a test before a training begins."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from PIL import Image

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import (
    CityscapesInstanceEvaluator,
    CityscapesSemSegEvaluator,
    COCOPanopticEvaluator,
    DatasetEvaluator,
    DatasetEvaluators,
    LVISEvaluator,
    PascalVOCDetectionEvaluator,
    SemSegEvaluator,
)
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN, PanopticFPN
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager

from ..data.class_names import tell_apart
from ..data.labels import is_labeled
from ..modeling.builder_names import supernet_kind
from .classification_evaluator import ClassificationEvaluator
from .coco_evaluator import COCOEvaluator

DETECTIONS = ("instances",)
# Outputs of Detectron2's models that an evaluator can score
OUTPUTS = {
    "GeneralizedRCNN": DETECTIONS,
    "RetinaNet": DETECTIONS,
    "ProposalNetwork": ("proposals",),
    "SemanticSegmentor": ("sem_seg",),
    "PanopticFPN": ("instances", "sem_seg", "panoptic_seg"),
    "ImageClassifier": ("classes",),
}

# Names of Detectron2's results
AP = ("AP", "AP50", "AP75", "APs", "APm", "APl")
COCO = {"bbox": AP, "segm": AP, "keypoints": ("AP", "AP50", "AP75", "APm", "APl")}
COCO_CLASSES = dict.fromkeys(COCO, ("AP",))
PROPOSALS = {"box_proposals": tuple(f"AR{size}@{n}" for n in (100, 1000) for size in ("", *"sml"))}
RARITY = ("APr", "APc", "APf")
SEM_SEG = {"sem_seg": ("mIoU", "fwIoU", "mACC", "pACC")}
SEM_SEG_CLASSES = {"sem_seg": ("IoU", "ACC")}
PANOPTIC = {"panoptic_seg": tuple(q + of for of in ("", "_th", "_st") for q in ("PQ", "SQ", "RQ"))}


class Kind(NamedTuple):
    """The properties of an ``evaluator_type``.

    Attributes:
        outputs: outputs of a model, one of which the evaluator needs.
        metrics: metrics of each task, with Detectron2's names.
        package: package that Detectron2's evaluator imports lazily.
        per_class: for each task, the metrics that are also reported for every class, such as "AP"
            as "AP-person".
        one_machine: whether all processes have to run on one machine.
    """

    outputs: tuple[str, ...]
    metrics: Mapping[str, Sequence[str]]
    package: str | None = None
    per_class: Mapping[str, Sequence[str]] = MappingProxyType({})
    one_machine: bool = False


KINDS = {
    "coco": Kind(("instances", "proposals"), {**COCO, **PROPOSALS}, per_class=COCO_CLASSES),
    "lvis": Kind(
        ("instances", "proposals"),
        {"bbox": AP + RARITY, "segm": AP + RARITY, **PROPOSALS},
        package="lvis",
    ),
    "pascal_voc": Kind(DETECTIONS, {"bbox": AP[:3]}),
    "cityscapes_instance": Kind(
        DETECTIONS, {"segm": AP[:2]}, package="cityscapesscripts", one_machine=True
    ),
    "cityscapes_sem_seg": Kind(
        ("sem_seg",),
        {"sem_seg": ("IoU", "iIoU", "IoU_sup", "iIoU_sup")},
        package="cityscapesscripts",
        one_machine=True,
    ),
    "sem_seg": Kind(("sem_seg",), SEM_SEG, per_class=SEM_SEG_CLASSES),
    "coco_panoptic_seg": Kind(
        ("panoptic_seg",),
        {**SEM_SEG, **COCO, **PANOPTIC},
        package="panopticapi",
        per_class={**SEM_SEG_CLASSES, **COCO_CLASSES},
    ),
    "classification": Kind(("classes",), {"classification": ("top1", "top5")}),
}


def build_evaluator(cfg: CfgNode, dataset_name: str, output_folder: str) -> DatasetEvaluator:
    """Build the evaluator of a dataset by its "evaluator_type", as in Detectron2's train_net.py.

    There is also one for classification.

    Args:
        cfg: the config.
        dataset_name: name of a registered dataset.
        output_folder: folder for predictions.

    Raises:
        ValueError: there is no evaluator for this type.
    """
    kind, _ = _kind_of(dataset_name)
    if kind == "classification":
        return ClassificationEvaluator()
    if kind == "pascal_voc":
        return PascalVOCDetectionEvaluator(dataset_name)
    if kind == "cityscapes_instance":
        return CityscapesInstanceEvaluator(dataset_name)
    if kind == "cityscapes_sem_seg":
        return CityscapesSemSegEvaluator(dataset_name)
    if kind == "lvis":
        return LVISEvaluator(dataset_name, output_dir=output_folder)
    evaluators = []
    if kind in ("sem_seg", "coco_panoptic_seg"):
        evaluators.append(
            SemSegEvaluator(dataset_name, output_dir=output_folder, sem_seg_loading_fn=_read_labels)
        )
    if kind in ("coco", "coco_panoptic_seg"):
        if not is_labeled(dataset_name) and len(cfg.DATASETS.TEST) > 1:
            # The detections on the next test set would overwrite them.
            output_folder = os.path.join(output_folder, dataset_name)
        evaluators.append(COCOEvaluator(dataset_name, output_dir=output_folder))
    if kind == "coco_panoptic_seg":
        evaluators.append(COCOPanopticEvaluator(dataset_name, output_folder))
    return evaluators[0] if len(evaluators) == 1 else DatasetEvaluators(evaluators)


def _read_labels(path: str, dtype: type) -> np.ndarray:
    """Read labels like Detectron2's own function, older versions of which fail with NumPy 2."""
    with PathManager.open(path, "rb") as file:
        return np.asarray(Image.open(file), dtype=dtype)


def check_evaluation(cfg: CfgNode, *, training: bool) -> None:
    """Check that the datasets in ``DATASETS.TEST`` can be evaluated as ``TEST`` requires.

    Args:
        cfg: config whose datasets are registered.
        training: whether the model is trained first.

    Raises:
        ValueError: they cannot be evaluated. The message says why.
    """
    for name in cfg.DATASETS.TEST:
        _check_evaluator(name, cfg)
    if cfg.TEST.AUG.ENABLED:
        _check_augmentation(cfg)
    if training and cfg.TEST.BEST_METRIC:
        _check_best_metric(cfg)


def _kind_of(name: str) -> tuple[str, Kind]:
    kind = MetadataCatalog.get(name).get("evaluator_type")
    if kind not in KINDS:
        raise ValueError(
            f"the test set {name!r} has evaluator_type {kind!r} in its metadata; "
            f"expected one of {', '.join(map(repr, KINDS))}"
        )
    return kind, KINDS[kind]


def _check_evaluator(name: str, cfg: CfgNode) -> None:
    kind, needed = _kind_of(name)
    what = f"the test set {name!r} has evaluator_type {kind!r}"
    model = cfg.MODEL.META_ARCHITECTURE
    given = OUTPUTS.get(model, needed.outputs)
    if not set(needed.outputs) & set(given):
        raise ValueError(
            f"{what}, which scores {' or '.join(needed.outputs)}; "
            f"MODEL.META_ARCHITECTURE {model!r} gives {', '.join(given)}"
        )
    if kind == "cityscapes_instance" and not cfg.MODEL.MASK_ON:
        raise ValueError(f"{what}, which scores masks; MODEL.MASK_ON is False")
    if needed.package and importlib.util.find_spec(needed.package) is None:
        raise ValueError(f"{what}, which needs the package {needed.package}; it is not installed")
    if needed.one_machine and comm.get_local_size() < comm.get_world_size():
        raise ValueError(f"{what}, which works on one machine alone; there are several")


def _check_augmentation(cfg: CfgNode) -> None:
    model = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)
    unsupported = {
        f"MODEL.META_ARCHITECTURE {cfg.MODEL.META_ARCHITECTURE!r}": (
            not issubclass(model, GeneralizedRCNN) or issubclass(model, PanopticFPN)
        ),
        "a supernet": supernet_kind(cfg.MODEL.BACKBONE.NAME),
        "MODEL.KEYPOINT_ON": cfg.MODEL.KEYPOINT_ON,
        "MODEL.LOAD_PROPOSALS": cfg.MODEL.LOAD_PROPOSALS,
        "rotated boxes": cfg.MODEL.ROI_HEADS.NAME == "RROIHeads",
    }
    for what, is_there in unsupported.items():
        if is_there:
            raise ValueError(
                f"TEST.AUG.ENABLED is True; expected False for {what}, "
                "which test-time augmentation does not support"
            )


def _check_best_metric(cfg: CfgNode) -> None:
    metric = cfg.TEST.BEST_METRIC
    if cfg.TEST.EVAL_PERIOD < 1:
        raise ValueError(
            f"TEST.BEST_METRIC is {metric!r} and TEST.EVAL_PERIOD {cfg.TEST.EVAL_PERIOD}; "
            "expected a period of at least 1, since the best of several tests is kept"
        )
    names = list_results(cfg)
    if not names:
        raise ValueError(
            f"TEST.BEST_METRIC is {metric!r}, and no test gives a result: DATASETS.TEST, or "
            "MODEL.SUPERNET.TEST_PATHS of a supernet, is empty, or no test set has annotations"
        )
    if metric not in names:
        raise ValueError(f"TEST.BEST_METRIC is {metric!r}; expected one of {shown_names(names)}")


def shown_names(names: Sequence[str]) -> str:
    """Format the first of some names."""
    return ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")


def list_results(cfg: CfgNode) -> list[str]:
    """List the names of a test's results, such as "bbox/AP", those of single classes last.

    They are prefixed by the name of the dataset if there are several, as in "own_val/bbox/AP", and
    by the path of a supernet, as in "2-2-2-2/bbox/AP".
    """
    names = [
        f"{name}/{result}" if len(cfg.DATASETS.TEST) > 1 else result
        for name in cfg.DATASETS.TEST
        for result in results_of(name, cfg)
    ]
    if not supernet_kind(cfg.MODEL.BACKBONE.NAME):
        return names
    paths = ["-".join(map(str, path)) for path in cfg.MODEL.SUPERNET.TEST_PATHS]
    return [f"{path}/{name}" for path in paths for name in names]


def results_of(dataset_name: str, cfg: CfgNode) -> list[str]:
    """List the names of the results of one network on one dataset, such as "bbox/AP".

    The list is empty for a dataset without annotations.
    """
    _, kind = _kind_of(dataset_name)
    if not is_labeled(dataset_name):
        return []
    metadata = MetadataCatalog.get(dataset_name)
    proposes = cfg.MODEL.META_ARCHITECTURE == "ProposalNetwork"
    is_given = {
        "bbox": not proposes,
        "segm": not proposes and cfg.MODEL.MASK_ON,
        "keypoints": not proposes and cfg.MODEL.KEYPOINT_ON,
        "box_proposals": proposes,
    }
    means, of_classes = [], []
    for task, metrics in kind.metrics.items():
        if is_given.get(task, True):
            means += [f"{task}/{metric}" for metric in metrics]
            classes = metadata.get("stuff_classes" if task == "sem_seg" else "thing_classes", [])
            if len(classes) > 1:
                metrics = kind.per_class.get(task, ())
                names = classes if task == "sem_seg" else tell_apart(classes)
                of_classes += [f"{task}/{metric}-{name}" for metric in metrics for name in names]
    return means + of_classes
