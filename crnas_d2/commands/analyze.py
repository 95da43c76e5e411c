"""Multiply-adds and parameters of a detector, module by module, with a fixed number of RoIs.

crnas analyze --config-file COCO-Detection/faster_rcnn_CR_R_50_FPN_1x.yaml
crnas analyze --config-file ... --input-size 600 1000 --proposals 300 MODEL.MASK_ON True
crnas analyze --all    # writes the tables of MODEL_ZOO.md
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from tabulate import tabulate

from detectron2.config import CfgNode

from ..analysis import (
    PAPER_RESULTS,
    DetectorCost,
    analyze_detector,
    format_model_zoo,
    paper_convention_gflops,
)
from ..analysis.flops import INPUT_SIZE, MASK_ROIS, PROPOSALS
from ..config import read_config
from ..config_files import config_name, find_config_file
from ..files import write_atomically
from .command_line import command, command_parser

MODEL_ZOO = "MODEL_ZOO.md"


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = command_parser(__doc__)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--config-file", metavar="FILE", help="config of the detector")
    which.add_argument("--all", action="store_true", help="write MODEL_ZOO.md of all configs")
    parser.add_argument(
        "--output",
        metavar="FILE",
        default=MODEL_ZOO,
        help="what --all writes (default: %(default)s)",
    )
    parser.add_argument(
        "--input-size",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        default=INPUT_SIZE,
        help="of the image, before padding (default: %(default)s)",
    )
    parser.add_argument(
        "--proposals", type=int, default=PROPOSALS, help="RoIs of the box head (default: 1000)"
    )
    parser.add_argument(
        "--mask-rois",
        type=int,
        default=MASK_ROIS,
        help="RoIs of the mask head and of the keypoint head (default: 100)",
    )
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="config keys and values")
    args = parser.parse_args(argv)

    sizes = (tuple(args.input_size), args.proposals, args.mask_rois)
    as_in_paper = sizes == (INPUT_SIZE, PROPOSALS, MASK_ROIS) and not args.opts
    if args.all:
        if not as_in_paper:
            parser.error("--all takes no sizes and no config keys")
        write_atomically(args.output, format_model_zoo().encode())
        print(f"wrote {args.output}")
        return

    cfg = read_config(args.config_file, args.opts)
    cost = analyze_detector(cfg, *sizes)
    print(format_cost(cost))
    print("\n" + describe_input(cfg, cost, *sizes))
    if as_in_paper:
        print(compare_with_paper(args.config_file, cfg))


def describe_input(
    cfg: CfgNode, cost: DetectorCost, input_size: tuple[int, int], proposals: int, mask_rois: int
) -> str:
    """Describe the input that the numbers are for."""
    height, width = input_size
    words, parts = [f"Image {height}x{width}"], {module.part for module in cost.modules}
    if "RoI heads" in parts:
        heads = [kind for kind in ("mask", "keypoint") if cost.has(f"{kind} head")]
        words.append(f"{proposals} proposals")
        words += [f"{mask_rois} {' and '.join(heads)} RoIs"] if heads else []
        words.append(f"{cfg.MODEL.ROI_HEADS.NUM_CLASSES} classes")
    if "dense head" in parts:
        words.append(f"{cfg.MODEL.RETINANET.NUM_CLASSES} classes")
    if "semantic segmentation" in parts:
        words.append(f"{cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES} classes of pixels")
    return ", ".join(words) + ("; RoIAlign not counted." if "RoI heads" in parts else ".")


def format_cost(cost: DetectorCost) -> str:
    rows = [
        [
            module.part,
            module.name,
            f"{module.macs / 1e9:.3f}",
            f"{module.macs / cost.macs:.1%}",
            "" if module.rois is None else f"{module.macs / module.rois / 1e6:.3f}",
            f"{module.parameters / 1e6:.3f}",
        ]
        for module in cost.modules
    ]
    backbone = cost.backbone_macs
    name = "res5 included" if cost.has("res5") else ""
    rows.append(["backbone", name, f"{backbone / 1e9:.3f}", f"{backbone / cost.macs:.1%}", "", ""])
    rows.append(
        ["detector", "", f"{cost.macs / 1e9:.3f}", "100.0%", "", f"{cost.parameters / 1e6:.3f}"]
    )
    headers = ["part", "module", "GMACs", "share", "MMACs per RoI", "parameters (M)"]
    align = ["left", "left", *["right"] * 4]
    return tabulate(rows, headers, tablefmt="pipe", colalign=align, disable_numparse=True)


def compare_with_paper(config_file: str, cfg: CfgNode) -> str:
    result = PAPER_RESULTS.get(config_name(find_config_file(config_file)))
    if result is None:
        return "The paper has no numbers for this config."
    if result.gflops is None:
        ap = f"AP50 {result.box_ap50}" if result.box_ap is None else f"AP {result.box_ap}"
        return f"Paper (Table {result.table}): box {ap}, FLOPs not printed."
    return (
        f"Paper (Table {result.table}): {result.gflops:.1f} GFLOPs. Counted in what we read as the "
        f"paper's convention: {paper_convention_gflops(cfg):.1f} (see MODEL_ZOO.md)."
    )
