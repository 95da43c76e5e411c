"""The origin of the weights in a file, and the settings that they need because of it."""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import yaml

from ..paths import is_remote
from .description import CONVENTIONS, Convention
from .norms import find_norm
from .settings import BATCH_NORMS, SETTINGS, from_header
from .weights_file import WeightsFile

logger = logging.getLogger(__name__)

MODEL_ZOO = "Detectron2 Model Zoo"  # author of its detectors, as stated in their files
CONFIG_BESIDE = "config.yaml"  # name of the config that Detectron2's trainers write
ALWAYS_NEEDED = ("INPUT.FORMAT", "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD")
NORM = "MODEL.RESNETS.NORM"
STRIDE, DILATION = "MODEL.RESNETS.STRIDE_IN_1X1", "MODEL.RESNETS.RES5_DILATION"
PIXELS = {"pixel_mean": "MODEL.PIXEL_MEAN", "pixel_std": "MODEL.PIXEL_STD"}

Tensors = Mapping[str, torch.Tensor]


def find_settings(
    file: WeightsFile, weights: Tensors, rest: Tensors, source: str | None = None
) -> dict[str, str]:
    """Find the settings that the weights of a network need, as strings by config key.

    They come from a checkpoint or file of this project. For other files they come from ``source``,
    from the mean and standard deviation of the pixels among the tensors, from the author of
    Detectron2's model zoo, or from the ``config.yaml`` of a training next to the file. The kinds of
    norm are inferred from the tensors.

    Args:
        file: a detector, or a network with the names of this project.
        weights: tensors of its backbone.
        rest: all other tensors of a detector.
        source: a key of ``CONVENTIONS``, which is used if the file does not have the settings.

    Raises:
        ValueError: the settings are unknown.
    """
    told = _told_by_the_file(file)
    if not tells_settings(file):
        convention = CONVENTIONS[source] if source else _zoo_convention(file, weights)
        beside = {} if convention else read_config_beside(file.path)
        if convention is None and not all(key in beside for key in ALWAYS_NEEDED):
            raise ValueError(
                f"{_demand(file)}, or the {CONFIG_BESIDE} of the training beside the file"
            )
        assumed = convention.settings() if convention else beside
        dilation = 2 if any(name.startswith("backbone.res5.") for name in file.tensors) else 1
        told = {DILATION: str(dilation), **assumed, **_pixels_of(file), **told}
    return _as_the_tensors_need(told, weights, rest)


def tells_settings(file: WeightsFile) -> bool:
    """Whether a file of this project has all the settings that its weights need."""
    told = _told_by_the_file(file)
    return bool(file.model_config) or all(key in told for key in ALWAYS_NEEDED)


def check_is_told(file: WeightsFile, source: str | None) -> None:
    """Check that the origin of a classifier with the names of another project is known.

    Raises:
        ValueError: the names are those of Detectron2's backbones, which many projects use, and
            nothing determines the origin of the weights.
    """
    is_detectron2s = any(name.startswith("res2.0.") for name in file.tensors)
    tells = file.author == "torchvision" or "stem.fc.weight" in file.tensors
    if is_detectron2s and not tells and source is None:
        raise ValueError(_demand(file))


def _demand(file: WeightsFile) -> str:
    return (
        f"{file.path}: nothing tells whose weights these are, and so their input format, mean, std and "
        f"place of the stride; expected MODEL.INIT.SOURCE or --source, one of {', '.join(CONVENTIONS)}"
    )


def state_pixels(
    settings: Mapping[str, str],
    pixel_mean: Sequence[float] | None,
    pixel_std: Sequence[float] | None,
) -> dict[str, str]:
    """Override the mean and standard deviation of the pixels in the settings, if they are given.

    Raises:
        ValueError: they are not three numbers, or a mean is negative, or a standard deviation is
            not positive.
    """
    stated = {}
    for name, values in (("pixel_mean", pixel_mean), ("pixel_std", pixel_std)):
        if values is None:
            continue
        numbers = [float(value) for value in values]
        least = "positive" if name == "pixel_std" else "no negative"
        if (
            len(numbers) != 3
            or not all(map(math.isfinite, numbers))
            or min(numbers) < 0
            or (name == "pixel_std" and min(numbers) == 0)
        ):
            raise ValueError(f"{name} is {list(values)}; expected three {least} numbers")
        stated[PIXELS[name]] = str(numbers)
    return {**settings, **stated}


def read_config_beside(path: str) -> dict[str, str]:
    """Read the settings in the ``config.yaml`` next to a file, as strings by config key.

    It is read as plain data: no tag in it can run anything.
    """
    beside = os.path.join(os.path.dirname(path), CONFIG_BESIDE)
    if is_remote(path) or not os.path.isfile(beside):
        return {}
    try:
        with open(beside, encoding="utf-8") as file:
            content = yaml.load(file, _PlainLoader)
    except (yaml.YAMLError, UnicodeDecodeError):
        logger.warning(f"{beside} is not YAML: it tells nothing of {path}")
        return {}
    settings = {}
    for key in set(SETTINGS.values()) - {NORM}:
        value: Any = content
        for name in key.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        if value is not None:
            settings[key] = str(value)
    if settings:
        logger.info(f"the settings of {path} are those of {beside}")
    return settings


class _PlainLoader(yaml.SafeLoader):
    """A loader that reads nodes with unknown tags as plain lists, dicts and strings."""


def _construct_plainly(loader: yaml.SafeLoader, tag: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    return loader.construct_scalar(node)


_PlainLoader.add_multi_constructor("", _construct_plainly)


def _told_by_the_file(file: WeightsFile) -> dict[str, str]:
    known = file.model_config
    told = {key: known[key] for key in SETTINGS.values() if key in known}
    if told.get(NORM) in BATCH_NORMS:
        del told[NORM]  # any of them will do, unless the tensors need a certain one
    return from_header(file.header) or told


def _zoo_convention(file: WeightsFile, weights: Tensors) -> Convention | None:
    """Get the convention of Detectron2's configs: FAIR's for a ResNeXt, otherwise MSRA's.

    Some zoo models start from other weights or from scratch. Their norms have statistics.
    """
    if file.author != MODEL_ZOO or find_norm(weights) != "FrozenBN":
        return None
    layer = weights.get("res2.0.conv2.weight")
    has_groups = layer is not None and len(layer) > layer[0].numel() // layer[0, 0].numel()
    return CONVENTIONS["fair" if has_groups else "msra"]


def _pixels_of(file: WeightsFile) -> dict[str, str]:
    """Get the mean and standard deviation of the pixels if they are among the tensors."""
    return {
        key: str([round(value, 4) for value in file.tensors[name].flatten().tolist()])
        for name, key in PIXELS.items()
        if name in file.tensors
    }


def _as_the_tensors_need(
    told: Mapping[str, str], weights: Tensors, rest: Tensors
) -> dict[str, str]:
    """Drop the settings that the network does not use, and add the norms that its tensors need."""
    norm, fpn_norm = told.get(NORM) or find_norm(weights), told.get("MODEL.FPN.NORM")
    settings = {key: told[key] for key in ALWAYS_NEEDED if key in told}
    if STRIDE in told and any(".conv3." in name for name in weights):
        settings[STRIDE] = told[STRIDE]
    has_neck = any(name.startswith("backbone.") for name in rest)
    if rest and not has_neck and DILATION in told:  # a detector has a choice then
        settings[DILATION] = told[DILATION]
    if norm:
        settings[NORM] = norm
    laterals = {n: t for n, t in rest.items() if re.match(r"backbone\.fpn_(lateral|output)\d", n)}
    if laterals:
        kind = ""
        if any(".norm." in name for name in laterals):
            kind = "BN" if any(name.endswith("running_var") for name in laterals) else "GN"
        settings["MODEL.FPN.NORM"] = (fpn_norm or kind) if kind else ""
    return settings
