#!/usr/bin/env python3
"""Replays the halving of a stage search on recorded detections many times, and measures its cost.

halving_replay.py --table FOLDER --json archval.json
halving_replay.py --made 100 --images 300 --shuffles 50

A table has the detections of every architecture in all images: for each a file named after its
code, such as 1-1-2-4.json, with the result of Detections.to_json(), and image_ids.json, a list of
the images. The json is their ground truth in COCO format. --made generates a table instead.

The true winner is the best architecture on all images. Each replay shuffles the images. For each
factor and number of images in the first rung, the means over the replays are reported: how often
the winner is the true one, by how much AP it is worse otherwise, how many architectures see all
images, and the factor by which image passes are reduced.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from pycocotools.coco import COCO
from tabulate import tabulate

from crnas_d2.architecture import Code, format_code, parse_code
from crnas_d2.evaluation.bootstrap import ResampledImages
from crnas_d2.evaluation.detections import Detections, id_array
from crnas_d2.evaluation.resampled_ap import contiguous_ids
from crnas_d2.files import read_json
from crnas_d2.search.halving import keep_best, rungs

HEADER = ["factor", "images", "true winner", "AP loss", "worst loss", "left", "times fewer passes"]
Table = dict[Code, Detections]


def load_coco(dataset: dict) -> COCO:
    coco = COCO()
    coco.dataset = dataset
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def load_table(folder: Path) -> tuple[Table, list[int]]:
    """Load the detections by code, and the ids of all images."""
    files = sorted(folder.glob("[0-9]*.json"))
    if not files:
        raise FileNotFoundError(f"{folder} has no files named after codes, such as 1-1-2-4.json")
    table = {parse_code(file.stem): Detections.from_json(read_json(str(file))) for file in files}
    return table, read_json(str(folder / "image_ids.json"))


def make_table(
    codes: int, images: int, categories: int, spread: float, seed: int
) -> tuple[Table, list[int], COCO]:
    """Generate a table in which architectures differ little, and mostly fail on the same objects.

    Each object has a difficulty that all architectures share. The strength of an architecture on it
    is the architecture's quality minus the difficulty, plus some individual noise. It determines
    how likely the object is found, with which score and how accurately. False detections are shared
    too, with varying scores.

    Args:
        spread: standard deviation of the quality. That of the difficulty is 1.
    """
    rng = np.random.default_rng(seed)
    image = np.repeat(np.arange(1, images + 1), rng.poisson(4, images))
    category = rng.integers(0, categories, len(image))
    box = np.hstack([rng.uniform(0, 400, (len(image), 2)), rng.uniform(20, 120, (len(image), 2))])
    difficulty = rng.normal(0, 1, len(image))
    off = rng.normal(0, 1, box.shape) * [0.2, 0.2, 1, 1]
    false_image = np.repeat(np.arange(1, images + 1), 15)
    false_category = rng.integers(0, categories, len(false_image))
    false_box = np.hstack(
        [rng.uniform(0, 400, (len(false_image), 2)), rng.uniform(20, 120, (len(false_image), 2))]
    )
    false_strength = rng.normal(-2.5, 1, len(false_image))

    def sigmoid(x: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-x))

    table = {}
    for code in itertools.islice(itertools.product(range(1, 11), repeat=4), codes):
        strength = rng.normal(0, spread) - difficulty + rng.normal(0, 0.5, len(image))
        found = rng.random(len(image)) < sigmoid(strength + 1.5)
        own_off = 0.8 * off + 0.6 * rng.normal(0, 1, box.shape) * [0.2, 0.2, 1, 1]
        exact = 0.12 * np.exp(-0.3 * strength)[:, None]
        moved = box + own_off * exact * np.tile(box[:, 2:], 2)
        false_score = sigmoid(false_strength + rng.normal(0, 0.5, len(false_image)))
        shown = false_score > 0.05
        table[code] = Detections(
            np.concatenate([image[found], false_image[shown]]),
            np.concatenate([category[found], false_category[shown]]),
            np.concatenate([moved[found], false_box[shown]]),
            np.concatenate([sigmoid(strength[found]), false_score[shown]]),
            np.empty((0, 3), object),
        )
    image_ids = list(range(1, images + 1))
    annotations = [
        {"id": n, "image_id": int(i), "category_id": int(c), "bbox": b, "area": b[2] * b[3]}
        | {"iscrowd": 0}
        for n, (i, c, b) in enumerate(zip(image, category, box.tolist()), 1)
    ]
    coco = load_coco(
        {
            "images": [{"id": i} for i in image_ids],
            "annotations": annotations,
            "categories": [{"id": c, "name": str(c)} for c in range(categories)],
        }
    )
    return table, image_ids, coco


def score_parts(
    table: Table,
    parts: Sequence[Sequence[int]],
    image_ids: Sequence[int],
    coco: COCO,
    iou_type: str,
) -> dict[Code, np.ndarray]:
    """Compute the AP of each architecture on each part, given by indices into ``image_ids``."""
    weights = np.zeros((len(image_ids), len(parts)))
    for number, part in enumerate(parts):
        weights[part, number] = 1
    in_order = weights[np.argsort(id_array(image_ids))]
    images = ResampledImages(coco, contiguous_ids(coco), in_order, iou_type)
    return {code: images.ap(detections) for code, detections in table.items()}


def replay(
    sizes: Sequence[int], scores: Sequence[Mapping[Code, float]], factor: int
) -> tuple[bool, float, int, float]:
    """Replay one halving.

    Args:
        sizes: number of images in each rung.
        scores: scores in each rung, those of the last one on all images.

    Returns:
        Whether the winner is the true one, its AP loss, the number of architectures that see all
        images, and the share of image passes that were needed.
    """
    left, passes = list(scores[-1]), 0
    for size, of_rung in zip(sizes[:-1], scores):
        passes += size * len(left)
        left = keep_best(left, [of_rung[code] for code in left], factor)
    passes += sizes[-1] * len(left)
    loss = max(scores[-1].values()) - max(scores[-1][code] for code in left)
    return loss == 0, loss, len(left), passes / (sizes[-1] * len(scores[-1]))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--table", type=Path, metavar="FOLDER", help="recorded detections")
    source.add_argument("--made", type=int, metavar="N", help="make up N architectures")
    parser.add_argument("--json", metavar="FILE", help="ground truth of the table")
    parser.add_argument("--iou-type", choices=["bbox", "segm"], default="bbox")
    parser.add_argument("--images", type=int, default=300, help="of a made table")
    parser.add_argument("--categories", type=int, default=10, help="of a made table")
    parser.add_argument("--spread", type=float, default=0.05, help="of a made table's qualities")
    parser.add_argument("--factors", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--first", type=int, nargs="+", default=[40, 80, 160], help="MIN_IMAGES")
    parser.add_argument("--shuffles", type=int, default=50, help="replays for each row")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    if args.table and not args.json:
        parser.error("--table needs --json, the ground truth")

    if args.made:
        table, image_ids, coco = make_table(
            args.made, args.images, args.categories, args.spread, args.seed
        )
    else:
        table, image_ids = load_table(args.table)
        coco = load_coco(read_json(args.json))
    orders = [
        np.random.default_rng(shuffle).permutation(len(image_ids))
        for shuffle in range(args.seed, args.seed + args.shuffles)
    ]
    settings = [
        (factor, [len(rung) for rung in rungs(len(image_ids), first, factor)])
        for factor, first in itertools.product(args.factors, args.first)
    ]
    sizes = sorted({size for _, of_setting in settings for size in of_setting})
    parts = [order[:size] for order in orders for size in sizes]
    columns = score_parts(table, parts, image_ids, coco, args.iou_type)
    scores = [
        {code: float(aps[number]) for code, aps in columns.items()} for number in range(len(parts))
    ]
    whole = scores[-1]
    ranked = sorted(whole, key=lambda code: (-whole[code], code))
    aps = np.array([whole[code] for code in ranked])
    print(
        f"{len(table)} architectures, {len(image_ids)} images, "
        f"{np.mean([len(d) for d in table.values()]) / len(image_ids):.1f} detections each\n"
        f"AP {aps[-1]:.2f} to {aps[0]:.2f}, standard deviation {aps.std():.2f}; "
        "the best: " + ", ".join(f"{format_code(code)} ({whole[code]:.3f})" for code in ranked[:5])
    )
    rows = []
    for factor, of_setting in settings:
        found = []
        for start in range(0, len(parts), len(sizes)):
            own = [scores[start + sizes.index(size)] for size in of_setting]
            found.append(replay(of_setting, own[:-1] + [whole], factor))
        won, loss, left, share = np.mean(found, axis=0)
        worst = max(loss for _, loss, _, _ in found)
        rows.append([factor, of_setting[0], won, loss, worst, left, 1 / share])
    formats = ("", "", ".2f", ".4f", ".2f", ".0f", ".2f")
    print(tabulate(rows, HEADER, tablefmt="github", floatfmt=formats))


if __name__ == "__main__":
    main()
