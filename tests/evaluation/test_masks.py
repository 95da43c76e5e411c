"""The search of a detector with masks."""

import pytest
import torch
from tiny_search import build, build_subnet, load, some_paths, write_search_config

from crnas_d2.evaluation.evaluator import ArchitectureEvaluator
from crnas_d2.procedure.search_keys import settled

from detectron2.data import (
    DatasetMapper,
    build_detection_test_loader,
    get_detection_dataset_dicts,
)
from detectron2.evaluation import COCOEvaluator, inference_on_dataset


@pytest.mark.parametrize("fast", [True, False])
def test_mask_ap_has_the_digits_of_the_plain_loop(tmp_path, fast, monkeypatch):
    if not fast:
        monkeypatch.setattr("crnas_d2.evaluation.scorer.hotcoco", None)
    cfg = load(write_search_config(tmp_path, "dilation", masks=True), "SEARCH.METRIC", "segm/AP50")
    weights = torch.load(cfg.MODEL.WEIGHTS, weights_only=True)
    weights["model"]["roi_heads.mask_head.predictor.bias"].fill_(2.0)  # nearly all of the box
    torch.save(weights, cfg.MODEL.WEIGHTS)
    model, with_masks = build(cfg), []
    evaluator = ArchitectureEvaluator(settled(cfg), model)
    paths = some_paths(evaluator.space, 3)
    name = cfg.DATASETS.TEST[0]
    for path, evaluation in zip(paths, evaluator.evaluate(paths)):
        loader = build_detection_test_loader(
            get_detection_dataset_dicts(name, filter_empty=False),
            mapper=DatasetMapper(cfg, is_train=False),
            batch_size=cfg.SEARCH.IMAGES_PER_BATCH,
        )
        subnet = build_subnet(cfg, path)
        found = inference_on_dataset(subnet, loader, COCOEvaluator(name, use_fast_impl=False))
        for task in ("bbox", "segm"):
            for metric, value in found[task].items():
                if value == value:
                    assert evaluation.metrics[f"{task}/{metric}"] == value
        assert evaluation.metrics["segm/AP50"] > 0
        with_masks.append(evaluation.metrics)

    cfg.SEARCH.METRIC = "bbox/AP"
    model.roi_heads.mask_head = None  # is not asked for a mask that nobody ranks by
    boxes = [trial.metrics for trial in ArchitectureEvaluator(settled(cfg), model).evaluate(paths)]
    assert boxes == [
        {name: value for name, value in metrics.items() if name.startswith("bbox/")}
        for metrics in with_masks
    ]
