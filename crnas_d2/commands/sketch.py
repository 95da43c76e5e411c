"""One figure of architectures: blocks of each stage, their dilations, and their multiply-adds.

crnas sketch ResNet50 SCR-ResNet50 CR-ResNet50 --output sketch.svg
crnas sketch Digits/faster_rcnn_R_18_FPN.yaml output/search/final.yaml \\
    --labels baseline found --output sketch.png
"""

from __future__ import annotations

from collections.abc import Sequence

from .. import ARCHITECTURES
from ..analysis.sketch import SketchedNetwork
from ..analysis.sketch_figure import draw_sketches
from ..analysis.style import figure_format, write_figure
from ..config import read_config
from ..config_files import find_config_file
from .command_line import command, command_parser


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = command_parser(__doc__)
    parser.add_argument(
        "networks",
        nargs="+",
        metavar="NETWORK",
        help="published name, such as CR-ResNet50, or config file of a detector",
    )
    parser.add_argument("--labels", nargs="+", metavar="TEXT", help="instead of the names")
    parser.add_argument("--output", required=True, metavar="FILE", help=".svg, .png or .pdf")
    args = parser.parse_args(argv)
    labels = args.labels or args.networks
    if len(labels) != len(args.networks):
        parser.error(f"{len(labels)} --labels for {len(args.networks)} networks; expected as many")
    try:
        figure_format(args.output)
    except ValueError as error:
        parser.error(f"--output: {error}")

    sketched = [sketch(network, label) for network, label in zip(args.networks, labels)]
    write_figure(draw_sketches(sketched), args.output)
    print(f"wrote {args.output}: {', '.join(labels)}")


def sketch(network: str, label: str) -> SketchedNetwork:
    if network in ARCHITECTURES:
        return SketchedNetwork.published(network, label)
    try:
        file = find_config_file(network)
    except FileNotFoundError:
        raise ValueError(
            f"{network!r} is neither a config file nor a published name; expected one of "
            f"{', '.join(ARCHITECTURES)}"
        ) from None
    return SketchedNetwork.from_config(label, read_config(file))
