"""The start of a model from a trained network: what goes where, what is left out, and what is new."""

from __future__ import annotations

import dataclasses
import logging
import re
import shlex
from collections.abc import Mapping

from torch import nn

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone, build_backbone

from ..architecture import FAMILIES
from ..modeling.builder_names import supernet_kind
from ..modeling.meta import on_meta
from ..modeling.supernet import Supernet
from .classes import match_class_rows, read_class_names
from .inherit import inherit_subnet
from .names import without_counters
from .parts import StateDict, list_misshapen, take_parts
from .remap import OF_A_CANDIDATE, find_backbone, find_stages, remap_backbone
from .remap_report import RemapReport, describe_frozen
from .seed_network import SeedNetwork, identify
from .settings import check_settings
from .weights_file import WeightsFile, read_weights_file, some

logger = logging.getLogger(__name__)

CANDIDATE = re.compile(r"(.+\.ops\.\d+)\..+")
OF_A_STAGE = re.compile(r"(^|\.)(res\d|c\d+)\.ops\.\d+\.")  # in a stage supernet
# Layers of a neck whose inputs are the backbone's features
READERS = re.compile(r"backbone\.(fpn_lateral\d+|top_block\.p6)\.weight")


def start(path: str, model: nn.Module, cfg: CfgNode) -> StateDict:
    """Get the state dict of a model that starts from the weights in a file.

    Args:
        path: any file for :func:`read_seed_network`; or a checkpoint of a supernet of this project,
            from which another supernet takes its own choices, and a network of its space its path.
            A model without a network of this project takes tensors by name.
        model, cfg: see :func:`start_from`, which logs each part.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file does not hold weights, or the backbone cannot be filled from it.
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
    """Get the state dict of a model that starts from a trained network, and log what it takes.

    The stages of the backbone, including the res5 in the RoI heads of C4, take all of their tensors
    from the network. Stages that the model does not build are left out. Neck, RPN and each head are
    parts: a part is taken if all of its tensors fit, and otherwise is new and stays as it is in the
    model. The outputs of classes are matched by the names of the classes, see
    :func:`match_class_rows`.

    Args:
        seed: see :func:`read_seed_network`.
        model: the model with random weights. It is not changed.
        cfg: config of the model. With ``MODEL.INIT.REMAP``, a network with other codes or more
            channels is remapped, see :func:`remap_seed`.

    Returns:
        All tensors of ``model.state_dict()``.

    Raises:
        ValueError: the backbone cannot be filled, and the message names tensors or the codes; or
            the config has other settings than the network needs, see :func:`check_settings`.
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
    state.update(take_parts(seed, model, tuple(cfg.MODEL.CLASS_NAMES)))
    return state


def check_start(seed: SeedNetwork, cfg: CfgNode) -> None:
    """Refuse a network from which the backbone of a config cannot start, before it is built.

    Args:
        seed: the network, whose tensors may be on the meta device. A supernet is not compared with
            a network of its space.
        cfg: config of a backbone of this project.

    Raises:
        ValueError: as :func:`start_from`.
    """
    is_supernet = any(map(OF_A_CANDIDATE.search, seed.weights))
    if not is_supernet or supernet_kind(cfg.MODEL.BACKBONE.NAME):
        _fit(seed, build_on_meta(cfg), cfg)


def build_on_meta(cfg: CfgNode) -> Backbone:
    """Build the backbone of a config on the meta device, where no memory is allocated."""
    with on_meta():
        return build_backbone(cfg, ShapeSpec(channels=3))


def _fit(
    seed: SeedNetwork, model: nn.Module, cfg: CfgNode
) -> tuple[SeedNetwork, RemapReport | None]:
    """Get the network unchanged if it fits the model, or remapped if the config says so."""
    init, seed = cfg.MODEL.INIT, _regroup(seed, model)
    misfit = describe_misfit(seed, model, cfg.MODEL.WEIGHTS or seed.name)
    if not misfit:
        return seed, None
    if not init.REMAP:
        raise ValueError(misfit)
    return remap_seed(seed, model, init.FUNCTION_PRESERVING, init.INTERPOLATE_DILATED)


def _regroup(seed: SeedNetwork, model: nn.Module) -> SeedNetwork:
    """Move the shared blocks of a stage supernet to the smallest choice of the model that has them.

    Any other network is returned unchanged.
    """
    own = [
        f"{stage}.{name}"
        for stage, path in find_stages(model).items()
        for name in model.get_submodule(path).state_dict()
    ]
    if not all(any(map(OF_A_STAGE.search, names)) for names in (own, seed.weights)):
        return seed
    ours, theirs = (
        {OF_A_CANDIDATE.sub("", name): name for name in names} for names in (own, seed.weights)
    )
    if len(ours) < len(own) or len(theirs) < len(seed.weights):  # a block is in several branches
        return seed
    weights = {ours.get(block, name): seed.weights[name] for block, name in theirs.items()}
    return dataclasses.replace(seed, weights=weights)


def _inherit(file: WeightsFile, model: nn.Module) -> WeightsFile:
    """Extract the weights of a network from a supernet's file."""
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
    """Take tensors by name for a model whose backbone belongs to another project."""
    own = model.state_dict()
    lacking = [
        key
        for key, tensor in without_counters(own).items()
        if key.startswith("backbone.")
        and (key not in file.tensors or file.tensors[key].shape != tensor.shape)
    ]
    if lacking or not own.keys() & file.tensors.keys():
        raise ValueError(
            f"weights {file.path} with {len(file.tensors)} tensors ({some(file.tensors)}) do not fill the "
            f"model's backbone: {len(lacking)} are not there, or of another shape ({some(lacking)})"
        )
    names = read_class_names(file.model_config)
    tensors, report = match_class_rows(file.tensors, names, model, cfg.MODEL.CLASS_NAMES)
    if str(report):
        logger.info(f"classes of {file.path}: {report}")
    return tensors


def place(name: str, places: Mapping[str, str]) -> str | None:
    """Get the key in a model of a tensor of a backbone. None if the model lacks its stage.

    Args:
        name: name of the tensor in the backbone.
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
    """Remap a network to the codes and channels of a model's backbone, see :func:`remap_backbone`.

    The rest of a detector is unchanged, except that layers of the neck keep the first input
    channels if the backbone's features have fewer of them.

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


def describe_misfit(seed: SeedNetwork, model: nn.Module, path: str) -> str:
    """Explain why a model's backbone cannot take a network's weights unchanged. Empty if it can.

    Args:
        seed: the network.
        model: the model, which may be on the meta device.
        path: path of the network's file, for the command that remaps it.
    """
    places = find_stages(model)
    if not {"stem", *FAMILIES[seed.family].stages}.issuperset(places):
        return (
            f"weights {seed.name} are of a {seed.family}; the model's backbone is of another family"
        )
    own = without_counters(model.state_dict())
    weights = {
        key: tensor
        for name, tensor in without_counters(seed.weights).items()
        if (key := place(name, places))
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
            ("of another shape", list_misshapen(weights, own)),
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
        f"and for all by crnas remap {shlex.quote(path)} remapped.safetensors --config-file FILE"
    )


def _other_dilations(seed: SeedNetwork, model: nn.Module, places: Mapping[str, str]) -> list[str]:
    """Describe the stages whose dilations differ from the model's, as far as they are known."""
    ours = getattr(find_backbone(model), "architecture", None)
    if seed.architecture is None or ours is None:
        return []
    stages = FAMILIES[seed.family].stages
    return [
        f"dilations {list(there)} for {list(here)} in {stage}"
        for stage, there, here in zip(stages, seed.architecture.dilations, ours.dilations)
        if stage in places and there != here
    ]


def _is_wider(own: StateDict, weights: StateDict) -> bool:
    return any(
        wanted > size
        for key in own.keys() & weights.keys()
        for wanted, size in zip(own[key].shape, weights[key].shape)
    )
