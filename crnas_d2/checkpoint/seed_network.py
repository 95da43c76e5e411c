"""A trained network whose weights are put into others, and how it is read from files."""

from __future__ import annotations

import ast
import functools
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from detectron2.data import MetadataCatalog
from detectron2.modeling import Backbone

from ..architecture import Architecture
from ..files import file_sha256
from ..modeling.builder_names import supernet_kind
from ..paths import is_remote
from .classes import as_config, read_class_names
from .convert import check_complete, convert, describe_fault
from .description import BACKBONE_FORMAT, MODEL_FORMAT, Description
from .foreign import check_is_known
from .infer import infer_arguments
from .names import BACKBONE_PREFIXES, COUNTER, RES5_IN_HEADS, without_counters
from .origin import MODEL_ZOO, check_is_told, find_settings, state_pixels, tells_settings
from .remap import check_one_network
from .weights_file import WeightsFile, read_weights_file

# Buffers that are derived from a config and are not weights
DERIVED = re.compile(r"pixel_(mean|std)|(.+\.)?anchor_generator\..+")


@dataclass(frozen=True)
class SeedNetwork:
    """A trained final network.

    Attributes:
        name: name of its file.
        sha256: SHA-256 of its file, in hexadecimal.
        weights: tensors by the names of :class:`CRResNet` or :class:`CRMobileNetV2`.
        family: family of the network, as in ``MODEL.CR.FAMILY``.
        settings: config values that the weights need, as strings by config key, as far as they are
            known; see :func:`find_settings`.
        rest: all tensors of a detector outside of the backbone, by Detectron2's names, such as
            "backbone.fpn_lateral2.weight" and "roi_heads.box_predictor.cls_score.weight"; or the
            last layer of a classifier of this project.
        class_names: names of a detector's classes, in the order of its outputs. Empty if unknown.
        source: origin of the weights.
        dropped: keys of the file that belong to no part of a model.
        architecture: its codes. None if the file does not have them.
    """

    name: str
    sha256: str
    weights: Mapping[str, torch.Tensor]
    family: str
    settings: Mapping[str, str]
    rest: Mapping[str, torch.Tensor] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    source: str = ""
    dropped: tuple[str, ...] = ()
    architecture: Architecture | None = None

    def build(self, stage_code: Sequence[int], operation_code: Sequence[int] = ()) -> Backbone:
        """Build a network with the widths and norms of this one, other codes, and fresh weights.

        Raises:
            ValueError: the codes belong to another family, or this network is incomplete.
        """
        architecture = Architecture.of_family(self.family, stage_code, operation_code)
        return self.describe().build(
            stage_code=architecture.stage_code, operation_code=architecture.operation_code
        )

    def rebuild(self) -> Backbone:
        """Build this network itself, in evaluation mode.

        Raises:
            ValueError: its codes are unknown, or some of its tensors are missing.
        """
        if self.architecture is None:
            raise ValueError(f"{self.name} does not tell its stage code and operation code")
        network = self.build(self.architecture.stage_code, self.architecture.operation_code)
        missing = network.load_state_dict(self.weights, strict=False).missing_keys
        missing = [name for name in missing if not name.endswith(COUNTER)]
        if missing:
            raise ValueError(f"{self.name} has no tensor {missing[0]}")
        return network.eval()

    def describe(self) -> Description:
        """Describe the network.

        Raises:
            ValueError: it is incomplete.
        """
        arguments = infer_arguments(self.family, _shapes(self.weights))
        if self.architecture is not None and any(self.architecture.operation_code):
            arguments["operation_code"] = list(self.architecture.operation_code)
        if "MODEL.RESNETS.STRIDE_IN_1X1" in self.settings:
            arguments["stride_in_1x1"] = self.settings["MODEL.RESNETS.STRIDE_IN_1X1"] == "True"
        if "MODEL.RESNETS.NORM" in self.settings:
            arguments["norm"] = self.settings["MODEL.RESNETS.NORM"]
        return Description(self.source, self.family, arguments, self.dropped, self.settings)


def read_seed_network(
    path: str,
    source: str | None = None,
    prefix: str = "",
    pixel_mean: Sequence[float] | None = None,
    pixel_std: Sequence[float] | None = None,
) -> SeedNetwork:
    """Read a trained network of a supported family.

    Args:
        path: a detector of Detectron2, a checkpoint of this project, a file of ``crnas convert`` or
            ``crnas remap``, or a classifier of torchvision, timm or Caffe2, at any path that
            ``PathManager`` supports. Nothing in it is run.
        source: origin of the weights, a key of ``CONVENTIONS``, if the file does not record it.
        prefix: see :func:`read_weights_file`.
        pixel_mean, pixel_std: three numbers on the scale 0 to 255, in the order of the channels, if
            the network was not trained with those that its source usually uses.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, holds no such network, its origin is unknown, or a source
            is given for one of ours.
    """
    file = read_weights_file(path, prefix)
    if source is not None and tells_settings(file):
        raise ValueError(
            f"source {source!r}: {path} tells its settings; a source is for weights of other projects"
        )
    seed = identify(file, source)
    check_one_network(path, seed.weights)
    if not is_of_this_project(file):
        _check_network(path, seed)
    settings = state_pixels(seed.settings, pixel_mean, pixel_std)
    return replace(seed, settings=settings, sha256=file_sha256(path))


@dataclass(frozen=True)
class Facts:
    """The facts about a file of weights that setup needs.

    Attributes:
        network: the network, which may be a supernet of this project, with its tensors on the meta
            device.
        model_config: as in :class:`WeightsFile`. For other files, the keys of the classes if their
            names are known.
    """

    network: SeedNetwork
    model_config: Mapping[str, str]


def read_facts(path: str, source: str | None = None, prefix: str = "") -> Facts:
    """Read the facts about a file, which are cached as long as it does not change.

    The arguments and errors are those of :func:`read_seed_network`.
    """
    modified = 0 if is_remote(path) or not os.path.isfile(path) else os.stat(path).st_mtime_ns
    return _read_facts(path, source, prefix, modified)


@functools.lru_cache(maxsize=8)
def _read_facts(path: str, source: str | None, prefix: str, modified: int) -> Facts:
    file = read_weights_file(path, prefix)
    seed = identify(file, source)
    weights, rest = ({k: t.to("meta") for k, t in d.items()} for d in (seed.weights, seed.rest))
    config = file.model_config or as_config(seed.class_names)
    return Facts(replace(seed, weights=weights, rest=rest), config)


def is_of_this_project(file: WeightsFile) -> bool:
    """Whether a file is marked as a checkpoint or a tool's output of this project."""
    formats = (BACKBONE_FORMAT, MODEL_FORMAT)
    return bool(file.model_config) or file.header.get("format") in formats


def identify(file: WeightsFile, source: str | None) -> SeedNetwork:
    """Get the network in a file, which may be a supernet of this project, without its SHA-256.

    ``source`` is used if the file does not have its settings.
    """
    prefix = _find_prefix(file.tensors)
    is_headed = file.header.get("format") == BACKBONE_FORMAT
    if prefix is None or (
        prefix == "" and not is_headed and "c16.0.project.weight" not in file.tensors
    ):
        return _translate(file, source)
    source = None if tells_settings(file) else source
    weights, rest, derived = {}, {}, []
    for key, tensor in file.tensors.items():
        if _is_of_the_backbone(key, prefix):
            weights[key.removeprefix(prefix).removeprefix("roi_heads.")] = tensor
        elif DERIVED.fullmatch(key):
            derived.append(key)
        else:
            rest[key] = tensor
    if not is_of_this_project(file) and (fault := describe_fault(weights)):
        raise ValueError(f"{file.path}: {fault}")
    of_a_detector = {k: t for k, t in rest.items() if not k.startswith("linear.")}
    family = "resnet" if any(key.startswith("res2.") for key in weights) else "mobilenetv2"
    config, header = file.model_config, file.header
    names = tuple(json.loads(header.get("class_names", "[]")) or read_class_names(config))
    if file.author == MODEL_ZOO and _count_classes(rest) == 80:
        names = tuple(MetadataCatalog.get("coco_2017_train").thing_classes)
    return SeedNetwork(
        name=os.path.basename(file.path),
        sha256="",
        weights=weights,
        family=family,
        settings=find_settings(file, weights, of_a_detector, source),
        rest=rest,
        class_names=names,
        architecture=_find_architecture(file, family, weights),
        source=source or file.author or file.header.get("source", "this project"),
        dropped=tuple(derived),
    )


def _translate(file: WeightsFile, source: str | None) -> SeedNetwork:
    """Convert a network with another project's names."""
    check_is_known(file)
    try:
        weights, description = convert(file.tensors, source)
    except ValueError as error:
        raise ValueError(f"{file.path}: {error}") from None
    check_is_told(file, source)
    return SeedNetwork(
        name=os.path.basename(file.path),
        sha256="",
        weights=weights,
        family=description.family,
        settings=description.settings,
        architecture=Architecture(description.arguments["stage_code"]),
        source=description.source,
        dropped=description.dropped,
    )


def _find_architecture(
    file: WeightsFile, family: str, weights: Mapping[str, torch.Tensor]
) -> Architecture | None:
    """Get the codes of a network with the names of this project, as far as the file has them."""
    config, header = file.model_config, file.header
    if supernet_kind(config.get("MODEL.BACKBONE.NAME", "")):
        return None
    if file.author == MODEL_ZOO:
        try:
            stage_code = infer_arguments(family, _shapes(weights))["stage_code"]
            return Architecture.of_family(family, stage_code)
        except ValueError:  # the network is incomplete
            return None
    codes = [
        ast.literal_eval(
            config.get(f"MODEL.CR.{kind}_CODE") or header.get(f"{kind.lower()}_code", "[]")
        )
        for kind in ("STAGE", "OPERATION")
    ]
    return Architecture.of_family(family, *codes) if codes[0] else None


def _check_network(path: str, seed: SeedNetwork) -> None:
    """Check that a network belongs to a supported family.

    Raises:
        ValueError: it does not.
    """
    shapes = without_counters(_shapes(seed.weights))
    try:
        description = seed.describe()
        depths = [depth or 1 for depth in description.arguments["stage_code"]]
        arguments = {**description.arguments, "stage_code": depths}
        check_complete(shapes, replace(description, arguments=arguments))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _shapes(tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _count_classes(rest: Mapping[str, torch.Tensor]) -> int:
    """Count the classes of a detector, by Detectron2's names."""
    if "head.bbox_pred.weight" in rest:
        return 4 * len(rest["head.cls_score.weight"]) // len(rest["head.bbox_pred.weight"])
    for predictor in ("box_predictor", "box_predictor.0"):
        if f"roi_heads.{predictor}.cls_score.weight" in rest:
            return len(rest[f"roi_heads.{predictor}.cls_score.weight"]) - 1
    return 0


def _is_of_the_backbone(key: str, prefix: str) -> bool:
    """Whether a tensor belongs to the bottom-up network, or to a C4 detector's last stage."""
    stage = re.escape(prefix) + r"(stem|res\d|c\d+|pool)\."
    return key.startswith(RES5_IN_HEADS) or re.match(stage, key) is not None


def _find_prefix(keys: Iterable[str]) -> str | None:
    """Find the prefix of the backbone's names. None if these are not the names of this project."""
    for prefix in BACKBONE_PREFIXES:
        if any(key.startswith((f"{prefix}res2.", f"{prefix}c16.")) for key in keys):
            return prefix
    return None
