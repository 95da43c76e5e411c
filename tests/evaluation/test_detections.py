import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch

from crnas_d2.evaluation.detections import Detections

from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Boxes, Instances

ARRAYS = ("image_ids", "categories", "boxes", "scores", "masks")


def make_results(images=3, most=6, with_masks=True, seed=0):
    """As Detectron2 writes them. Image 0 has no detection."""
    generator = torch.Generator().manual_seed(seed)
    results = []
    for image_id in range(images):
        height, width, count = 30 + image_id, 300 + image_id, most if image_id else 0
        corners = 20 * torch.rand(count, 2, generator=generator)
        instances = Instances((height, width))
        instances.pred_boxes = Boxes(torch.cat([corners, corners + 7.3], 1))
        instances.scores = torch.rand(count, generator=generator)
        instances.pred_classes = torch.randint(80, (count,), generator=generator)
        if with_masks:
            instances.pred_masks = torch.rand(count, height, width, generator=generator) > 0.5
        results += instances_to_coco_json(instances, 10**12 + image_id)
    return results


@pytest.mark.parametrize("with_masks", [False, True], ids=["boxes", "masks"])
def test_results_come_back_digit_for_digit(with_masks):
    results = make_results(with_masks=with_masks)
    detections = Detections.from_json(results)
    assert len(detections) == len(results) == 12
    compact = Detections.concatenate([detections.compact(), detections.compact()])
    assert compact.to_json() == 2 * results
    assert compact.boxes.dtype == compact.scores.dtype == np.float32
    assert detections.to_json() == results
    dtypes = [np.int64, np.int64, np.float64, np.float64, object]
    assert [getattr(detections, array).dtype for array in ARRAYS] == dtypes
    # The types are those of JSON, which pycocotools gets from Detectron2.
    result = detections.to_json()[0]
    assert {type(v) for v in (*result["bbox"], result["score"])} == {float}
    assert {type(result["image_id"]), type(result["category_id"])} == {int}
    if with_masks:
        size = result["segmentation"]["size"]
        assert {type(v) for v in size} == {int}
        assert mask_util.decode(result["segmentation"]).shape == (31, 301) == tuple(size)


def test_no_detections():
    nothing = Detections.from_json([])
    for none in (nothing, nothing.compact(), Detections.concatenate([])):
        assert len(none) == 0 and none.to_json() == [] and none.is_finite()
        assert [getattr(none, a).shape for a in ARRAYS] == [(0,), (0,), (0, 4), (0,), (0, 3)]


@pytest.mark.parametrize("with_masks", [False, True], ids=["boxes", "masks"])
def test_parts_are_put_together_in_order(with_masks):
    results = make_results(with_masks=with_masks)
    parts = [Detections.from_json(r) for r in (results[:5], [], results[5:6], results[6:])]
    assert Detections.concatenate(iter(parts)).to_json() == results


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("array", ["boxes", "scores"])
def test_is_finite(array, value):
    detections = Detections.from_json(make_results())
    assert detections.is_finite()
    getattr(detections, array)[4] = value
    assert not detections.is_finite()


def test_arrays_that_do_not_fit_together():
    results = make_results()
    some_masks = [{k: v for k, v in results[0].items() if k != "segmentation"}, *results[1:]]
    with pytest.raises(ValueError, match=r"'masks': \(11, 3\).* expected .*'masks': \(12, 3\)"):
        Detections.from_json(some_masks)
    with pytest.raises(ValueError, match="arrays of detections have the shapes"):
        Detections.concatenate(map(Detections.from_json, (results, some_masks[:1])))
    arrays = vars(Detections.from_json(results))
    for name in ARRAYS:
        with pytest.raises(ValueError, match=rf"'{name}': \(11,"):
            Detections(**arrays | {name: arrays[name][1:]})
