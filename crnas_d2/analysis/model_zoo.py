"""The tables of MODEL_ZOO.md, with our measurements next to the numbers printed in the paper."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from tabulate import tabulate

from detectron2.config import CfgNode

from ..architecture import Architecture
from ..config import configs_dir, get_architecture, get_config
from .flops import INPUT_SIZE, MASK_ROIS, PROPOSALS, analyze_detector
from .paper_convention import paper_convention_gflops
from .paper_results import PAPER_RESULTS, PaperResult

# Title of the table for each folder of configs
SECTIONS: Mapping[str, str] = MappingProxyType(
    {
        "COCO-Detection": "Faster R-CNN and RetinaNet on COCO",
        "COCO-InstanceSegmentation": "Mask R-CNN on COCO",
        "COCO-Cascade": "Cascade Mask R-CNN on COCO",
        "PascalVOC-Detection": "Faster R-CNN on PASCAL VOC 07+12",
    }
)

INTRODUCTION = f"""\
# Model zoo

This page lists the networks of the paper as configs, and two of them also in RetinaNet, C4 and DC5
detectors, which are not in the paper. **No trained weights are published here, and no AP below was
measured by this project**: columns headed "paper" repeat what the paper prints. Only the multiply-adds
and the parameters are measured, by `python tools/analyze_model.py --all`, which writes this file.

- *Stage code*: number of blocks of each stage. *Operation code*: one digit for each block, whose 3x3
  convolution has dilation digit + 1; spaces separate the stages.
- *GMACs*: 1e9 multiply-adds for one image of {INPUT_SIZE[0]}x{INPUT_SIZE[1]} with {PROPOSALS} proposals
  (and {MASK_ROIS} RoIs in a mask head; RetinaNet has none), for the backbone and for the whole detector
  without RoIAlign. Norms, biases and element-wise operations are not counted. Detectors pad the image:
  for NAS-FPN to multiples of 128, 896x1152, so its backbones have a higher count than the same ones
  under FPN. In C4, res5 runs on each proposal and is counted as part of the backbone.
- *Parameters*: of the whole detector, in millions.
- *Paper: GFLOPs*: Tables 1, 3 and 7. The paper does not say what it counts.
- *Paper's convention*: our count in a convention that gives each printed number to the last digit,
  assuming that Tables 1 and 7 exchange the baseline and the CR row of ResNet50 and of ResNet101. It
  was fitted to these numbers after the fact and is our reading, not the authors' counter;
  `crnas_d2/analysis/paper_convention.py` describes it.
- *Paper: AP*: on COCO minival, in percent, and AP50 on VOC test2007. Tables 1 to 4 and 7 to 9.
"""

HEADERS = (
    "name",
    "stage code",
    "operation code",
    "backbone GMACs",
    "detector GMACs",
    "parameters (M)",
    "paper: GFLOPs",
    "paper's convention",
    "paper: AP",
    "configs",
)


def format_model_zoo() -> str:
    """Format MODEL_ZOO.md, with a Markdown table for each folder of shipped configs.

    Configs that differ only in their schedule share a row.
    """
    sections = [INTRODUCTION]
    for folder, title in SECTIONS.items():
        path = os.path.join(configs_dir(), folder)
        if not os.path.isdir(path):
            continue
        names = (
            f"{folder}/{file}"
            for file in os.listdir(path)
            if file.endswith(".yaml") and not file.startswith("Base-")
        )
        rows = [_row(networks) for networks in _networks(names)]
        table = tabulate(rows, HEADERS, tablefmt="pipe", disable_numparse=True)
        sections.append(f"## {title}\n\n{table}\n")
    return "\n".join(sections)


def _networks(names: Iterable[str]) -> list[dict[str, CfgNode]]:
    """Group configs by their network, in the order of the paper's tables."""
    networks: dict[tuple[str, str], dict[str, CfgNode]] = {}
    for name in sorted(names, key=_order):
        cfg = get_config(name)
        networks.setdefault((_split(name)[0], cfg.MODEL.dump()), {})[name] = cfg
    return list(networks.values())


def _split(name: str) -> tuple[str, str]:
    """Split a name into network and schedule, such as ("faster_rcnn_CR_R_50_FPN", "1x")."""
    network, _, schedule = os.path.basename(name).removesuffix(".yaml").rpartition("_")
    return network, schedule


def _order(name: str) -> tuple:
    network, schedule = _split(name)
    kind = next((kind for kind in ("_SCR_", "_CR_") if kind in network), "_")
    baseline = network.replace(kind, "_", 1)
    numbers_apart = re.split(r"(\d+)", baseline)
    numbers_apart[1::2] = map(int, numbers_apart[1::2])
    return numbers_apart, ("_", "_SCR_", "_CR_").index(kind), schedule


def _row(configs: dict[str, CfgNode]) -> list[str]:
    name, cfg = next(iter(configs.items()))
    architecture = get_architecture(cfg)
    cost = analyze_detector(cfg)
    printed = {n: PAPER_RESULTS[n] for n in configs if n in PAPER_RESULTS}
    gflops = sorted({result.gflops for result in printed.values() if result.gflops is not None})
    return [
        _split(name)[0],
        ", ".join(map(str, architecture.stage_code)),
        _operation_digits(architecture),
        f"{cost.backbone_macs / 1e9:.2f}",
        f"{cost.macs / 1e9:.2f}",
        f"{cost.parameters / 1e6:.2f}",
        ", ".join(f"{number:.1f}" for number in gflops),
        f"{paper_convention_gflops(cfg):.1f}" if gflops else "",
        ", ".join(f"{_ap(result)} ({_split(n)[1]})" for n, result in printed.items()),
        ", ".join(f"[{_split(n)[1]}](configs/{n})" for n in configs),
    ]


def _operation_digits(architecture: Architecture) -> str:
    if not any(architecture.operation_code):
        return "all 0"
    return " ".join("".join(map(str, stage)) for stage in architecture.operations)


def _ap(result: PaperResult) -> str:
    if result.box_ap is None:
        return f"AP50 {result.box_ap50:.1f}"
    if result.mask_ap is None:
        return f"{result.box_ap:.1f}"
    return f"box {result.box_ap:.1f}, mask {result.mask_ap:.1f}"
