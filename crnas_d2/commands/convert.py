"""Convert the weights of a network into a safetensors file with the settings that it needs.

crnas convert https://download.pytorch.org/models/resnet50-11ad3fa6.pth R-50.safetensors
crnas convert detectron2://ImageNetPretrained/MSRA/R-101.pkl R-101-msra.safetensors
crnas convert model_best.pth.tar mobilenetv2.safetensors --prefix state_dict_ema

Reads what MODEL.WEIGHTS takes: ResNets, ResNeXts and MobileNetV2 of torchvision and timm, backbones
and whole detectors of Detectron2 and its model zoo, and checkpoints of this project; as torch.save,
safetensors or pickle has them, whatever their name, and running nothing that is in them. Network and
origin are told by the names and shapes of the tensors; all of the backbone's must be there. Of a
classifier of another project the backbone is kept, of a detector its neck and heads too.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import yaml

from ..checkpoint.description import CONVENTIONS
from ..checkpoint.parts import name_part
from ..checkpoint.save import check_output, save_network
from ..checkpoint.seed_network import read_seed_network
from .command_line import command, command_parser


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    parser.add_argument("input", help="file or URL; see above")
    parser.add_argument("output", help="local file *.safetensors")
    add_origin(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace the output")
    return parser.parse_args(argv)


def add_origin(parser: argparse.ArgumentParser) -> None:
    """Add the options for facts that the file itself does not record."""
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
    check_output(args.output, args.overwrite, [args.input])
    seed = read_seed_network(args.input, args.source, args.prefix, args.pixel_mean, args.pixel_std)
    description = seed.describe()
    tensors = save_network(args.output, seed)

    size = sum(tensor.numel() for tensor in tensors.values())
    print(f"network: {description}")
    if seed.rest:
        print(f"beside it: {', '.join(dict.fromkeys(map(name_part, seed.rest)))}")
    if seed.class_names:
        print(f"classes: {', '.join(seed.class_names)}")
    print(f"tensors: {len(tensors)} with {size:,} elements, written to {args.output}")
    print(f"dropped: {', '.join(description.dropped) or 'nothing'}")
    print("config that the weights need:\n")
    config = description.config()
    config["MODEL"] = {"WEIGHTS": args.output, **config["MODEL"]}
    print(yaml.safe_dump(config, sort_keys=False, default_flow_style=None), end="")
