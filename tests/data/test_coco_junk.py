"""Whatever stands in a file, its checks tell it; they raise nothing, and what they take is JSON."""

import copy
import json
import math
import random

import pytest

from crnas_d2.data.coco_check import CocoCheck
from crnas_d2.data.findings import Findings

JUNK = (
    *(None, True, 0, -1, 1.0, 0.5, "", "7", "a", "\0", math.nan, math.inf, 10**400, -(2**70)),
    *([], [1], [[]], [[1, 2]], [None] * 4, ["1"] * 4, [[None] * 6], [[1, 2, 3, 4, 5, {}]], {}),
    *({"size": [30, 40], "counts": [1200]}, {"size": "x", "counts": "~"}, {"counts": None}),
)


def made():
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 40, "height": 30} for i in (1, 2)],
        "categories": [{"id": i, "name": f"class {i}"} for i in (1, 2, 3)],
        "annotations": [
            {
                **{"id": i, "image_id": 1 + i % 2, "category_id": 1 + i % 2, "iscrowd": 0},
                **{"bbox": [1, 2, 3, 4], "area": 12, "segmentation": [[1, 2, 4, 2, 4, 6]]},
            }
            for i in range(1, 5)
        ],
    }


def spoil(coco, rng):
    section = rng.choice(list(coco))
    junk = copy.deepcopy(rng.choice(JUNK))
    chance = rng.random()
    if chance < 0.03:
        coco[section] = junk
    elif isinstance(coco[section], list) and coco[section]:
        index = rng.randrange(len(coco[section]))
        entry = coco[section][index]
        if chance < 0.06 or not isinstance(entry, dict):
            coco[section][index] = junk
        else:
            entry[rng.choice([*entry, "ignore", "keypoints"])] = junk


@pytest.mark.parametrize("seed", range(4))
def test_junk_is_told(seed):
    rng = random.Random(seed)
    taken = 0
    for _ in range(1000):
        coco, findings = made(), Findings("made.json")
        for _ in range(rng.randint(1, 4)):
            spoil(coco, rng)
        left_out = rng.choice([(), (1,), (3,), ("class 2",)])
        masked, scored = rng.random() < 0.5, rng.random() < 0.5
        CocoCheck(coco, findings, masked, scored, left_out).run()
        if not findings.errors:
            taken += 1
            assert json.loads(json.dumps(coco))["categories"]
        findings.describe_warnings()
    assert 50 < taken < 950
