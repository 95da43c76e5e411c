"""Two detectors on one data set: pycocotools' numbers, and what chance they leave."""

import json
import re

import numpy as np
import pytest
from pycocotools import mask as mask_util
from pycocotools.cocoeval import COCOeval
from tiny_coco import write_tiny_coco

from crnas_d2.commands import compare


def masks_of(box, size=64):
    x, y, w, h = map(round, box)
    mask = np.zeros((size, size), np.uint8, order="F")
    mask[y : y + h, x : x + w] = 1
    encoded = mask_util.encode(mask)
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def detect(truth, seed, noise, masks=False):
    """Each object at a place of its own, some missed."""
    rng = np.random.default_rng(seed)
    results = []
    for annotation in truth["annotations"]:
        if rng.random() < 0.1:
            continue
        x, y, w, h = annotation["bbox"]
        x, y = (max(0.0, v + noise * rng.normal()) for v in (x, y))
        result = {
            "image_id": annotation["image_id"],
            "category_id": annotation["category_id"],
            "bbox": [x, y, w, h],
            "score": round(float(rng.uniform(0.1, 1)), 6),
        }
        if masks:
            result["segmentation"] = masks_of(result["bbox"])
        results.append(result)
    return results


@pytest.fixture
def truth(tmp_path):
    path = write_tiny_coco(tmp_path / "data", images=30)
    data = json.loads(path.read_text())
    for annotation in data["annotations"]:
        annotation["segmentation"] = masks_of(annotation["bbox"])
    path.write_text(json.dumps(data))
    return data


@pytest.fixture
def run(tmp_path, truth, capsys):
    def run(a, b):
        for name, results in (("a.json", a), ("b.json", b)):
            (tmp_path / name).write_text(json.dumps(results))
        files = [str(tmp_path / name) for name in ("a.json", "b.json")]
        compare.main([*files, "--ground-truth", str(tmp_path / "data" / "annotations.json")])
        return capsys.readouterr().out

    return run


def table(printed):
    cells = [re.split(r" *\| *", line.strip("| ")) for line in printed.splitlines() if "|" in line]
    return {tuple(row[:2]): [float("nan" if x == "-" else x) for x in row[2:]] for row in cells[2:]}


def intervals(printed):
    number = r"([+-]\d+\.\d\d)"
    pattern = rf"AP of (\w+), B - A: {number}; from {number} to {number} in 95 %"
    return {of: [float(x) for x in values] for of, *values in re.findall(pattern, printed)}


@pytest.mark.parametrize("masks", [False, True])
def test_metrics_are_those_of_pycocotools(run, truth, masks):
    a, b = detect(truth, 0, 4, masks), detect(truth, 1, 2, masks)
    printed = run(a, b)
    found = table(printed)
    coco = compare.index_quietly(truth)
    for task, things in [("bbox", "boxes"), ("segm", "masks")][: 1 + masks]:
        columns = []
        for results in (a, b):
            kept = [{k: v for k, v in r.items() if k != "segmentation"} for r in results]
            if task == "segm":
                kept = [{k: v for k, v in r.items() if k != "bbox"} for r in results]
            evaluation = COCOeval(coco, coco.loadRes(kept), task)
            for step in (evaluation.evaluate, evaluation.accumulate, evaluation.summarize):
                step()
            columns.append(100 * evaluation.stats[:3])
        for name, x, y in zip(("AP", "AP50", "AP75"), *columns):
            assert found[things, name] == pytest.approx([x, y, y - x], abs=0.006)
    assert ("masks", "AP") not in found or masks
    assert "30 images of " in printed and "the chance of the images alone" in printed


def test_the_interval_holds_the_difference_and_turns_with_it(run, truth):
    a, b = detect(truth, 0, 4), detect(truth, 1, 2)
    difference, low, high = intervals(run(a, b))["boxes"]
    assert low < difference < high and difference > 0
    other, other_low, other_high = intervals(run(b, a))["boxes"]
    assert (other, other_low, other_high) == (-difference, -high, -low)
    same = intervals(run(a, a))["boxes"]
    assert same == [0, 0, 0]


def test_the_interval_is_that_of_resampled_images(truth):
    """Against resamples of pycocotools: copies of images, drawn with the same weights."""
    parts = [detect(truth, 0, 4), detect(truth, 1, 2)]
    weights = compare.poisson_weights(30, 40, seed=0).astype(int)
    differences = []
    for counts in weights.T:
        aps = []
        for part in parts:
            drawn = {"images": [], "annotations": [], "categories": truth["categories"]}
            results = []
            for image, count in zip(truth["images"], counts):
                for _ in range(count):
                    new = len(drawn["images"]) + 1
                    drawn["images"].append({**image, "id": new})
                    for annotation in truth["annotations"]:
                        if annotation["image_id"] == image["id"]:
                            ids = {"image_id": new, "id": len(drawn["annotations"]) + 1}
                            drawn["annotations"].append({**annotation, **ids})
                    of_image = (r for r in part if r["image_id"] == image["id"])
                    results += [{**r, "image_id": new} for r in of_image]
            aps.append(compare.evaluate(compare.index_quietly(drawn), results, "bbox")[0])
        differences.append(aps[1] - aps[0])
    expected = np.percentile(differences, compare.INTERVAL)
    coco = compare.index_quietly(truth)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare, "RESAMPLES", 40)
        found = compare.interval_of_difference(coco, parts, "bbox")
    np.testing.assert_allclose(found, expected, atol=1e-9)


CONFIG = """
DATASETS:
  COCO_JSON: [["{name}", "{root}/annotations.json", "{root}/images"]]
  TRAIN: []
  TEST: ["{name}"]
"""


def test_folders_of_trainings(tmp_path, truth, capsys, refused, catalogs):
    for index, name in enumerate(("a", "b")):
        (tmp_path / name / "inference").mkdir(parents=True)
        config = CONFIG.format(name="compared", root=tmp_path / "data")
        (tmp_path / name / "config.yaml").write_text(config)
        (tmp_path / name / compare.RESULTS).write_text(json.dumps(detect(truth, index, 3)))
    compare.main([str(tmp_path / "a"), str(tmp_path / "b")])
    assert "boxes" in intervals(capsys.readouterr().out)
    write_tiny_coco(tmp_path / "other")
    (tmp_path / "b" / "config.yaml").write_text(
        CONFIG.format(name="another", root=tmp_path / "other")
    )
    with refused("tested on .*data.* and on .*other.*; expected one"):
        compare.main([str(tmp_path / "a"), str(tmp_path / "b")])


@pytest.mark.parametrize(
    "change, message",
    [
        ({"image_id": 99}, "b.json: image_id 99 is not in the ground truth"),
        ({"category_id": 4}, "b.json: category_id 4 is not in the ground truth"),
        (None, "b.json: expected a list of detections that each have"),
    ],
)
def test_results_of_something_else(run, truth, refused, change, message):
    results = detect(truth, 0, 1)
    other = [{**results[0], **change}] if change else []
    with refused(message):
        run(results, other)


def test_missing_files(tmp_path, refused):
    with refused("absent"):
        compare.main([str(tmp_path / "absent"), str(tmp_path / "absent")])
