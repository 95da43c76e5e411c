"""A trained network whose weights are put into others, and the files that it comes in."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import safetensors.torch
import torch
import yaml

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.modeling import Backbone

from ..architecture import Architecture
from ..config import flatten_config
from ..files import file_sha256, write_atomically
from ..modeling import CRMobileNetV2, CRResNet
from .checkpointer import BACKBONE_FORMAT, BACKBONE_PREFIXES, RES5_IN_HEADS
from .convert import convert
from .description import CONVENTIONS, Convention
from .infer import infer_arguments
from .remap import check_one_network
from .remap_report import RemapReport
from .weights_file import read_weights_file

MODEL_ZOO = "Detectron2 Model Zoo"  # author of its detectors, as their files name it
NOT_OF_THE_MODEL = re.compile(
    r"pixel_(mean|std)|(.+\.)?anchor_generator\..+"
)  # but derived from a config

# What weights need of a config beside the network's shapes, by its name in the header of a file
SETTINGS = {
    "input_format": "INPUT.FORMAT",
    "pixel_mean": "MODEL.PIXEL_MEAN",
    "pixel_std": "MODEL.PIXEL_STD",
    "stride_in_1x1": "MODEL.RESNETS.STRIDE_IN_1X1",
    "norm": "MODEL.RESNETS.NORM",
}


@dataclass(frozen=True)
class SeedNetwork:
    """A trained final network.

    Attributes:
        name: of its file.
        sha256: of its file, in hexadecimal.
        weights: by the names of :class:`CRResNet` or :class:`CRMobileNetV2`.
        family: as in ``MODEL.CR.FAMILY``.
        settings: the values that the weights need, as texts by config key, as far as the file tells
            them. The norm is among them where it must be "FrozenBN".
        rest: of a detector, all tensors outside of the backbone, by Detectron2's names, such as
            "backbone.fpn_lateral2.weight" and "roi_heads.box_predictor.cls_score.weight".
        class_names: of a detector, in the order of its outputs; empty where they are not known.
    """

    name: str
    sha256: str
    weights: Mapping[str, torch.Tensor]
    family: str
    settings: Mapping[str, str]
    rest: Mapping[str, torch.Tensor] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()

    def build(self, stage_code: Sequence[int], operation_code: Sequence[int] = ()) -> Backbone:
        """A network of this one's widths with other codes, and fresh weights.

        Raises:
            ValueError: the codes are of another family, or this network is not a whole one.
        """
        architecture = Architecture.of_family(self.family, stage_code, operation_code)
        shapes = {name: tuple(tensor.shape) for name, tensor in self.weights.items()}
        arguments = infer_arguments(self.family, shapes)
        arguments["stage_code"] = architecture.stage_code
        arguments["operation_code"] = architecture.operation_code
        if self.settings.get(SETTINGS["stride_in_1x1"]) == "True":
            arguments["stride_in_1x1"] = True
        return {"resnet": CRResNet, "mobilenetv2": CRMobileNetV2}[self.family](**arguments)

    def differences(self, cfg: CfgNode) -> list[str]:
        """The settings that have another value in a config, each in a sentence."""
        flat = flatten_config(cfg)
        return [
            f"{key}: {value} in the seed network, {flat[key]} in the config"
            for key, value in self.settings.items()
            if flat[key] != value
        ]


def read_seed_network(path: str, source: str | None = None, prefix: str = "") -> SeedNetwork:
    """Read a trained network of the families here.

    Args:
        path: a checkpoint of a detector or classifier, a file of tools/convert_weights.py or
            tools/remap_weights.py, or one that tools/convert_weights.py takes. Of any kind that
            ``PathManager`` knows; nothing in it is run.
        source: whose weights they are, where it is one of the last kind; see :func:`convert`.
        prefix: see :func:`read_weights_file`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, holds no such network, or a source is given for one of ours.
    """
    file = read_weights_file(path, prefix)
    state_dict, header = file.tensors, file.header
    identity = (os.path.basename(path), file_sha256(path))
    prefix = _find_prefix(state_dict)
    if prefix is None or (prefix == "" and header.get("format") != BACKBONE_FORMAT):
        try:
            weights, description = convert(state_dict, source)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        config = flatten_config(CfgNode(description.config()))
        return SeedNetwork(*identity, weights, description.family, _settings(config, weights))
    if source is not None:
        raise ValueError(
            f"source {source!r}: {path} has the names of this project's networks; a source is for "
            "weights of torchvision, timm and Caffe2"
        )
    weights = {
        key.removeprefix(prefix).removeprefix("roi_heads."): value
        for key, value in state_dict.items()
        if _is_of_the_backbone(key, prefix)
    }
    check_one_network(path, weights)
    config = file.model_config
    if file.author == MODEL_ZOO:
        config = _zoo_settings(weights)
    elif not config:
        config = {
            key: str(yaml.safe_load(header[name]))
            for name, key in SETTINGS.items()
            if name in header
        }
    rest = {}
    if prefix != "" and config.get("MODEL.META_ARCHITECTURE") != "ImageClassifier":
        rest = {
            key: value
            for key, value in state_dict.items()
            if not _is_of_the_backbone(key, prefix) and NOT_OF_THE_MODEL.fullmatch(key) is None
        }
    class_names = tuple(ast.literal_eval(config.get("MODEL.CLASS_NAMES", "[]")))
    if file.author == MODEL_ZOO and _count_classes(rest) == 80:
        class_names = tuple(MetadataCatalog.get("coco_2017_train").thing_classes)
    family = "resnet" if any(key.startswith("res2.") for key in weights) else "mobilenetv2"
    settings = _settings(config, weights)
    return SeedNetwork(*identity, weights, family, settings, rest, class_names)


def save_remapped(
    path: str, weights: Mapping[str, torch.Tensor], report: RemapReport, seed: SeedNetwork
) -> None:
    """Write the result of :func:`remap_backbone` as safetensors that ``MODEL.WEIGHTS`` takes.

    The header has the report and the settings that the weights need.

    Args:
        path: a local file; one that is there is replaced.
        weights, report: what :func:`remap_backbone` returns.
        seed: the network that they come from.
    """
    settings = {name: seed.settings[key] for name, key in SETTINGS.items() if key in seed.settings}
    header = {
        "format": BACKBONE_FORMAT,
        "family": seed.family,
        "seed_network": seed.name,
        "seed_network_sha256": seed.sha256,
        **settings,
        **report.metadata(),
    }
    contiguous = {name: tensor.contiguous() for name, tensor in weights.items()}
    write_atomically(path, safetensors.torch.save(contiguous, header))


def _zoo_settings(weights: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Those with which Detectron2's configs train: from FAIR's weights a ResNeXt, all else from
    MSRA's, and with frozen norms."""
    arguments = infer_arguments("resnet", {name: tuple(t.shape) for name, t in weights.items()})
    convention: Convention = CONVENTIONS["fair" if arguments["num_groups"] > 1 else "msra"]
    return {
        "INPUT.FORMAT": convention.input_format,
        "MODEL.PIXEL_MEAN": str(list(convention.pixel_mean)),
        "MODEL.PIXEL_STD": str(list(convention.pixel_std)),
        "MODEL.RESNETS.STRIDE_IN_1X1": str(convention.stride_in_1x1),
        "MODEL.RESNETS.NORM": "FrozenBN",
    }


def _count_classes(rest: Mapping[str, torch.Tensor]) -> int:
    """Classes of a detector, by Detectron2's names."""
    if "head.bbox_pred.weight" in rest:
        return 4 * len(rest["head.cls_score.weight"]) // len(rest["head.bbox_pred.weight"])
    for predictor in ("box_predictor", "box_predictor.0"):
        if f"roi_heads.{predictor}.cls_score.weight" in rest:
            return len(rest[f"roi_heads.{predictor}.cls_score.weight"]) - 1
    return 0


def _is_of_the_backbone(key: str, prefix: str) -> bool:
    """Whether it is a tensor of the bottom-up network, or of a C4 detector's last stage."""
    stage = re.escape(prefix) + r"(stem|res\d|c\d+|pool)\."
    return key.startswith(RES5_IN_HEADS) or re.match(stage, key) is not None


def _find_prefix(keys: Iterable[str]) -> str | None:
    """What stands before the names of the backbone; None where these are not ours."""
    for prefix in BACKBONE_PREFIXES:
        if any(key.startswith((f"{prefix}res2.", f"{prefix}c16.")) for key in keys):
            return prefix
    return None


def _settings(config: Mapping[str, str], weights: Iterable[str]) -> dict[str, str]:
    settings = {key: config[key] for key in SETTINGS.values() if key in config}
    if settings.get("MODEL.RESNETS.NORM") != "FrozenBN":  # the others compute the same
        settings.pop("MODEL.RESNETS.NORM", None)
    if not any(".conv3." in name for name in weights):
        settings.pop("MODEL.RESNETS.STRIDE_IN_1X1", None)
    return settings
