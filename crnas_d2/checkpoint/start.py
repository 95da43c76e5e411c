"""How a model starts from a trained network: what goes where, what is left out, and what is new."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import nn

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone

from ..architecture import FAMILIES
from ..modeling.supernet import Supernet
from .classes import find_class_rows, match_class_rows, read_class_names
from .inherit import inherit_subnet
from .remap import OF_A_CANDIDATE, find_backbone, find_stages, remap_backbone
from .remap_report import RemapReport, describe_frozen
from .seed_network import SeedNetwork, identify
from .settings import check_settings
from .weights_file import WeightsFile, read_weights_file

logger = logging.getLogger(__name__)

StateDict = dict[str, torch.Tensor]

NECK = "neck"
OUTPUTS = ", outputs of classes"  # behind the name of a part
ABSENT = "there is none"
COUNTER = "num_batches_tracked"
PART = re.compile(r"(backbone\.top_block|roi_heads\.\w+|\w+)\..+")
CANDIDATE = re.compile(r"(.+\.ops\.\d+)\..+")
OF_A_STAGE = re.compile(r"(^|\.)(res\d|c\d+)\.ops\.\d+\.")  # in a stage supernet
# Layers of a neck whose input channels are those of the backbone's features
READERS = re.compile(r"backbone\.(fpn_lateral\d+|top_block\.p6)\.weight")


def start(path: str, model: nn.Module, cfg: CfgNode) -> StateDict:
    """The state dict of a model that starts from the weights in a file.

    Args:
        path: what :func:`read_seed_network` takes; or a checkpoint of a supernet of this project,
            of which another supernet takes the choices that it has, and a network of its space the
            path that it is. A model without a network of this project takes tensors by its names.
        model, cfg: see :func:`start_from`, which has a line in the log for each part.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no file of weights, or the backbone cannot be filled from it.
    """
    init = cfg.MODEL.INIT
    file = read_weights_file(path, init.PREFIX)
    if find_backbone(model) is None:
        return _by_name(file, model, cfg)
    is_supernet = any(map(OF_A_CANDIDATE.search, file.tensors))
    if is_supernet and not isinstance(find_backbone(model), Supernet):
        file = _inherit(file, model)
    return start_from(identify(file, init.SOURCE or None), model, cfg)


def start_from(seed: SeedNetwork, model: nn.Module, cfg: CfgNode) -> StateDict:
    """The state dict of a model that starts from a trained network; the log says what it has.

    The stages of the backbone, of C4 with res5 in the RoI heads, have all of their tensors from the
    network. Stages that the model does not build are left out. Neck, RPN and each head are parts:
    one whose tensors all fit is taken, any other is new, as it is in the model. Outputs of classes go
    by the classes' names, see :func:`match_class_rows`.

    Args:
        seed: see :func:`read_seed_network`.
        model: with random weights. It stays as it is.
        cfg: of the model. With ``MODEL.INIT.REMAP`` a network of other codes or more channels is
            remapped, see :func:`remap_seed`.

    Returns:
        All tensors of ``model.state_dict()``.

    Raises:
        ValueError: the backbone cannot be filled. The message names tensors, or the codes. Or the
            config has other settings than the network needs, see :func:`check_settings`.
    """
    left_out = f", without {some(seed.dropped)}" if seed.dropped else ""
    logger.info(f"{seed.name} is a {seed.family} of {seed.source}{left_out}")
    seed, report = _fit(seed, model, cfg)
    if report is not None:
        changes = [f"{stage} ({how})" for stage, how in report.changes().items()]
        logger.info(f"{seed.name} is remapped; not as they were: {', '.join(changes) or 'none'}")
        frozen = describe_frozen(report.changes(), seed.family, cfg.MODEL.BACKBONE.FREEZE_AT)
        if frozen:
            logger.warning(frozen)
    check_settings(seed.settings, cfg, seed.name)
    state, places = model.state_dict(), find_stages(model)
    for name, tensor in seed.weights.items():
        key = place(name, places)
        if key in state:
            state[key] = tensor
    absent = {name.partition(".")[0]: None for name in seed.weights if place(name, places) is None}
    without = f", without {', '.join(absent)}, which the model does not build" if absent else ""
    logger.info(f"from {seed.name}: the backbone ({', '.join(places)}){without}")
    state.update(_take_parts(seed, model, tuple(cfg.MODEL.CLASS_NAMES)))
    return state


def check_start(seed: SeedNetwork, cfg: CfgNode) -> None:
    """Refuse a network from which the backbone of a config cannot start, before it is built.

    Args:
        seed: its tensors may lie on the meta device. A supernet in which a network of its space has
            its weights is not compared.
        cfg: of a backbone of this project.

    Raises:
        ValueError: as :func:`start_from`.
    """
    is_supernet = any(map(OF_A_CANDIDATE.search, seed.weights))
    if not is_supernet or "supernet" in cfg.MODEL.BACKBONE.NAME:
        with torch.device("meta"):
            backbone = build_backbone(cfg, ShapeSpec(channels=3))
        _fit(seed, backbone, cfg)


def _fit(
    seed: SeedNetwork, model: nn.Module, cfg: CfgNode
) -> tuple[SeedNetwork, RemapReport | None]:
    """The network as it is where it is that of the model, or remapped if the config wants it."""
    init = cfg.MODEL.INIT
    misfit = describe_misfit(seed, model)
    if not misfit:
        return seed, None
    if not init.REMAP:
        raise ValueError(misfit)
    return remap_seed(seed, model, init.FUNCTION_PRESERVING, init.INTERPOLATE_DILATED)


def _inherit(file: WeightsFile, model: nn.Module) -> WeightsFile:
    """Of a supernet's file what a network of its space has."""
    architecture = find_backbone(model).architecture
    if any(map(OF_A_STAGE.search, file.tensors)):
        path = architecture.stage_code
    else:
        path = architecture.operation_code
        key, own = "MODEL.CR.STAGE_CODE", str(list(architecture.stage_code))
        if (saved := file.model_config.get(key, own)) != own:
            raise ValueError(
                f"weights {file.path} are of a dilation supernet of the stage code {saved}; "
                f"expected {own}, the {key} of the model"
            )
    logger.info(f"{file.path} is of a supernet: loading the weights of its path {list(path)}")
    return dataclasses.replace(file, tensors=inherit_subnet(file.tensors, path))


def _by_name(file: WeightsFile, model: nn.Module, cfg: CfgNode) -> StateDict:
    """Of a file what has the names of a model whose backbone is none of this project."""
    own = model.state_dict()
    lacking = [
        key
        for key, tensor in _without_counters(own).items()
        if key.startswith("backbone.")
        and (key not in file.tensors or file.tensors[key].shape != tensor.shape)
    ]
    if lacking or not own.keys() & file.tensors.keys():
        raise ValueError(
            f"weights {file.path}: none of its {len(file.tensors)} tensors ({some(file.tensors)}) fits "
            f"{len(lacking)} of the model's backbone ({some(lacking)})"
        )
    names = read_class_names(file.model_config)
    tensors, report = match_class_rows(file.tensors, names, model, cfg.MODEL.CLASS_NAMES)
    if str(report):
        logger.info(f"classes of {file.path}: {report}")
    return tensors


def place(name: str, places: Mapping[str, str]) -> str | None:
    """The key in a model of a tensor of a backbone; None where its stage is not there.

    Args:
        places: see :func:`find_stages`.
    """
    stage, _, rest = name.partition(".")
    return f"{places[stage]}.{rest}" if stage in places else None


def remap_seed(
    seed: SeedNetwork,
    model: nn.Module,
    function_preserving: bool = False,
    interpolate_dilated: bool = False,
) -> tuple[SeedNetwork, RemapReport]:
    """A network with the codes and channels of a model's backbone, see :func:`remap_backbone`.

    Of a detector all else stays; but where the backbone's features have fewer channels, the layers of
    the neck that read them keep the first ones.

    Raises:
        ValueError: as :func:`remap_backbone`.
    """
    weights, report = remap_backbone(seed.weights, model, function_preserving, interpolate_dilated)
    own = model.state_dict()
    rest = {}
    for key, tensor in seed.rest.items():
        if READERS.fullmatch(key) and key in own:
            tensor = tensor[:, : own[key].shape[1]]
        rest[key] = tensor
    architecture = getattr(find_backbone(model), "architecture", None)
    seed = dataclasses.replace(seed, weights=weights, rest=rest, architecture=architecture)
    return seed, report


def describe_misfit(seed: SeedNetwork, model: nn.Module) -> str:
    """Why the backbone of a model cannot have the weights of a network as they are; or nothing.

    Args:
        model: may lie on the meta device.
    """
    places = find_stages(model)
    if not {"stem", *FAMILIES[seed.family].stages}.issuperset(places):
        return (
            f"weights {seed.name} are of a {seed.family}; the model's backbone is of another family"
        )
    own = _without_counters(model.state_dict())
    weights = {
        key: tensor
        for name, tensor in seed.weights.items()
        if (key := place(name, places)) and not key.endswith(COUNTER)
    }
    stages = tuple(f"{path}." for path in places.values())
    choices = {match[1] for match in map(CANDIDATE.fullmatch, own) if match}

    def is_of_another_choice(key: str) -> bool:
        match = CANDIDATE.fullmatch(key)
        return bool(choices and match and match[1] not in choices)

    problems = [
        f"{len(keys)} tensor(s) {what} ({some(keys)})"
        for what, keys in (
            ("missing", [key for key in own if key.startswith(stages) and key not in weights]),
            ("left over", [k for k in weights if k not in own and not is_of_another_choice(k)]),
            ("of another shape", _misshapen(weights, own)),
        )
        if keys
    ] or _other_dilations(seed, model, places)
    if not problems:
        return ""
    problem = f"weights {seed.name} are of another backbone than the model's: {', '.join(problems)}"
    if _is_wider(own, weights):
        return problem
    return (
        f"{problem}. With MODEL.INIT.REMAP True a network of other codes is put into this one, or once "
        f"and for all by crnas remap {seed.name} remapped.safetensors --config-file FILE"
    )


def _other_dilations(seed: SeedNetwork, model: nn.Module, places: Mapping[str, str]) -> list[str]:
    """In words, the stages of other dilations than the model's, as far as they are known."""
    ours = getattr(find_backbone(model), "architecture", None)
    if seed.architecture is None or ours is None:
        return []
    stages = FAMILIES[seed.family].stages
    return [
        f"dilations {list(there)} for {list(here)} in {stage}"
        for stage, there, here in zip(stages, seed.architecture.dilations, ours.dilations)
        if stage in places and there != here
    ]


def name_part(key: str) -> str:
    """The part of a model, beside the stages of its backbone, that a tensor belongs to."""
    part = match[1] if (match := PART.fullmatch(key)) else key
    return NECK if part == "backbone" else part


def _take_parts(seed: SeedNetwork, model: nn.Module, names: tuple[str, ...]) -> StateDict:
    """What a model has from a trained network beside the stages, with a line in the log for each
    part."""
    stages = tuple(f"{path}." for path in find_stages(model).values())
    of_classes = find_class_rows(model)

    def part_of(key: str) -> str:
        return name_part(key) + OUTPUTS if key in of_classes else name_part(key)

    own: dict[str, StateDict] = defaultdict(dict)
    for key, tensor in model.state_dict().items():
        if not key.startswith(stages):
            own[part_of(key)][key] = tensor
    given, classes = match_class_rows(seed.rest, seed.class_names, model, names)
    there: dict[str, StateDict] = defaultdict(dict)
    for key, tensor in given.items():
        there[part_of(key)][key] = tensor

    state, absent, new = {}, [], set()
    of_others = set(map(part_of, classes.left_out))
    for part, tensors in own.items():
        reason = _why_new(tensors, there.pop(part, {}), is_pyramid=part == NECK)
        if part in of_others:
            reason = "they are of another number of classes"
        elif part.removesuffix(OUTPUTS) in new:
            reason = reason or "they belong to other layers"
        if not reason:
            taken = {key: given[key] for key in tensors if key in given}
            logger.info(f"from {seed.name}: {part} ({len(taken)} tensors)")
            state.update(taken)
            continue
        new.add(part)
        if reason == ABSENT:
            absent.append(part)
        else:
            logger.info(f"new: {part}; in {seed.name} {reason}")
    if absent:
        logger.info(f"new, as {seed.name} has none: {', '.join(absent)}")
    if there:
        logger.info(f"not used of {seed.name}: {', '.join(there)}")
    if str(classes) and not of_classes.keys().isdisjoint(seed.rest):
        logger.info(f"classes of {seed.name}: {classes}")
    return state


def _why_new(own: StateDict, there: StateDict, is_pyramid: bool) -> str:
    """Why a part of a model cannot have the tensors of a file, or nothing.

    Args:
        is_pyramid: whether it may be one of more levels that the file has.
    """
    own, there = _without_counters(own), _without_counters(there)
    misshapen = _misshapen(there, own)
    lacking = [key for key in own if key not in there]
    more = [key for key in there if key not in own]
    if not there:
        return ABSENT
    if misshapen:
        return f"{len(misshapen)} tensor(s) have another shape ({some(misshapen)})"
    if lacking:
        return f"{len(lacking)} of its tensors are not there ({some(lacking)})"
    if more and not is_pyramid:
        return f"it has {len(more)} tensor(s) more ({some(more)})"
    return ""


def _without_counters(tensors: Mapping[str, torch.Tensor]) -> StateDict:
    return {key: tensor for key, tensor in tensors.items() if not key.endswith(COUNTER)}


def _is_wider(own: StateDict, weights: StateDict) -> bool:
    return any(
        wanted > size
        for key in own.keys() & weights.keys()
        for wanted, size in zip(own[key].shape, weights[key].shape)
    )


def _misshapen(given: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor]) -> list[str]:
    """The tensors of another shape than those of the model, with both shapes."""
    return [
        f"{key} {tuple(tensor.shape)} for {tuple(own[key].shape)}"
        for key, tensor in given.items()
        if key in own and tensor.shape != own[key].shape
    ]


def some(keys) -> str:
    """The first of them."""
    keys = list(keys)
    return ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")
