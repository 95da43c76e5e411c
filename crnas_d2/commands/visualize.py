"""One figure of a detector's results: test images with ground truth beside detections.

crnas visualize --config-file output/search/final.yaml --output results.png
crnas visualize --config-file Digits/faster_rcnn_CR_R_18_FPN.yaml \\
    --input output/inference/coco_instances_results.json --output results.png
crnas visualize ... --conf-threshold 0.3 --max-images 12 DATASETS.TEST "('own_val',)"
"""

from __future__ import annotations

import argparse
import io
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from ..config import read_config
from ..data import setup_datasets
from ..data.class_names import tell_apart
from ..engine.coco_evaluator import RESULTS_FILE
from ..files import read_json, write_atomically
from ..paths import check_not_read
from ..report.compared_images import detections_by_image, draw_truth_and
from ..report.fonts import find_families, unheeded_glyphs
from .command_line import add_conf_threshold, command, command_parser

# In pixels
PANEL = 400
GAP = 6
MARGIN = 30
HEADER = 84
CAPTION = 24
DPI = 100
PAIRS_PER_ROW = 2


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = command_parser(__doc__)
    parser.add_argument("--config-file", required=True, metavar="FILE", help="of the detector")
    parser.add_argument(
        "--input",
        metavar="JSON",
        help="coco_instances_results.json, of the first dataset of DATASETS.TEST (default: of the "
        "test of the training that has left MODEL.WEIGHTS)",
    )
    parser.add_argument("--output", required=True, metavar="PNG", help="figure to write")
    add_conf_threshold(parser, "to show")
    parser.add_argument(
        "--max-images",
        type=int,
        default=6,
        help="images to show, evenly spaced in the dataset (default: 6)",
    )
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="config keys and values")
    args = parser.parse_args(argv)
    if not args.output.lower().endswith(".png"):
        parser.error(f"--output is {args.output!r}; expected a name that ends in .png")
    if args.max_images < 1:
        parser.error(f"--max-images is {args.max_images}; expected 1 or more")

    cfg = read_config(args.config_file, args.opts)
    if not cfg.DATASETS.TEST:
        raise ValueError(f"{args.config_file}: DATASETS.TEST is empty; expected a dataset to show")
    dataset = cfg.DATASETS.TEST[0]
    path = args.input or results_beside(cfg)
    results = read_json(path)
    setup_datasets(cfg)
    images = DatasetCatalog.get(dataset)
    check_not_read(args.output, (image["file_name"] for image in images))
    metadata = MetadataCatalog.get(dataset)
    class_names = tell_apart(metadata.thing_classes)
    detections = detections_by_image(results, images, metadata, path)

    chosen = np.linspace(0, len(images) - 1, min(args.max_images, len(images))).round().astype(int)
    pairs = []
    for image in (images[i] for i in chosen):
        found = detections[image["image_id"]]
        shown = [detection for detection in found if detection["score"] >= args.conf_threshold]
        pairs.append((os.path.basename(image["file_name"]), *draw_pair(image, shown, class_names)))
    figure = compose(
        pairs, f"{dataset}: detections with a score of {args.conf_threshold:g} or more"
    )
    os.makedirs(os.path.dirname(os.path.abspath(args.output)), exist_ok=True)
    write_atomically(args.output, figure)
    print(f"wrote {args.output}: {len(pairs)} of {len(images)} images of {dataset}")


def results_beside(cfg: CfgNode) -> str:
    """Get the file of the detections from the last test of a training.

    Args:
        cfg: config of the detector, whose weights are those of the training.

    Raises:
        ValueError: it has no weights.
    """
    if not cfg.MODEL.WEIGHTS:
        raise ValueError("MODEL.WEIGHTS is empty; expected trained weights, or a file for --input")
    return os.path.join(os.path.dirname(cfg.MODEL.WEIGHTS), "inference", RESULTS_FILE)


def draw_pair(
    image: Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]],
    class_names: Sequence[str],
) -> tuple[np.ndarray, np.ndarray]:
    """Draw ground truth and detections of an image as uint8 of shape (h, w, 3).

    The longer side is ``PANEL``. Masks are drawn if the detections have them.
    """
    truth, detected = draw_truth_and([detections], image, class_names, PANEL)
    return truth, detected


def compose(pairs: Sequence[tuple[str, np.ndarray, np.ndarray]], title: str) -> bytes:
    """Compose the PNG of a grid of pairs, each with its caption below."""
    columns = min(PAIRS_PER_ROW, len(pairs))
    pair_width = 2 * PANEL + GAP
    heights = [
        max(left.shape[0] for _, left, _ in pairs[i : i + columns]) + CAPTION
        for i in range(0, len(pairs), columns)
    ]
    width = columns * (pair_width + MARGIN) + MARGIN
    height = HEADER + sum(heights)
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
    families = find_families((title, *(caption for caption, *_ in pairs)))

    def text(x: float, y: float, content: str, size: float, **options: Any) -> None:
        figure.text(
            x / width,
            1 - y / height,
            content,
            size=size,
            va="center",
            family=families,
            parse_math=False,
            **options,
        )

    text(MARGIN, 26, title, 15)
    for column in range(columns):
        for side, heading in enumerate(("ground truth", "detections")):
            x = MARGIN + column * (pair_width + MARGIN) + side * (PANEL + GAP)
            text(x + PANEL / 2, HEADER - 18, heading, 13, ha="center", weight="bold")
    for i, (caption, *panels) in enumerate(pairs):
        row, column = divmod(i, columns)
        top = HEADER + sum(heights[:row])
        for side, panel in enumerate(panels):
            x = MARGIN + column * (pair_width + MARGIN) + side * (PANEL + GAP)
            figure.figimage(panel, x, height - top - panel.shape[0])
        text(
            MARGIN + column * (pair_width + MARGIN),
            top + panels[0].shape[0] + CAPTION / 2,
            caption,
            9,
            color="dimgray",
        )
    buffer = io.BytesIO()
    with unheeded_glyphs():
        figure.savefig(buffer, format="png")
    return buffer.getvalue()
