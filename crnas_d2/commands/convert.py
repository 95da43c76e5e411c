"""Convert ImageNet weights into those of a backbone, as safetensors that MODEL.WEIGHTS takes.

crnas convert https://download.pytorch.org/models/resnet50-11ad3fa6.pth R-50.safetensors
crnas convert detectron2://ImageNetPretrained/MSRA/R-101.pkl R-101-msra.safetensors
crnas convert model.safetensors mobilenetv2.safetensors

Reads ResNets, ResNeXts and MobileNetV2 of torchvision and timm (.pth, .safetensors), and the
pickles of Detectron2's model zoo, of which nothing is run. Network and origin are told by the names
and shapes of the tensors; all of the backbone's must be there, and no others but a classifier's.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import yaml

from ..checkpoint.convert_file import convert_file
from ..checkpoint.description import CONVENTIONS
from .command_line import command, command_parser


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    parser.add_argument("input", help="file or URL; see above")
    parser.add_argument("output", help="local file *.safetensors")
    add_origin(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace the output")
    return parser.parse_args(argv)


def add_origin(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what the file itself does not."""
    parser.add_argument(
        "--source",
        choices=CONVENTIONS,
        help="whose weights they are, where the file leaves that open: a ResNet's with the names of "
        "torchvision are taken for torchvision's, Caffe2's for FAIR's (a ResNeXt) or MSRA's (any "
        "other), a detector of Detectron2's model zoo likewise; any other detector has to say it",
    )
    parser.add_argument(
        "--prefix",
        default="",
        help="take only the tensors whose names begin so, without it; or the state dict in the entry "
        "of this name",
    )
    for name, what in (("mean", "mean"), ("std", "standard deviation")):
        parser.add_argument(
            f"--pixel-{name}",
            type=float,
            nargs=3,
            metavar=("C1", "C2", "C3"),
            help=f"{what} of the pixels in 0..255, in the order of the channels, where it is another "
            "than the source's usual one",
        )


@command
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    weights, description = convert_file(
        args.input,
        args.output,
        source=args.source,
        prefix=args.prefix,
        pixel_mean=args.pixel_mean,
        pixel_std=args.pixel_std,
        overwrite=args.overwrite,
    )

    size = sum(tensor.numel() for tensor in weights.values())
    print(f"network: {description}")
    print(f"tensors: {len(weights)} with {size:,} elements, written to {args.output}")
    print(f"dropped: {', '.join(description.dropped) or 'nothing'}")
    print("config that the weights need:\n")
    config = description.config()
    config["MODEL"] = {"WEIGHTS": args.output, **config["MODEL"]}
    print(yaml.safe_dump(config, sort_keys=False, default_flow_style=None), end="")
