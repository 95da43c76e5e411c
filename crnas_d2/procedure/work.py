"""The work of a step, for an estimate of its time."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.config import CfgNode

from ..engine.forecast import Work


def images_of(cfg: CfgNode) -> int:
    """Count the images in the forward and backward passes of a training."""
    return cfg.SOLVER.MAX_ITER * cfg.SOLVER.IMS_PER_BATCH


def work_of_training(cfg: CfgNode) -> Work:
    """Get the work of a training without its tests."""
    return Work(backward=images_of(cfg), pixels=_pixels(cfg, cfg.INPUT.MIN_SIZE_TRAIN))


def work_of_search(cfg: CfgNode, evaluations: int, images: int) -> Work:
    """Get the work of a search.

    Args:
        cfg: config after :func:`~crnas_d2.procedure.search_keys.settled`.
        evaluations: number of architectures that it evaluates.
        images: number of images of archval on which each of them is evaluated.
    """
    norms = cfg.SEARCH.BN
    if norms.MODE == "recalibrate":
        images += norms.BATCHES * norms.IMAGES_PER_BATCH
    return Work(forward=evaluations * images, pixels=_pixels(cfg, [cfg.INPUT.MIN_SIZE_TEST]))


def _pixels(cfg: CfgNode, shorter_sides: Sequence[int]) -> float:
    """Estimate the pixels of an input. Those of detectors are taken to have an aspect ratio of 4:3."""
    if cfg.MODEL.META_ARCHITECTURE == "ImageClassifier":
        return float(cfg.INPUT.CLASSIFICATION.CROP_SIZE**2)
    side = sum(shorter_sides) / len(shorter_sides) or 480.0  # 0 keeps the size of the image
    return side * side * 4 / 3
