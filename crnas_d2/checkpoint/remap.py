"""Remaps a trained network's weights to another depth, width or dilation (Fang et al., 2020)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling.roi_heads import Res5ROIHeads

from ..architecture import FAMILIES
from ..modeling import CRMobileNetV2, CRResNet
from ..modeling.supernet import ChoiceBlock, Supernet
from .names import StateDict, without_counters
from .remap_report import IN_A_BLOCK, Origin, RemapReport

OF_A_CANDIDATE = re.compile(r"\.ops\.\d+(?=\.)")
LAST_LAYERS = {"basic": "conv2", "bottleneck": "conv3", "inverted residual": "project"}
CHOICE_LAYERS = {"basic": "conv2", "bottleneck": "conv2", "inverted residual": "depthwise"}


@dataclass(frozen=True)
class _Kind:
    """The properties that a seed network and its target must have in common."""

    family: str
    block: str
    num_groups: int
    norm: tuple[str, ...]

    def __str__(self) -> str:
        groups = f" in {self.num_groups} groups" if self.num_groups > 1 else ""
        norm = ", ".join(self.norm) or "nothing"
        return f"{self.family} of {self.block} blocks{groups}, whose norms have {norm}"


def remap_backbone(
    seed: Mapping[str, torch.Tensor],
    target: nn.Module,
    function_preserving: bool = False,
    interpolate_dilated: bool = False,
) -> tuple[StateDict, RemapReport]:
    """Fill a network or a supernet with the weights of a trained one of the same family.

    The rules are those of Fast Neural Network Adaptation (Fang et al., 2020). In each stage, block
    i takes all tensors of block min(i, l - 1) of the seed network, which has l blocks there, so a
    shorter stage keeps the first blocks. Block 0 has other shapes and fills no other block: after a
    stage with a single block, the rest is left as it is. Wider layers contribute their first
    channels or, inside a bottleneck of a ResNeXt, which keeps its number of groups, the first ones
    of each group. A dilated convolution takes the weights of the plain one. In a stage supernet,
    each branch of n blocks is filled like a stage of n blocks, and blocks that the choices share
    like a stage of all of them. In a dilation supernet, each candidate is filled like the 3x3
    convolution itself.

    .. code-block:: python

        model = CRTrainer.build_model(cfg)
        weights, report = remap_backbone(read_seed_network(path).weights, model)
        model.backbone.bottom_up.load_state_dict(weights)

    Args:
        seed: state dict of a :class:`CRResNet` or :class:`CRMobileNetV2`, see
            :func:`read_seed_network`.
        target: one of these, a :class:`StageSupernet` or a :class:`DilationSupernet`, by itself or
            in a whole detector, which may be a C4 detector with res5 in the RoI heads. It is not
            changed.
        function_preserving: set weight and bias of the last norm to zero in the blocks that a stage
            has in addition to those of the seed network. They are then the identity, so that
            without cuts, dropped blocks and other dilations the target computes the same function
            as the seed network. As a frozen norm could never recover from that, the weights of its
            convolution, its mean and its bias are set to zero instead.
        interpolate_dilated: give a dilated convolution weights with which it responds like the
            plain one wherever its input is bilinear between the sampled places, instead of the
            plain weights. The seed's own convolutions are taken to be plain.

    Returns:
        The state dict of the target's stages, without a classifier's layer and the counters
        ``num_batches_tracked``, in its own memory, and a report on the origin of each tensor.
        Tensors for which the seed network has no counterpart keep their values in ``target``.

    Raises:
        ValueError: the two differ in family, block, number of groups or kind of norm, the target is
            wider, the seed is a supernet, or it lacks a tensor.
    """
    check_one_network("the seed network", seed)
    stages = nn.ModuleDict(
        {name: target.get_submodule(path) for name, path in find_stages(target).items()}
    )
    fresh = stages.state_dict()
    kind = _find_kind("the target", {OF_A_CANDIDATE.sub("", name): fresh[name] for name in fresh})
    seed_kind = _find_kind("the seed network", seed)
    if seed_kind != kind:
        raise ValueError(f"the seed network is a {seed_kind}; the target is a {kind}")
    if function_preserving and not kind.norm:
        raise ValueError("function_preserving: the target has no norms to set to zero")
    fresh, seed = _of_stages(fresh, kind), _of_stages(seed, kind)
    depths = _count_blocks(seed)
    zeroed = _zeroed_tensors(stages, depths, kind) if function_preserving else set()
    dilations = _find_dilations(target, stages, kind)

    weights, origins = {}, {}
    for name, tensor in fresh.items():
        origin = Origin("zeroed") if name in zeroed else _trace(name, depths)
        its_name = origin.source
        if origin.how == "zeroed":
            weights[name] = torch.zeros_like(tensor)
        elif its_name is None:
            weights[name] = tensor.clone()
        elif its_name in seed:
            source = seed[its_name]
            weights[name] = torch.empty_like(tensor)
            cut = _cut(source, tensor.shape, its_name, kind.num_groups)
            if interpolate_dilated and name in dilations:
                cut = _interpolate(cut, dilations[name])
            weights[name].copy_(cut)
            is_cut = source.shape != tensor.shape
            origin = Origin(origin.how, its_name, is_cut, name in dilations)
        # absent if the number of channels stays the same
        elif its_name.startswith("res2.0.shortcut."):
            weights[name], origin = tensor.clone(), Origin("initialised")
        else:
            raise ValueError(f"the seed network has no tensor {its_name}")
        origins[name] = origin
    used = {origin.source for origin in origins.values()}
    return weights, RemapReport(origins, tuple(name for name in seed if name not in used))


def check_one_network(what: str, names: Iterable[str]) -> None:
    """Check that tensors belong to a single network.

    Raises:
        ValueError: some of the names belong to a supernet's candidates.
    """
    if any(OF_A_CANDIDATE.search(name) for name in names):
        raise ValueError(
            f"{what} is a supernet; expected one network, such as inherit_subnet takes out of it"
        )


def find_stages(model: nn.Module) -> dict[str, str]:
    """Find the module names of the stages of a network or supernet in a model.

    Args:
        model: the network itself, or a model that contains it, such as a detector. The res5 in the
            RoI heads of a C4 detector is one of the stages.

    Raises:
        ValueError: the model has no network of this project.
    """
    backbone = find_backbone(model)
    if backbone is None:
        raise ValueError(
            f"the target {type(model).__name__} is no CRResNet, CRMobileNetV2 or supernet, and has "
            "none"
        )
    path = next(path for path, module in model.named_modules() if module is backbone)
    prefix = f"{path}." if path else ""
    stages = {name: prefix + name for name, _ in backbone.named_children()}
    for path, module in model.named_modules():
        if isinstance(module, Res5ROIHeads):
            stages["res5"] = f"{path}.res5"
    return stages


def find_backbone(model: nn.Module) -> Any:
    """Find the network or supernet of this project in a model, which may be the model itself."""
    kinds = (CRResNet, CRMobileNetV2, Supernet)
    return next((module for module in model.modules() if isinstance(module, kinds)), None)


def _find_kind(what: str, tensors: Mapping[str, torch.Tensor]) -> _Kind:
    if "res2.0.conv2.weight" in tensors:
        family, layer = "resnet", "res2.0.conv2"
        block = "bottleneck" if "res2.0.conv3.weight" in tensors else "basic"
        out_channels, channels_per_group = tensors[f"{layer}.weight"].shape[:2]
        num_groups = out_channels // channels_per_group
    elif "c16.0.project.weight" in tensors:
        family, layer = "mobilenetv2", "c16.0.project"
        block, num_groups = "inverted residual", 1
    else:
        raise ValueError(
            f"{what} has no tensor res2.0.conv2.weight (resnet) or c16.0.project.weight "
            f"(mobilenetv2) among its {len(tensors)}: {', '.join([*tensors][:3])}, ..."
        )
    norm = tuple(
        name
        for name in ("weight", "bias", "running_mean", "running_var")
        if f"{layer}.norm.{name}" in tensors
    )
    return _Kind(family, block, num_groups, norm)


def _of_stages(tensors: Mapping[str, torch.Tensor], kind: _Kind) -> StateDict:
    stages = {"stem", *FAMILIES[kind.family].stages}
    return {
        name: tensor
        for name, tensor in without_counters(tensors).items()
        if name.partition(".")[0] in stages
    }


def _count_blocks(seed: Mapping[str, torch.Tensor]) -> Counter[str]:
    depths: Counter[str] = Counter()
    for match in filter(None, map(IN_A_BLOCK.fullmatch, seed)):
        depths[match["stage"]] = max(depths[match["stage"]], int(match["block"]) + 1)
    return depths


def _trace(name: str, depths: Mapping[str, int]) -> Origin:
    """Get the origin of a tensor of the target by the rules, regardless of its shape."""
    name = OF_A_CANDIDATE.sub("", name)
    match = IN_A_BLOCK.fullmatch(name)
    if match is None:
        return Origin("copied", name)
    depth = depths[match["stage"]]
    if int(match["block"]) < depth:
        return Origin("copied", name)
    if depth < 2:
        return Origin("initialised")
    return Origin("repeated", f"{match['stage']}.{depth - 1}.{match['layer']}.{match['rest']}")


def _zeroed_tensors(stages: nn.Module, depths: Mapping[str, int], kind: _Kind) -> set[str]:
    """Get the tensors that turn the additional blocks of a stage into the identity."""
    names: set[str] = set()
    for layer, module in stages.named_modules():
        match = IN_A_BLOCK.fullmatch(f"{OF_A_CANDIDATE.sub('', layer)}.norm")
        if match is None or match["layer"] != LAST_LAYERS[kind.block] or match["rest"] != "norm":
            continue
        if 0 < depths[match["stage"]] <= int(match["block"]) and hasattr(module, "norm"):
            if isinstance(module.norm, FrozenBatchNorm2d) and module.weight.requires_grad:
                zeroed = ["weight", "norm.running_mean", "norm.bias"]
            else:
                zeroed = ["norm.weight", "norm.bias"]
            names.update(f"{layer}.{name}" for name in zeroed)
    return names


def _find_dilations(target: nn.Module, stages: nn.Module, kind: _Kind) -> dict[str, int]:
    """Get the dilations above 1 in the operation code, by the name of the convolution's weight."""
    layer = CHOICE_LAYERS[kind.block]
    backbone = find_backbone(target)
    if isinstance(backbone, Supernet):
        return {
            f"{name}.ops.{operation}.weight": int(operation) + 1
            for name, module in stages.named_modules()
            if isinstance(module, ChoiceBlock) and name.endswith(f".{layer}")
            for operation in module.ops
            if operation != "0"
        }
    return {
        f"{stage}.{block}.{layer}.weight": dilation
        for stage, dilations in zip(FAMILIES[kind.family].stages, backbone.architecture.dilations)
        for block, dilation in enumerate(dilations)
        if dilation > 1
    }


def _interpolate(kernel: torch.Tensor, dilation: int) -> torch.Tensor:
    """Distribute each weight among the sampled places around its own, by bilinear interpolation."""
    near = 1 / dilation
    shares = kernel.new_tensor([[near, 0, 0], [1 - near, 1, 1 - near], [0, 0, near]])
    return shares @ kernel @ shares.T


def _cut(tensor: torch.Tensor, shape: torch.Size, name: str, num_groups: int) -> torch.Tensor:
    """Cut a tensor to its first output and input channels.

    The channels between the 1x1 convolutions of a ResNeXt lie in groups, each of which keeps its
    first ones.
    """
    if (
        tensor.dim() != len(shape)
        or tensor.shape[2:] != shape[2:]
        or any(size < wanted for size, wanted in zip(tensor.shape, shape))
    ):
        raise ValueError(
            f"{name} has shape {tuple(tensor.shape)} in the seed network, {tuple(shape)} in the "
            "target; weights can be cut to fewer channels, not widened"
        )
    match = IN_A_BLOCK.fullmatch(name)
    layer = match["layer"] if match else ""
    groups = {"conv1": (num_groups, 1), "conv2": (num_groups, 1), "conv3": (1, num_groups)}
    for axis, (size, count) in enumerate(zip(shape, groups.get(layer, (1, 1)))):
        tensor = tensor.unflatten(axis, (count, -1)).narrow(axis + 1, 0, size // count)
        tensor = tensor.flatten(axis, axis + 1)
    return tensor
