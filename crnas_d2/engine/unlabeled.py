"""The images of a training as its backbone sees them, without their labels."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, DatasetMapper
from detectron2.data.samplers import TrainingSampler
from detectron2.structures import ImageList

from ..data.classification import ClassificationMapper
from ..data.imagenet import is_classification
from ..data.images import find_sources
from .loader import build_train_loader

SIZE_DIVISIBILITY = 32  # the largest stride of a backbone


def unlabeled_batches(cfg: CfgNode, seed: int, folder: str | None = None) -> Iterator[torch.Tensor]:
    """Iterate endlessly over batches of images, augmented, normalized and padded as in a training.

    Args:
        cfg: config, whose datasets are registered unless there is a folder.
        seed: seed of the order and the augmentation. The same seed gives the same batches.
        folder: folder of images, directly in it or in subfolders. By default those of
            ``DATASETS.TRAIN``.

    Yields:
        Images of shape (``SOLVER.IMS_PER_BATCH``, channels, H, W), on ``MODEL.DEVICE``.

    Raises:
        FileNotFoundError: there is no image in the folder.
    """
    if folder is None:
        names = [
            image["file_name"] for name in cfg.DATASETS.TRAIN for image in DatasetCatalog.get(name)
        ]
        crops = is_classification(cfg.DATASETS.TRAIN[0])
    else:
        names = [source.path for source in find_sources([folder], "") if not source.is_video]
        crops = False
    mapper = (ClassificationMapper if crops else DatasetMapper)(cfg, is_train=True)
    loader = build_train_loader(
        [{"file_name": name, "label": 0} for name in names],
        mapper,
        TrainingSampler(len(names), seed=seed),
        total_batch_size=cfg.SOLVER.IMS_PER_BATCH,
        seed=seed,
    )
    mean, std = (
        torch.tensor(values).view(-1, 1, 1)
        for values in (cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD)
    )
    for samples in loader:
        images = [(sample["image"] - mean) / std for sample in samples]
        yield ImageList.from_tensors(images, SIZE_DIVISIBILITY).tensor.to(cfg.MODEL.DEVICE)
