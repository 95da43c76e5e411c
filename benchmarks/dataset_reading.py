#!/usr/bin/env python3
"""Time to check a file of COCO train 2017's size: the checks against pycocotools' loading.

dataset_reading.py
dataset_reading.py --images 11800 --annotations 86000 --rounds 5
dataset_reading.py --json-file instances_train2017.json --image-root train2017

Without a file, a synthetic one is used, with as many images, boxes, polygon points and crowds as in
COCO, including two boxes of height 0. The checks are those of DATASETS.COCO_JSON. pycocotools reads
the file and builds its index, as Detectron2 does with each dataset after the checks. A file is
checked once. The findings are cached and read at a later start. Every job is a separate process and
takes turns with the others. Time is the median over the rounds.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from tabulate import tabulate

from crnas_d2.data.coco_json import JsonRules, check_coco_json

HEADER = ["", "seconds", "CPU seconds", "GB", "of pycocotools' CPU seconds"]
POINTS = 24  # mean number in a polygon of COCO
CROWDS = 0.012


def write_made_json(path: str, images: int, annotations: int, seed: int = 0) -> None:
    """Write a file of 80 categories that is valid except for two boxes of height 0."""
    rng = np.random.default_rng(seed)
    sizes = rng.permuted(np.tile([640, 480], (images, 1)), axis=1)
    owners = np.sort(rng.integers(0, images, annotations))
    wh = np.exp(rng.uniform(np.log(8), np.log(sizes[owners])))
    xy = rng.uniform(0, sizes[owners] - wh)
    boxes = np.concatenate([xy, wh], 1).round(2)
    boxes[:: max(1, annotations // 2), 3] = 0
    points = np.clip(rng.geometric(1 / (POINTS - 3), annotations) + 3, 4, 400)
    categories = rng.integers(1, 81, annotations)
    crowds = rng.random(annotations) < CROWDS
    with open(path, "w") as file:
        entries = (
            {"id": i + 1, "file_name": f"{i:012d}.jpg", "width": int(w), "height": int(h)}
            for i, (w, h) in enumerate(sizes)
        )
        file.write('{"images": [' + ",".join(map(json.dumps, entries)) + "],")
        entries = ({"id": i, "name": f"class {i}"} for i in range(1, 81))
        file.write('"categories": [' + ",".join(map(json.dumps, entries)) + '], "annotations": [')
        for i in range(annotations):
            x, y, w, h = boxes[i].tolist()
            if crowds[i]:
                pixels = int(sizes[owners[i]].prod())
                first = rng.integers(0, 50, 60).tolist()
                width, height = sizes[owners[i]].tolist()
                counts = [*first, pixels - sum(first)]
                segmentation: Any = {"size": [height, width], "counts": counts}
            else:
                angles = np.linspace(0, 2 * np.pi, points[i], endpoint=False)
                corners = np.stack(
                    [x + w / 2 * (1 + np.cos(angles)), y + h / 2 * (1 + np.sin(angles))], 1
                )
                segmentation = [corners.round(2).ravel().tolist()]
            entry = {
                "segmentation": segmentation,
                "area": round(0.7 * w * h, 2),
                "iscrowd": int(crowds[i]),
                "image_id": int(owners[i]) + 1,
                "bbox": [x, y, w, h],
                "category_id": int(categories[i]),
                "id": i + 1,
            }
            file.write(("," if i else "") + json.dumps(entry))
        file.write("]}")


def measure(job: Callable[[], Any]) -> tuple[float, float, float]:
    """Measure a job in its own process: seconds, CPU seconds, and peak memory in GB."""
    context = multiprocessing.get_context("fork")
    queue = context.Queue()

    def run() -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        job()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        queue.put((time.perf_counter() - wall, time.process_time() - cpu, peak))
        queue.close()
        queue.join_thread()
        os._exit(0)  # freeing millions of objects is not part of the job

    process = context.Process(target=run)
    process.start()
    process.join()
    return queue.get(timeout=10)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json-file", help="instead of a made one")
    parser.add_argument("--image-root", default=".")
    parser.add_argument("--images", type=int, default=118_287)
    parser.add_argument("--annotations", type=int, default=860_001)
    parser.add_argument("--masks", action="store_true", help="check as with MODEL.MASK_ON")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        path = args.json_file or os.path.join(folder, "made.json")
        if not args.json_file:
            write_made_json(path, args.images, args.annotations)
        print(f"{path}: {os.path.getsize(path) / 2**20:.0f} MB")
        required = ["segmentation"] if args.masks else []

        def check(cache: str) -> None:
            rules = JsonRules(cache_dir=os.path.join(folder, cache))
            checked = check_coco_json(path, args.image_root, required, rules)
            checked.findings.raise_errors()

        rows: dict[str, list[tuple[float, float, float]]] = {}
        for number in range(args.rounds):
            for name, job in {
                "json.load": lambda: json.load(open(path)),
                "pycocotools' COCO": lambda: COCO(path),
                "checks, at the first start": lambda: check(str(number)),
                "checks, at a later start": lambda: check(str(number)),
            }.items():
                rows.setdefault(name, []).append(measure(job))
    medians = {name: [median(column) for column in zip(*times)] for name, times in rows.items()}
    known = medians["pycocotools' COCO"][1]
    table = [[name, *values, values[1] / known] for name, values in medians.items()]
    print(tabulate(table, HEADER, floatfmt=".2f"))


if __name__ == "__main__":
    main()
