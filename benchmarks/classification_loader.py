#!/usr/bin/env python3
"""Images per CPU second of the training loader of a classifier, against torchvision's.

classification_loader.py
classification_loader.py --images 512 --rounds 5

The images are JPEG files of ImageNet's usual size, 500 x 375 pixels, with noise on a smooth ground.
All loaders read them in batches in this process. "unseeded" is this project's mapper without the
seeding of each image. torchvision's is its reference for training: a random crop and a flip of a
PIL image, made a tensor. The loaders take turns. The numbers are medians over the rounds.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import time
from collections.abc import Iterable
from itertools import islice
from statistics import median

import numpy as np
import torch
from PIL import Image
from tabulate import tabulate
from torch.utils.data import DataLoader, default_collate
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from crnas_d2.data.classification import ClassificationMapper
from crnas_d2.engine.loader import build_train_loader

from detectron2.data import DatasetFromList
from detectron2.data.samplers import TrainingSampler


class Unseeded(torch.utils.data.Dataset):
    """Mapped samples whose randomness is that of the process."""

    def __init__(self, dataset: DatasetFromList, mapper: ClassificationMapper):
        self._dataset, self._mapper = dataset, mapper

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> dict:
        return self._mapper(self._dataset[index])


def write_images(folder: str, count: int) -> list[dict]:
    """Write images of one class, and list them in the format of the project."""
    rng = np.random.default_rng(0)
    os.makedirs(f"{folder}/class")
    dataset = []
    for index in range(count):
        ground = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)).resize((500, 375))
        noise = rng.normal(0, 12, (375, 500, 3))
        pixels = np.clip(np.asarray(ground) + noise, 0, 255).astype(np.uint8)
        path = f"{folder}/class/{index}.jpg"
        Image.fromarray(pixels).save(path, quality=90)
        dataset.append({"file_name": path, "label": 0})
    return dataset


def loaders(folder: str, dataset: list[dict], batch: int) -> dict[str, Iterable]:
    mapper = ClassificationMapper(is_train=True)
    reference = v2.Compose([v2.RandomResizedCrop(224), v2.RandomHorizontalFlip(), v2.PILToTensor()])
    return {
        "this project": build_train_loader(
            dataset,
            mapper,
            TrainingSampler(len(dataset), seed=0),
            total_batch_size=batch,
            seed=0,
            collate_fn=default_collate,
        ),
        "unseeded": DataLoader(Unseeded(DatasetFromList(dataset), mapper), batch, shuffle=True),
        "torchvision": DataLoader(ImageFolder(folder, reference), batch, shuffle=True),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=256, help="of each round")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    random.seed(0)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        dataset = write_images(folder, args.images)
        rates: dict[str, list[float]] = {}
        for _ in range(args.rounds):
            for name, loader in loaders(folder, dataset, args.batch).items():
                start = time.process_time()
                for _ in islice(loader, args.images // args.batch):
                    pass
                rates.setdefault(name, []).append(args.images / (time.process_time() - start))
    own = rates["unseeded"]
    rows = [
        [name, median(of_name), median(a / b for a, b in zip(of_name, own))]
        for name, of_name in rates.items()
    ]
    print(tabulate(rows, ["loader", "images / CPU s", "of unseeded"], "github", floatfmt=".3g"))


if __name__ == "__main__":
    main()
