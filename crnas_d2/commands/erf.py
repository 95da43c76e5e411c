"""Effective receptive fields of detectors side by side, with the anchor boxes over them (figure 1).

crnas erf --config-file COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml \\
    COCO-Detection/faster_rcnn_SCR_R_50_FPN_1x.yaml --output erf.png
crnas erf --config-file baseline/config.yaml final/config.yaml --labels ResNet18 found \\
    --weights baseline/model_final.pth final/model_final.pth --dataset own_val --size 192 \\
    --features c3 c4 c5 p3 p4 p5 --output erf.svg

Prints for each network and feature the standard deviation of its receptive field (sigma, in pixels)
and the share of the image above 1 % of the maximum, and draws one row of panels for each network.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from tabulate import tabulate

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog

from ..analysis.erf import (
    ERF,
    dataset_images,
    effective_receptive_fields,
    noise_images,
    random_network,
    trained_network,
)
from ..analysis.erf_figure import anchor_sizes, draw_erfs
from ..analysis.style import figure_format, write_figure
from ..config import read_config
from ..data import setup_datasets
from ..modeling.builder_names import supernet_kind
from ..paths import check_not_read
from .command_line import command, command_parser

RANDOM = "random"


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = command_parser(__doc__)
    parser.add_argument(
        "--config-file", required=True, nargs="+", metavar="FILE", help="of each network"
    )
    parser.add_argument(
        "--output", required=True, metavar="FILE", help="figure to write: .svg, .png or .pdf"
    )
    parser.add_argument(
        "--weights",
        nargs="+",
        metavar="FILE",
        help=f'of each network: a file, or "{RANDOM}", the default; MODEL.WEIGHTS is not used',
    )
    parser.add_argument(
        "--labels", nargs="+", help="of each network (default: the names of the config files)"
    )
    parser.add_argument(
        "--features",
        nargs="+",
        default=["p3", "p4", "p5"],
        metavar="NAME",
        help="such as c2 to c5 below the FPN, p2 to p6 of the FPN (default: p3 p4 p5)",
    )
    parser.add_argument(
        "--size", type=int, default=512, help="height and width of the images (default: 512)"
    )
    parser.add_argument(
        "--dataset", metavar="NAME", help="take the images from it (default: normal noise)"
    )
    parser.add_argument(
        "--num-images",
        type=int,
        default=8,
        help="to average over; evenly spaced in the dataset (default: 8)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of random weights and of noise (default: 0)"
    )
    args = parser.parse_args(argv)
    count = len(args.config_file)
    weights = args.weights or [RANDOM] * count
    labels = args.labels or [
        os.path.splitext(os.path.basename(path))[0] for path in args.config_file
    ]
    for option, values in (("--weights", weights), ("--labels", labels)):
        if len(values) != count:
            parser.error(
                f"{option} has {len(values)} values; expected {count}: one for each config"
            )
    if len({*labels}) < count:
        parser.error(f"--labels is {' '.join(labels)}; expected labels that differ")
    for option in ("size", "num_images"):
        if getattr(args, option) < 1:
            parser.error(
                f"--{option.replace('_', '-')} is {getattr(args, option)}; expected 1 or more"
            )
    figure_format(args.output)
    cfgs = [read_network(path) for path in args.config_file]

    networks, anchors = {}, {}
    for label, cfg, path in zip(labels, cfgs, weights):
        if args.dataset:
            register(args.dataset, cfg)
            check_not_read(
                args.output, (image["file_name"] for image in DatasetCatalog.get(args.dataset))
            )
            images = dataset_images(cfg, args.dataset, args.num_images, args.size)
        else:
            images = noise_images(args.num_images, args.size, args.seed)
        model = build(cfg, path, images, args.seed)
        networks[label] = effective_receptive_fields(model, args.features, images)
        anchors[label] = anchor_sizes(cfg, model.backbone.output_shape())
    print(format_erfs(networks))
    write_figure(draw_erfs(networks, anchors), args.output)
    source = f"images of {args.dataset}" if args.dataset else f"noise images of seed {args.seed}"
    print(f"\nwrote {args.output}: {len(images)} {source}, {args.size}x{args.size} pixels")


def read_network(path: str) -> CfgNode:
    """Read the config of a single network.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it describes a supernet.
    """
    cfg = read_config(path)
    if supernet_kind(cfg.MODEL.BACKBONE.NAME):
        raise ValueError(
            f"{path}: MODEL.BACKBONE.NAME is {cfg.MODEL.BACKBONE.NAME!r}; expected one network. "
            "The config of a network in it can have the supernet's checkpoint as --weights"
        )
    if not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    return cfg


def register(dataset: str, cfg: CfgNode) -> None:
    cfg = cfg.clone()
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (), (dataset,)
    setup_datasets(cfg)


def build(cfg: CfgNode, weights: str, images: torch.Tensor, seed: int) -> Any:
    if weights == RANDOM:
        return random_network(cfg, images, seed)
    return trained_network(cfg, weights)


def format_erfs(networks: Mapping[str, Mapping[str, ERF]]) -> str:
    rows = [
        [label, erf.feature, erf.stride, f"{erf.sigma:.1f}", f"{erf.share:.1%}"]
        for label, erfs in networks.items()
        for erf in erfs.values()
    ]
    headers = ["network", "feature", "stride", "sigma (px)", "above 1 %"]
    align = ["left", "left", "right", "right", "right"]
    return tabulate(rows, headers, tablefmt="pipe", colalign=align, disable_numparse=True)
