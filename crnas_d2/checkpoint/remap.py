"""A trained network's weights in one of another depth, width or dilation (Fang et al., 2020)."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from tabulate import tabulate
from torch import nn

from ..architecture import FAMILIES
from ..modeling import CRMobileNetV2, CRResNet
from ..modeling.supernet import Supernet

StateDict = dict[str, torch.Tensor]

HOWS = ("copied", "repeated", "zeroed", "initialised")
IN_A_BLOCK = re.compile(r"(?P<stage>\w+)\.(?P<block>\d+)\.(?P<layer>\w+)\.(?P<rest>.+)")
OF_A_CANDIDATE = re.compile(r"\.ops\.\d+(?=\.)")
LAST_LAYERS = {"basic": "conv2", "bottleneck": "conv3", "inverted residual": "project"}


@dataclass(frozen=True)
class Origin:
    """Where a tensor of the target comes from.

    Attributes:
        how: "copied" from the block of the same number, "repeated" from the stage's last block,
            "zeroed" to preserve the function, or "initialised", which is left as it was.
        source: its name in the seed network; None if it has none.
        is_cut: whether it has fewer channels than there.
    """

    how: str
    source: str | None = None
    is_cut: bool = False


@dataclass(frozen=True)
class RemapReport:
    """What :func:`remap_backbone` did. Its text is a table.

    Attributes:
        origins: of every tensor of the target, by name.
        unused: tensors of the seed network that are nowhere in the target.
    """

    origins: Mapping[str, Origin]
    unused: tuple[str, ...]

    def rows(self) -> list[dict[str, Any]]:
        """A summary for each stage, and in a stage supernet for each branch.

        Each has "part" (the name of the module), "seed_blocks" (for each block the one that it was
        filled from, or None), the number of tensors for each way in :class:`Origin`, and "cut" (how
        many of them are cut).
        """
        rows: dict[str, dict[str, Any]] = {}
        for name, origin in self.origins.items():
            part = re.match(r"\w+(\.ops\.\d+(?=\.\d))?", name)[0]
            row = rows.setdefault(
                part, {"part": part, "seed_blocks": [], **dict.fromkeys((*HOWS, "cut"), 0)}
            )
            row[origin.how] += 1
            row["cut"] += origin.is_cut
            block = re.match(r"\.(\d+)\.", name.removeprefix(part))
            if block is not None:
                blocks = row["seed_blocks"]
                blocks.extend([None] * (int(block[1]) + 1 - len(blocks)))
                if origin.source is not None:
                    blocks[int(block[1])] = int(IN_A_BLOCK.fullmatch(origin.source)["block"])
        return list(rows.values())

    def __str__(self) -> str:
        rows = [
            [row["part"], _format_blocks(row["seed_blocks"]), *(row[h] for h in HOWS), row["cut"]]
            for row in self.rows()
        ]
        headers = ["part", "seed blocks", *HOWS, "of these cut"]
        align = ["left", "left", *["right"] * (len(headers) - 2)]
        table = tabulate(rows, headers, tablefmt="pipe", colalign=align, disable_numparse=True)
        return f"{table}\n\nnot used of the seed network: {self._format_unused()}"

    def metadata(self) -> dict[str, str]:
        """For the header of a file: the rows and the unused tensors, as JSON."""
        return {"remap": json.dumps({"parts": self.rows(), "unused": self.unused})}

    def _format_unused(self) -> str:
        used = {_place(origin.source) for origin in self.origins.values() if origin.source}
        unused = [
            _place(name) if _place(name) not in used else name.rpartition(".")[0]
            for name in self.unused
        ]
        return ", ".join(dict.fromkeys(unused)) or "nothing"


@dataclass(frozen=True)
class _Kind:
    """What a seed network and its target must have in common."""

    family: str
    block: str
    num_groups: int
    norm: tuple[str, ...]

    def __str__(self) -> str:
        groups = f" in {self.num_groups} groups" if self.num_groups > 1 else ""
        norm = ", ".join(self.norm) or "nothing"
        return f"{self.family} of {self.block} blocks{groups}, whose norms have {norm}"


def remap_backbone(
    seed: Mapping[str, torch.Tensor], target: nn.Module, function_preserving: bool = False
) -> tuple[StateDict, RemapReport]:
    """Fill a network or a supernet with the weights of a trained one of the same family.

    The rules are those of Fast Neural Network Adaptation (Fang et al., 2020). In each stage, block
    i takes all tensors of block min(i, l - 1) of the seed network, which has l blocks there, so
    that a shorter stage keeps the first blocks. Block 0, of other shapes, fills no other: behind a
    stage of one block the rest is left as it is. Of wider layers the first channels are taken;
    inside a bottleneck of a ResNeXt, which keeps its number of groups, the first ones of each
    group. A dilated convolution takes the weights of the plain one. In a stage supernet each branch
    of n blocks is filled as a stage of n blocks, in a dilation supernet each candidate as the 3x3
    convolution itself.

    .. code-block:: python

        model = CRTrainer.build_model(cfg)
        weights, report = remap_backbone(read_seed_network(path).weights, model)
        model.backbone.bottom_up.load_state_dict(weights)

    Args:
        seed: state dict of a :class:`CRResNet` or :class:`CRMobileNetV2`, see
            :func:`read_seed_network`.
        target: one of these, a :class:`StageSupernet` or a :class:`DilationSupernet`, alone or in a
            whole detector. It stays as it is.
        function_preserving: set weight and bias of the last norm to zero in the blocks that a stage
            has more than in the seed network. They are then the identity, so that without cuts,
            dropped blocks and other dilations the target computes what the seed network does.

    Returns:
        The state dict of the target backbone, without a classifier's layer and the counters
        ``num_batches_tracked``, in memory of its own; and what each tensor comes from. Tensors that
        the seed network has nothing for have the values that they have in ``target``.

    Raises:
        ValueError: the two are of another family, block, number of groups or kind of norm, the
            target is wider, the seed is a supernet, or a tensor is missing in it.
    """
    check_one_network("the seed network", seed)
    fresh = _find_backbone(target).state_dict()
    kind = _find_kind("the target", {OF_A_CANDIDATE.sub("", name): fresh[name] for name in fresh})
    seed_kind = _find_kind("the seed network", seed)
    if seed_kind != kind:
        raise ValueError(f"the seed network is a {seed_kind}; the target is a {kind}")
    if function_preserving and not kind.norm:
        raise ValueError("function_preserving: the target has no norms to set to zero")
    fresh, seed = _of_stages(fresh, kind), _of_stages(seed, kind)
    depths = _count_blocks(seed)

    weights, origins = {}, {}
    for name, tensor in fresh.items():
        origin = _trace(name, depths, kind, function_preserving)
        if origin.how == "zeroed":
            weights[name] = torch.zeros_like(tensor)
        elif origin.how == "initialised":
            weights[name] = tensor.clone()
        elif origin.source in seed:
            source = seed[origin.source]
            weights[name] = torch.empty_like(tensor)
            weights[name].copy_(_cut(source, tensor.shape, origin.source, kind.num_groups))
            origin = Origin(origin.how, origin.source, source.shape != tensor.shape)
        elif origin.source.startswith("res2.0.shortcut."):  # where its channels stay the same
            weights[name], origin = tensor.clone(), Origin("initialised")
        else:
            raise ValueError(f"the seed network has no tensor {origin.source}")
        origins[name] = origin
    used = {origin.source for origin in origins.values()}
    return weights, RemapReport(origins, tuple(name for name in seed if name not in used))


def check_one_network(what: str, names: Iterable[str]) -> None:
    """
    Raises:
        ValueError: among the names of tensors are those of a supernet's candidates.
    """
    if any(OF_A_CANDIDATE.search(name) for name in names):
        raise ValueError(
            f"{what} is a supernet; expected one network, such as inherit_subnet takes out of it"
        )


def _find_backbone(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, (CRResNet, CRMobileNetV2, Supernet)):
            return module
    raise ValueError(
        f"the target {type(model).__name__} is no CRResNet, CRMobileNetV2 or supernet, and has none"
    )


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
        for name, tensor in tensors.items()
        if name.partition(".")[0] in stages and not name.endswith("num_batches_tracked")
    }


def _count_blocks(seed: Mapping[str, torch.Tensor]) -> Counter[str]:
    depths: Counter[str] = Counter()
    for match in filter(None, map(IN_A_BLOCK.fullmatch, seed)):
        depths[match["stage"]] = max(depths[match["stage"]], int(match["block"]) + 1)
    return depths


def _trace(name: str, depths: Counter[str], kind: _Kind, function_preserving: bool) -> Origin:
    """What the rules say of a tensor of the target, whatever its shape."""
    name = OF_A_CANDIDATE.sub("", name)
    match = IN_A_BLOCK.fullmatch(name)
    if match is None:
        return Origin("copied", name)
    depth = depths[match["stage"]]
    if int(match["block"]) < depth:
        return Origin("copied", name)
    is_last_norm = match["layer"] == LAST_LAYERS[kind.block] and match["rest"] in (
        "norm.weight",
        "norm.bias",
    )
    if function_preserving and depth and is_last_norm:
        return Origin("zeroed")
    if depth < 2:
        return Origin("initialised")
    return Origin("repeated", f"{match['stage']}.{depth - 1}.{match['layer']}.{match['rest']}")


def _cut(tensor: torch.Tensor, shape: torch.Size, name: str, num_groups: int) -> torch.Tensor:
    """The first output and input channels. Those between the 1x1 convolutions of a ResNeXt lie in
    groups, each of which keeps its first ones."""
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
    layer = match["layer"] if match else None
    groups = {"conv1": (num_groups, 1), "conv2": (num_groups, 1), "conv3": (1, num_groups)}
    for axis, (size, count) in enumerate(zip(shape, groups.get(layer, (1, 1)))):
        tensor = tensor.unflatten(axis, (count, -1)).narrow(axis + 1, 0, size // count)
        tensor = tensor.flatten(axis, axis + 1)
    return tensor


def _place(name: str) -> str:
    return ".".join(name.split(".")[:2])


def _format_blocks(sources: list[int | None]) -> str:
    """Such as "0-2, 2 x 4", for block 2 that fills the four behind it too."""
    copied = [block for block, source in enumerate(sources) if source == block]
    repeated = [source for block, source in enumerate(sources) if source not in (None, block)]
    runs = [str(copied[0]) if len(copied) == 1 else f"0-{copied[-1]}"] if copied else []
    if repeated:
        runs.append(f"{repeated[0]} x {len(repeated)}")
    if None in sources:
        runs.append(f"none x {sources.count(None)}")
    return ", ".join(runs)
