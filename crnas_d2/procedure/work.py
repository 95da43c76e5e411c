"""What a step has to do, for a forecast of its time."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.config import CfgNode

from ..engine.forecast import Work


def images_of(cfg: CfgNode) -> int:
    """That pass forward and backward in a training."""
    return cfg.SOLVER.MAX_ITER * cfg.SOLVER.IMS_PER_BATCH


def work_of_training(cfg: CfgNode) -> Work:
    """Without its tests."""
    return Work(backward=images_of(cfg), pixels=_pixels(cfg, cfg.INPUT.MIN_SIZE_TRAIN))


def work_of_search(cfg: CfgNode, evaluations: int, images: int) -> Work:
    """
    Args:
        cfg: :func:`~crnas_d2.procedure.supernet_search.settled`.
        evaluations: how many architectures it evaluates.
        images: of archval, on which each of them is evaluated.
    """
    norms = cfg.SEARCH.BN
    if norms.MODE == "recalibrate":
        images += norms.BATCHES * norms.IMAGES_PER_BATCH
    return Work(forward=evaluations * images, pixels=_pixels(cfg, [cfg.INPUT.MIN_SIZE_TEST]))


def _pixels(cfg: CfgNode, shorter_sides: Sequence[int]) -> float:
    """Of an input, about: those of detectors are taken to be a third longer than high."""
    if cfg.MODEL.META_ARCHITECTURE == "ImageClassifier":
        return float(cfg.INPUT.CLASSIFICATION.CROP_SIZE**2)
    side = sum(shorter_sides) / len(shorter_sides) or 480.0  # 0 is the image as it is
    return side * side * 4 / 3
