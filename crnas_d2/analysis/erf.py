"""Effective receptive fields of features as in figure 1, after Luo et al. (2016)."""

from __future__ import annotations

import contextlib
import math
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from fvcore.nn.precise_bn import update_bn_stats
from torch import nn

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.data import transforms as T
from detectron2.modeling import Backbone, build_model
from detectron2.utils.file_io import PathManager

from ..checkpoint.same_model import check_same_model
from ..checkpoint.trained import load_trained
from ..checkpoint.weights_file import read_weights_file
from ..data.images import read_pixels
from ..engine.sync_bn import without_sync_bn
from ..modeling.builder_names import without_family

SHARE_THRESHOLD = 0.01  # share of the maximum
CALIBRATION_BATCH = 8  # number of images


@dataclass(frozen=True, eq=False)
class ERF:
    """The effective receptive field of the center unit of a feature.

    Attributes:
        feature: name of the feature.
        stride: stride of the feature in pixels.
        map: mean magnitude of the unit's gradient at each pixel, as float64 of shape (H, W), scaled
            to a maximum of 1.
    """

    feature: str
    stride: int
    map: np.ndarray

    @property
    def center(self) -> tuple[int, int]:
        """The row and column of the pixel at which the unit lies."""
        height, width = (math.ceil(side / self.stride) // 2 for side in self.map.shape)
        return height * self.stride, width * self.stride

    @property
    def sigma(self) -> float:
        """The standard deviation in pixels of the map as a distribution over pixels.

        It is the root of the second central moment, averaged over the two axes. For a round
        Gaussian it is the Gaussian's own. Anything outside of the image is not included.
        """
        variances = []
        for axis in (0, 1):
            weights = self.map.sum(axis=1 - axis) / self.map.sum()
            positions = np.arange(len(weights))
            variances.append((weights * (positions - (weights * positions).sum()) ** 2).sum())
        return math.sqrt(sum(variances) / 2)

    @property
    def share(self) -> float:
        """The share of the image's pixels that exceed 1 % of the maximum, from 0 to 1."""
        return float((self.map > SHARE_THRESHOLD).mean())


def effective_receptive_fields(
    model: nn.Module, features: Sequence[str], images: torch.Tensor
) -> dict[str, ERF]:
    """Measure the effect of each pixel on the center unit of features.

    As in Luo et al. (2016), a gradient of 1 on the center unit in every channel of the feature, and
    of 0 elsewhere, is propagated back to the image. The resulting magnitudes are summed over the
    color channels and averaged over the images. All modules are in evaluation mode, so that BN is
    an affine function with its running statistics. Operations that depend on the image by
    definition, such as the statistics of GN and the global pooling of NAS-FPN, still do.

    The model is left unchanged, including its modes, parameters and gradients.

    Args:
        model: a detector or classifier with a ``backbone``, or a backbone, which may be plain, have
            an FPN or NAS-FPN, or be a supernet, whose chosen path is measured.
        features: names of features of the backbone or of the one below its FPN (``bottom_up``),
            such as "p3" or "res4". As in the paper, "c2" to "c5" are the features below the FPN,
            that is, "res2" to "res5", or those with strides 4 to 32 if they have other names.
        images: images of shape (N, channels, H, W), normalized as for the model.

    Returns:
        The receptive fields by the names in ``features``.

    Raises:
        ValueError: a feature is unknown; there are no images, or they are smaller than the stride
            of a feature or have a size that the backbone cannot take; or the gradient is zero or
            not finite.
    """
    backbone = getattr(model, "backbone", model)
    known = _known_features(backbone)
    _check_images(backbone, images)
    _check_features(known, features, images.shape[2:])
    parameter = next(backbone.parameters())
    sums = {feature: torch.zeros(images.shape[2:], dtype=torch.float64) for feature in features}
    with _in_evaluation_mode(backbone), torch.enable_grad():
        for image in images:
            x = image[None].detach().to(parameter).requires_grad_()
            outputs = _all_outputs(backbone, x)
            for feature in features:
                output = outputs[known[feature][0]]
                height, width = output.shape[2:]
                unit = output[0, :, height // 2, width // 2].sum()
                (gradient,) = torch.autograd.grad(unit, x, retain_graph=True)
                sums[feature] += gradient[0].double().abs().sum(0).cpu()
    erfs = {}
    for feature, magnitudes in sums.items():
        maximum = magnitudes.max().item()
        if not 0 < maximum < math.inf:
            raise ValueError(
                f"feature {feature!r}: the largest gradient is {maximum}; expected one that is "
                "finite and not zero. The weights are not finite, or the norms do not fit them"
            )
        erfs[feature] = ERF(feature, known[feature][1], (magnitudes / maximum).numpy())
    return erfs


def _known_features(backbone: Backbone) -> dict[str, tuple[str, int]]:
    """Map each name that a feature may be requested by to its own name and its stride."""
    below = getattr(backbone, "bottom_up", backbone).output_shape()
    known: dict[str, tuple[str, int]] = {}
    for name, shape in below.items():
        match = re.fullmatch(r"res([2-5])", name)
        level = match[1] if match else int(math.log2(shape.stride))
        known.setdefault(f"c{level}", (name, shape.stride))
    for name, shape in {**below, **backbone.output_shape()}.items():
        known[name] = (name, shape.stride)
    return known


def _check_images(backbone: Backbone, images: torch.Tensor) -> None:
    if images.dim() != 4 or len(images) == 0:
        raise ValueError(
            f"the shape of images is {tuple(images.shape)}; expected (N, channels, height, width) with "
            "one image or more"
        )
    height, width = images.shape[2:]
    divisor = backbone.size_divisibility
    if divisor and (height % divisor or width % divisor):
        raise ValueError(
            f"images have {height}x{width} pixels; expected multiples of {divisor}, the "
            "size_divisibility of the backbone"
        )


def _check_features(
    known: dict[str, tuple[str, int]], features: Sequence[str], size: torch.Size
) -> None:
    unknown = [feature for feature in features if feature not in known]
    if unknown or not features:
        raise ValueError(f"features has {unknown}; expected one or more of {', '.join(known)}")
    stride = max(known[feature][1] for feature in features)
    if min(size) < stride:
        raise ValueError(
            f"images have {size[0]}x{size[1]} pixels; expected {stride} or more, the stride of a "
            "feature"
        )


@contextlib.contextmanager
def _in_evaluation_mode(module: nn.Module) -> Iterator[None]:
    modes = [(m, m.training) for m in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for m, training in modes:
            m.training = training


def _all_outputs(backbone: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Get the features of a backbone and of the one below its FPN in one forward pass."""
    outputs = {}
    below = getattr(backbone, "bottom_up", backbone)
    hook = below.register_forward_hook(lambda module, inputs, output: outputs.update(output))
    try:
        outputs.update(backbone(x))
    finally:
        hook.remove()
    return outputs


def noise_images(count: int, size: int, seed: int = 0) -> torch.Tensor:
    """Draw standard normal noise of shape (count, 3, size, size), reproducibly for a seed."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, size, size, generator=generator)


def dataset_images(cfg: CfgNode, dataset: str, count: int, size: int) -> torch.Tensor:
    """Read images that are evenly spaced in a dataset, preprocessed for the model of a config.

    Args:
        cfg: config, of which ``INPUT.FORMAT`` and ``MODEL.PIXEL_*`` are used.
        dataset: name of a registered dataset.
        count: number of images. All of them if the dataset has fewer.
        size: length to which the shorter side is resized, and height and width of the center crop.

    Returns:
        Normalized images of shape (N, 3, size, size).

    Raises:
        ValueError: the dataset is not registered, or it is empty.
    """
    if dataset not in DatasetCatalog:
        raise ValueError(f"dataset {dataset!r} is not registered; expected one that is")
    files = [image["file_name"] for image in DatasetCatalog.get(dataset)]
    if not files:
        raise ValueError(f"dataset {dataset!r} is empty; expected images to measure on")
    resize = T.ResizeShortestEdge(size, max_size=sys.maxsize)
    mean, std = (
        torch.tensor(values).view(-1, 1, 1)
        for values in (cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD)
    )
    images = []
    for i in np.linspace(0, len(files) - 1, min(count, len(files))).round().astype(int):
        pixels = read_pixels(files[i], cfg.INPUT.FORMAT)
        pixels = resize.get_transform(pixels).apply_image(pixels)
        top, left = ((side - size) // 2 for side in pixels.shape[:2])
        crop = np.ascontiguousarray(pixels[top : top + size, left : left + size].transpose(2, 0, 1))
        images.append((torch.as_tensor(crop).float() - mean) / std)
    return torch.stack(images)


def random_network(cfg: CfgNode, images: torch.Tensor, seed: int = 0) -> Any:
    """Build the model of a config as at the beginning of a training from scratch.

    No layer is frozen, and BN layers have the statistics of the images, with which they also
    normalize in training. Without these, the gradients of MobileNetV2 vanish.

    Args:
        cfg: config of any Detectron2 model with a backbone that is not a supernet.
        images: images of shape (N, 3, H, W), on which the model will be measured.
        seed: seed of the weights. The state of torch's CPU generator is left unchanged.

    Raises:
        ValueError: there are no images, or they have a size that the backbone cannot take.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_model(without_sync_bn(cfg, "one process measures"))
    _check_images(model.backbone, images)
    batches = images.to(model.device).split(CALIBRATION_BATCH)
    with torch.no_grad():
        update_bn_stats(model.backbone.train(), batches, len(batches))
    return model.eval()


def trained_network(cfg: CfgNode, weights: str) -> Any:
    """Build the model of a config with weights from a file.

    Args:
        cfg: config of any Detectron2 model with a backbone that is not a supernet.
        weights: anything that the project's checkpointer loads: a detector, a classifier, whose
            backbone is used, a backbone, or a supernet that contains the network of the config.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the weights belong to another architecture, or lack values for parameters of the
            backbone.
    """
    if not PathManager.isfile(weights):
        raise FileNotFoundError(f"weights {weights!r}: no such file")
    saved = read_weights_file(weights).model_config
    builder = without_family(saved.get("MODEL.BACKBONE.NAME", ""))
    if builder == without_family(cfg.MODEL.BACKBONE.NAME):
        keys = ["MODEL.CR.STAGE_CODE", "MODEL.CR.OPERATION_CODE"]
        if saved.get("MODEL.META_ARCHITECTURE") == cfg.MODEL.META_ARCHITECTURE:
            keys.append("MODEL.RESNETS.RES5_DILATION")
        check_same_model(cfg, saved, weights, below=tuple(keys))
    model = build_model(cfg).eval()
    load_trained(model, cfg, weights, part=model.backbone)
    return model
