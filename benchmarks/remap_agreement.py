#!/usr/bin/env python3
"""How much of a network's function a remapped one keeps before any training.

remap_agreement.py --mobilenetv2 mobilenet_v2-b0353104.pth --networks R18 R50
remap_agreement.py --networks R18 R50

Compares the features of remapped networks with those of the network that the weights come from, for
each way to fill repeated, dropped and dilated blocks: cosine similarity / relative error of res2 to
res5. If the weights include ImageNet's classifier, it also counts on how many crops both have the
same top-1 class, and computes the mean divergence KL(seed || remapped) of their predictions. The
images are scikit-learn's two photographs. Crops of their right halves are compared. Adaptation uses
crops of their left halves, without labels. ResNets have half of their width and random weights,
with the statistics of the left crops.
"""

from __future__ import annotations

import argparse
import itertools
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from fvcore.nn.precise_bn import update_bn_stats
from sklearn.datasets import load_sample_image
from tabulate import tabulate
from torch import nn

from crnas_d2 import ARCHITECTURES, CRMobileNetV2, CRResNet
from crnas_d2.checkpoint import (
    match_features,
    match_statistics,
    read_seed_network,
    remap_backbone,
)
from crnas_d2.checkpoint.weights_file import read_weights_file

FEATURES = ["res2", "res3", "res4", "res5"]
BATCH = 25
STEPS, STEP_BATCH = 100, 8  # for matching the features
MEAN = torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1)
STD = torch.tensor([58.395, 57.12, 57.375]).view(3, 1, 1)
HALF_WIDTH = {
    "R18": {"block": "basic", "stem_out_channels": 32, "res2_out_channels": 32},
    "R50": {"stem_out_channels": 32, "res2_out_channels": 128, "width_per_group": 32},
}
FULL_NAMES = {"MNV2": "MobileNetV2", "R18": "ResNet18", "R50": "ResNet50"}
DEFAULTS = {
    "repeated": "identity",
    "kept": "first",
    "dilated": "copied",
    "statistics": "as they were",
    "features": "as they are",
}
IN_A_BLOCK = re.compile(r"(\w+)\.(\d+)\.(.+)")


def make_crops(side: int, count: int, seed: int) -> torch.Tensor:
    """Crop squares of 96 to 320 pixels from a photograph's left (0) or right (1) half, at size 224."""
    random = np.random.default_rng(seed)
    photographs = [load_sample_image(name) for name in ("china.jpg", "flower.jpg")]
    crops = []
    for i in range(count):
        half = photographs[i % 2][:, 320 * side : 320 * (side + 1)]
        size = int(random.integers(96, 321))
        y, x = (int(random.integers(0, length - size + 1)) for length in half.shape[:2])
        crop = half[y : y + size, x : x + size]
        if random.random() < 0.5:
            crop = crop[:, ::-1]
        crop = torch.from_numpy(crop.copy()).permute(2, 0, 1).float()
        crop = F.interpolate(crop[None], (224, 224), mode="bilinear", antialias=True)[0]
        crops.append((crop - MEAN) / STD)
    return torch.stack(crops)


def build(kind: str, prefix: str = "", norm: str = "BN") -> nn.Module:
    """Build the network with fresh weights. The prefix is "", "SCR-" or "CR-"."""
    architecture = ARCHITECTURES[prefix + FULL_NAMES[kind]]
    network = CRMobileNetV2 if kind == "MNV2" else CRResNet
    codes = architecture.stage_code, architecture.operation_code
    torch.manual_seed(0)
    return network(*codes, out_features=FEATURES, norm=norm, **HALF_WIDTH.get(kind, {})).eval()


def recalibrate(network: nn.Module, crops: torch.Tensor) -> None:
    batches = crops.split(BATCH)
    network.train()
    update_bn_stats(network, batches, len(batches))
    network.eval()


# Ways to fill a network ---------------------------------------------------------------------------


def keep_blocks(which: str, seed_depth: int, depth: int) -> list[int]:
    """Get the seed's blocks that a shorter stage takes. Only the first one has its shapes."""
    if which == "last" and depth < seed_depth:
        return [0, *range(seed_depth - depth + 1, seed_depth)]
    if which == "spread" and depth < seed_depth:
        return [round(i) for i in np.linspace(0, seed_depth - 1, depth)]
    if which == "first, very last" and 1 < depth < seed_depth:
        return [*range(depth - 1), seed_depth - 1]
    return list(range(min(depth, seed_depth)))


def count_blocks(tensors: Mapping[str, torch.Tensor]) -> dict[str, int]:
    depths: dict[str, int] = {}
    for stage, block, _ in (m.groups() for m in map(IN_A_BLOCK.fullmatch, tensors) if m):
        depths[stage] = max(depths.get(stage, 0), int(block) + 1)
    return depths


def rename_kept(
    seed: nn.Module, target: nn.Module, which: str
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Get the tensors of the kept blocks, renumbered from 0, and their old names."""
    tensors = seed.state_dict()
    depths, wanted = count_blocks(tensors), count_blocks(target.state_dict())
    kept = {s: keep_blocks(which, depths[s], wanted[s]) for s in depths if s in wanted}
    names = {}
    for name in tensors:
        match = IN_A_BLOCK.fullmatch(name)
        if match is None or match[1] not in kept:
            names[name] = name
        elif int(match[2]) in kept[match[1]]:
            names[f"{match[1]}.{kept[match[1]].index(int(match[2]))}.{match[3]}"] = name
    return {new: tensors[old] for new, old in names.items()}, names


def dilated_convolutions(network: nn.Module) -> Iterator[nn.Conv2d]:
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.dilation[0] > 1:
            yield module


def only_centre(conv: nn.Conv2d) -> torch.Tensor:
    """Keep the only weight that the plain and the dilated kernel have in common; others are zero."""
    return F.pad(conv.weight[:, :, 1:2, 1:2], (1, 1, 1, 1))


def all_in_centre(conv: nn.Conv2d) -> torch.Tensor:
    """Put the sum of the kernel at its center."""
    return F.pad(conv.weight.sum((2, 3), keepdim=True), (1, 1, 1, 1))


KERNELS: dict[str, Callable[[nn.Conv2d], torch.Tensor]] = {
    "copied": lambda conv: conv.weight,
    "interpolated": lambda conv: conv.weight,  # done by remap_backbone
    "centre": only_centre,
    "sum in centre": all_in_centre,
}


def fill(
    seed: nn.Module,
    target: nn.Module,
    left: torch.Tensor,
    repeated: str = "identity",
    kept: str = "first",
    dilated: str = "copied",
    statistics: str = "as they were",
    features: str = "as they are",
) -> nn.Module:
    """Fill the target with the weights of the seed network, by the rules with these names."""
    tensors, names = rename_kept(seed, target, kept)
    weights, report = remap_backbone(
        tensors, target, repeated == "identity", dilated == "interpolated"
    )
    target.load_state_dict(weights, strict=False)  # without num_batches_tracked
    for conv in dilated_convolutions(target):
        conv.weight.data = KERNELS[dilated](conv).detach()
    if statistics == "of the crops":
        recalibrate(target, left)
    elif statistics == "matched":
        origins = {
            name: replace(origin, source=names.get(origin.source))
            for name, origin in report.origins.items()
        }
        match_statistics(target, seed, replace(report, origins=origins), left[:BATCH])
    if features == "learnt":
        match_features(target, seed, itertools.cycle(left.split(STEP_BATCH)), STEPS)
    return target


# Comparison ---------------------------------------------------------------------------------------


class Comparison:
    """Compares features of networks with those of the seed network, on the right crops."""

    def __init__(self, seed: nn.Module, crops: torch.Tensor, classifier: list[torch.Tensor]):
        self._batches = crops.split(BATCH)
        self._classifier = classifier
        with torch.no_grad():
            self._expected = [seed(batch) for batch in self._batches]
        self.classes = len(
            torch.cat([self._classify(e) for e in self._expected]).argmax(1).unique()
        )

    def _classify(self, features: Mapping[str, torch.Tensor]) -> torch.Tensor:
        pooled = features["res5"].mean((2, 3))
        return F.linear(pooled, *self._classifier) if self._classifier else pooled

    @torch.no_grad()
    def row(self, network: nn.Module) -> list[str]:
        sums = {name: torch.zeros(3) for name in FEATURES}  # cosines, squared errors, squares
        same = divergence = count = 0
        for batch, expected in zip(self._batches, self._expected):
            features = network(batch)
            count += len(batch)
            for name in FEATURES:
                a, b = expected[name].flatten(1), features[name].flatten(1)
                cosines = F.cosine_similarity(a, b).sum()
                sums[name] += torch.stack([cosines, (a - b).square().sum(), a.square().sum()])
            p, q = self._classify(expected), self._classify(features)
            same += int((p.argmax(1) == q.argmax(1)).sum())
            p, q = p.log_softmax(1), q.log_softmax(1)
            divergence += float(F.kl_div(q, p, log_target=True, reduction="sum"))
        cells = [f"{c / count:.3f} / {(e / s).sqrt():.2f}" for c, e, s in sums.values()]
        if self._classifier:
            cells += [f"{100 * same / count:.1f} %", f"{divergence / count:.2f}"]
        return cells


def cases() -> Iterator[tuple[str, dict[str, str]]]:
    """Iterate over prefixes of the target's name, with the rules that are not the defaults."""
    yield "SCR-", {"repeated": "copy"}
    yield "SCR-", {}
    for kept in ("last", "spread", "first, very last"):
        yield "SCR-", {"kept": kept}
    for statistics in ("of the crops", "matched"):
        yield "SCR-", {"statistics": statistics}
    yield "SCR-", {"statistics": "matched", "repeated": "copy"}
    for kept in ("last", "first, very last"):
        yield "SCR-", {"statistics": "matched", "kept": kept}
    for repeated in ("copy", "identity"):
        yield "SCR-", {"statistics": "matched", "repeated": repeated, "features": "learnt"}
    yield "CR-", {"repeated": "copy"}
    for dilated in KERNELS:
        yield "CR-", {"dilated": dilated}
    yield "CR-", {"statistics": "of the crops"}
    for dilated in ("copied", "interpolated"):
        yield "CR-", {"statistics": "matched", "dilated": dilated}
    yield "CR-", {"statistics": "matched", "repeated": "copy", "features": "learnt"}
    for dilated in ("copied", "interpolated"):
        yield "CR-", {"statistics": "matched", "dilated": dilated, "features": "learnt"}


def measure(kind: str, weights: str | None, num_crops: int) -> None:
    left, right = make_crops(0, num_crops, seed=0), make_crops(1, num_crops, seed=1)
    seed, classifier = build(kind), []
    if weights is None:
        recalibrate(seed, left)
    else:
        seed.load_state_dict(read_seed_network(weights).weights, strict=False)
        given = read_weights_file(weights).tensors
        classifier = [given[f"classifier.1.{name}"] for name in ("weight", "bias")]
    comparison = Comparison(seed, right, classifier)
    rows, met = [], set()
    for prefix, rules in cases():
        # Trained with fixed statistics, as in the comparison
        target = build(kind, prefix, "FrozenBN" if "features" in rules else "BN")
        signature = (prefix, str({**rules, "kept": str(kept_blocks(kind, prefix, rules))}))
        if signature in met:
            continue
        met.add(signature)
        start = time.process_time()
        fill(seed, target, left, **rules)
        seconds = time.process_time() - start
        shown = [rules.get(name, default) for name, default in DEFAULTS.items()]
        rows.append([prefix + kind, *shown, *comparison.row(target), f"{seconds:.0f}"])
    if weights is not None:
        recalibrate(seed, left)
        row = comparison.row(seed)
        rows.append([kind, "", "", "", "of the crops", "", *row, ""])
        print(f"{comparison.classes} different classes are top-1 of the {len(right)} crops\n")
    header = ["network", *DEFAULTS, *FEATURES, *(["top-1", "KL"] if classifier else []), "CPU s"]
    print(tabulate(rows, header, "pipe", disable_numparse=True), "\n", flush=True)


def kept_blocks(kind: str, prefix: str, rules: Mapping[str, str]) -> list[list[int]]:
    seed, target = (ARCHITECTURES[p + FULL_NAMES[kind]].stage_code for p in ("", prefix))
    return [keep_blocks(rules.get("kept", "first"), s, t) for s, t in zip(seed, target)]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", choices=HALF_WIDTH, default=[], help="random ones")
    parser.add_argument("--mobilenetv2", metavar="FILE", help="weights of torchvision's network")
    parser.add_argument("--crops", type=int, default=200, help="of each side")
    args = parser.parse_args(argv)
    if args.mobilenetv2:
        measure("MNV2", args.mobilenetv2, args.crops)
    for kind in args.networks:
        measure(kind, None, args.crops)


if __name__ == "__main__":
    main()
