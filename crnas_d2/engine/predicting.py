"""Trained detectors on images, with Detectron2's own predictor."""

from __future__ import annotations

import os
from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.engine import DefaultPredictor
from detectron2.utils.file_io import PathManager

from ..checkpoint.checkpointer import find_checkpoint
from ..checkpoint.trained import load_trained
from ..config import read_config
from ..data.class_names import tell_apart
from ..paths import expand_path, tell_places
from .config_check import prepare_trained
from .evaluators import DETECTIONS, OUTPUTS
from .hooks import find_supernet
from .trainer import CRTrainer


class Predictor(DefaultPredictor):
    """Detectron2's ``DefaultPredictor``, with the same interface and the same results.

    It also

    * loads weights with :class:`CRCheckpointer`, and refuses those that do not fill the model,
    * takes the number and names of the classes from the checkpoint, so that no dataset is needed.

    Attributes:
        cfg: the config in use.
        class_names: names of the classes by index; "class 0" and so on if they are unknown.
    """

    def __init__(self, cfg: CfgNode):
        """
        Args:
            cfg: config of a detector with its ``MODEL.WEIGHTS``. It is not changed.

        Raises:
            ValueError, FileNotFoundError: the model gives no detections, or the weights do not
                exist or belong to another model.
        """
        self.cfg = cfg.clone()
        self.cfg.defrost()
        _check_output(self.cfg)
        prepare_trained(self.cfg)
        self.model = CRTrainer.build_model(self.cfg).eval()
        if find_supernet(self.model) is not None:
            raise ValueError(
                f"MODEL.BACKBONE.NAME is {cfg.MODEL.BACKBONE.NAME!r}, a supernet, which is many "
                "networks; expected one of them, such as final.yaml of a search"
            )
        load_trained(self.model, self.cfg, self.cfg.MODEL.WEIGHTS, part=self.model)
        self.aug = ResizeShortestEdge(
            [cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MIN_SIZE_TEST], cfg.INPUT.MAX_SIZE_TEST
        )
        self.input_format = self.cfg.INPUT.FORMAT
        self.class_names = name_classes(self.cfg)


def read_trained(path: str, opts: Sequence[str] = ()) -> CfgNode:
    """Read the config of a trained detector, with its weights.

    Args:
        path: a config with ``MODEL.WEIGHTS``, as :func:`read_config` finds it; or the folder of a
            search, whose ``final.yaml`` is read, or of a training, whose ``config.yaml`` is read
            with its last checkpoint.
        opts: alternating keys and values, which override all others.

    Raises:
        FileNotFoundError: the file does not exist, or the folder has none of these files.
    """
    path = expand_path(path)
    if not PathManager.isdir(path):
        return read_config(path, opts)
    final, config = (os.path.join(path, name) for name in ("final.yaml", "config.yaml"))
    if PathManager.isfile(final):
        return read_config(final, opts)
    checkpoint = find_checkpoint(path) if PathManager.isfile(config) else None
    if checkpoint is None:
        raise FileNotFoundError(
            f"{path}: expected final.yaml, as a search that has ended leaves it, or config.yaml and "
            f"a checkpoint, as a training does{tell_places(path, 'budget_*/final.yaml')}"
        )
    return read_config(config, ["MODEL.WEIGHTS", checkpoint, *opts])


def name_classes(cfg: CfgNode) -> list[str]:
    """Get distinct names of a detector's classes, in the order of its outputs."""
    head = "RETINANET" if cfg.MODEL.META_ARCHITECTURE == "RetinaNet" else "ROI_HEADS"
    count = cfg.MODEL[head].NUM_CLASSES
    names = cfg.MODEL.CLASS_NAMES
    if not names and cfg.DATASETS.TEST and cfg.DATASETS.TEST[0] in MetadataCatalog:
        names = MetadataCatalog.get(cfg.DATASETS.TEST[0]).get("thing_classes", [])
    return tell_apart(names) if len(names) == count else [f"class {i}" for i in range(count)]


def _check_output(cfg: CfgNode) -> None:
    kind = cfg.MODEL.META_ARCHITECTURE
    outputs = OUTPUTS.get(kind, DETECTIONS)
    if outputs != DETECTIONS:
        raise ValueError(
            f"MODEL.META_ARCHITECTURE is {kind!r}, which gives {', '.join(outputs)}; expected a "
            "detector, which gives instances alone, such as 'GeneralizedRCNN' or 'RetinaNet'"
        )
    if cfg.MODEL.ROI_HEADS.NAME == "RROIHeads":
        raise ValueError(
            "MODEL.ROI_HEADS.NAME is 'RROIHeads', which gives rotated boxes; expected a detector of "
            "upright ones"
        )
