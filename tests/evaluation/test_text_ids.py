"""Ids of images and categories that are texts give the digits that whole numbers give."""

import copy

import numpy as np
import pytest
from pycocotools.coco import COCO
from test_bootstrap import CONTIGUOUS_IDS, IDS, make_scene
from test_scorer import (
    assert_same,
    draw_scene,
    plain_metrics,
    register,  # noqa: F401
    to_detections,
)

from crnas_d2.evaluation import scorer as scorer_module
from crnas_d2.evaluation.bootstrap import ResampledImages
from crnas_d2.evaluation.detections import Detections
from crnas_d2.evaluation.scorer import Scorer

pytestmark = pytest.mark.usefixtures("catalogs")


def as_text(image_id):
    return f"scan {image_id:05d} ü"


def with_texts(coco, keys):
    """Ids in the order of the numbers."""
    coco = copy.deepcopy(coco)
    for section, key in keys.items():
        for entry in coco[section]:
            entry["id"] = as_text(entry["id"])
        for annotation in coco["annotations"]:
            annotation[key] = as_text(annotation[key])
    return coco


IMAGES = {"images": "image_id"}
BOTH = IMAGES | {"categories": "category_id"}


@pytest.mark.parametrize("fast", [True, False], ids=["hotcoco", "pycocotools"])
@pytest.mark.parametrize("keys", [IMAGES, BOTH], ids=["images", "both"])
@pytest.mark.parametrize("with_masks", [False, True])
def test_scores(register, keys, fast, with_masks):  # noqa: F811
    if fast and scorer_module.hotcoco is None:
        pytest.skip("hotcoco is not installed")
    coco, found = draw_scene(5, with_masks=with_masks)
    register(with_texts(coco, keys))
    scorer = Scorer("cells", fast=fast)
    assert scorer.implementation == ("hotcoco" if fast else "pycocotools")
    texts = {as_text(image_id): instances for image_id, instances in found.items()}
    detections = to_detections(texts)
    assert_same(scorer(detections), plain_metrics(texts))
    some = list(texts)[:3]
    part = {image_id: texts[image_id] for image_id in some}
    assert_same(scorer(to_detections(part), some), plain_metrics(part, some))
    with pytest.raises(ValueError, match="1 images are not in 'cells'; such as other"):
        scorer(detections, ["other"])


def test_resamples():
    coco, _, results = make_scene(3)
    weights = np.random.default_rng(0).integers(0, 3, (len(IDS), 4))
    aps = []
    for change, keys in ((lambda image_id: image_id, {}), (as_text, IMAGES)):
        ground_truth = COCO()
        ground_truth.dataset = with_texts(coco.dataset, keys)
        ground_truth.createIndex()
        found = [result | {"image_id": change(result["image_id"])} for result in results]
        images = ResampledImages(ground_truth, CONTIGUOUS_IDS, weights)
        aps.append(images.ap(Detections.from_json(found)))
    assert np.array_equal(*aps) and np.all(aps[0] > 0)
