"""Loads images with one class each as the input of a classifier."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, default_collate
from torchvision.transforms import v2

from detectron2.config import CfgNode, configurable
from detectron2.data import build_detection_test_loader
from detectron2.data.detection_utils import read_image
from detectron2.utils import comm

from .naming_mapper import NamingMapper

__all__ = ["ClassificationMapper", "build_classification_test_loader"]

FLIPS = MappingProxyType(
    {"horizontal": v2.RandomHorizontalFlip, "vertical": v2.RandomVerticalFlip, "none": v2.Identity}
)


class ClassificationMapper:
    """Reads an image and preprocesses it for a classifier.

    In training a random crop is resized to the input size and randomly flipped. In a test the
    shorter side is resized and the center is cropped. torchvision's transforms run on a tensor in
    the memory layout of the decoded image, which is several times as fast as on a PIL image, with
    values that differ by at most 1.
    """

    @configurable
    def __init__(
        self,
        is_train: bool,
        *,
        image_format: str = "RGB",
        crop_size: int = 224,
        scale: Sequence[float] = (0.08, 1.0),
        aspect_ratio: Sequence[float] = (3 / 4, 4 / 3),
        flip: str = "horizontal",
        test_size: int = 256,
    ):
        """
        Args:
            is_train: whether to augment.
            image_format: order of the channels, see
                :func:`detectron2.data.detection_utils.read_image`.
            crop_size: height and width of the result, in pixels.
            scale: range of the share of the image's area in a training crop.
            aspect_ratio: range of the ratio of width to height of a training crop.
            flip: "horizontal", "vertical" or "none".
            test_size: shorter side of the image in pixels, whose center a test crops.

        Raises:
            ValueError: one of these is out of its range.
        """
        in_range = {
            "0 < crop_size <= test_size": 0 < crop_size <= test_size,
            "0 < scale[0] <= scale[1] <= 1": len(scale) == 2 and 0 < scale[0] <= scale[1] <= 1,
            "0 < aspect_ratio[0] <= aspect_ratio[1]": (
                len(aspect_ratio) == 2 and 0 < aspect_ratio[0] <= aspect_ratio[1]
            ),
            f"flip, one of {[*FLIPS]}": flip in FLIPS,
        }
        for expectation, holds in in_range.items():
            if not holds:
                raise ValueError(
                    f"expected {expectation}, in crop_size {crop_size}, test_size {test_size}, "
                    f"scale {scale}, aspect_ratio {aspect_ratio}, flip {flip!r}"
                )
        self.image_format = image_format
        if is_train:
            crop = v2.RandomResizedCrop(crop_size, scale, aspect_ratio, antialias=True)
            self.transform = v2.Compose([crop, FLIPS[flip]()])
        else:
            resize = v2.Resize(test_size, antialias=True)
            self.transform = v2.Compose([resize, v2.CenterCrop(crop_size)])

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool) -> dict:
        options = cfg.INPUT.CLASSIFICATION
        return {
            "is_train": is_train,
            "image_format": cfg.INPUT.FORMAT,
            "crop_size": options.CROP_SIZE,
            "scale": options.SCALE,
            "aspect_ratio": options.ASPECT_RATIO,
            "flip": cfg.INPUT.RANDOM_FLIP,
            "test_size": options.TEST_SIZE,
        }

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """
        Args:
            dataset_dict: a dict with "file_name" and "label".

        Returns:
            A dict of "image", a tensor of shape (channels, crop_size, crop_size) with values from 0
            to 255, and "label".

        Raises:
            OSError: the file does not exist or is not an image. The message names it.
        """
        file_name = dataset_dict["file_name"]
        try:
            pixels = read_image(file_name, self.image_format)
        except OSError as error:
            raise OSError(f"cannot read the image {file_name}: {error}") from error
        image = torch.from_numpy(np.array(pixels, order="C")).permute(2, 0, 1)
        return {"image": self.transform(image).contiguous(), "label": dataset_dict["label"]}


def build_classification_test_loader(cfg: CfgNode, dataset_name: str) -> DataLoader:
    """Build a loader of each image in a dataset, with the batch size of training.

    Returns:
        A loader of ``{"image": (N, channels, H, W), "label": (N,)}``.
    """
    return build_detection_test_loader(
        cfg,
        dataset_name,
        mapper=NamingMapper(ClassificationMapper(cfg, is_train=False)),
        batch_size=max(1, cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size()),
        collate_fn=default_collate,
    )
