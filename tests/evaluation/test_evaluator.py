"""Many architectures at a time are evaluated as each one would be alone, digit for digit."""

import tracemalloc
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
import torch
from evaluation.made_scenes import repeat_images
from forked import run_forked
from fvcore.nn.precise_bn import update_bn_stats
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from thin_supernets import sample_paths
from tiny_search import build, build_subnet, load, some_paths, write_search_config

from crnas_d2.data.images import UnreadableError
from crnas_d2.engine.hooks import find_supernet
from crnas_d2.evaluation.bootstrap import poisson_weights
from crnas_d2.evaluation.detections import Detections
from crnas_d2.evaluation.evaluator import ArchitectureEvaluator, _draw_images
from crnas_d2.evaluation.metric import check_metric
from crnas_d2.evaluation.recalibration import active_norms, recalibrate
from crnas_d2.files import read_json
from crnas_d2.procedure.search_keys import settled
from crnas_d2.search.trial import Trial

from detectron2.data import (
    DatasetMapper,
    MetadataCatalog,
    build_detection_test_loader,
    get_detection_dataset_dicts,
)
from detectron2.evaluation import COCOEvaluator, inference_on_dataset
from detectron2.structures import ImageList


@pytest.fixture(scope="module", params=["stage", "shared", "dilation"])
def config(request, tmp_path_factory):
    folder, shared = tmp_path_factory.mktemp("search"), request.param == "shared"
    step = "stage" if shared else request.param
    return write_search_config(folder, step, share_blocks=shared)


def plain_loop(cfg, paths, change=lambda model: None):
    """One network after the other: built, loaded, run by Detectron2. Mini-batches of one size."""
    name = cfg.DATASETS.TEST[0]
    results = []
    for path in paths:
        model = build_subnet(cfg, path)
        change(model)
        loader = build_detection_test_loader(
            get_detection_dataset_dicts(name, filter_empty=False),
            mapper=DatasetMapper(cfg, is_train=False),
            batch_size=cfg.SEARCH.IMAGES_PER_BATCH,
        )
        found = inference_on_dataset(model, loader, COCOEvaluator(name, use_fast_impl=False))
        results.append({f"bbox/{name}": value for name, value in found["bbox"].items()})
    return results


def statistics_batches(cfg, model):
    """The images from which statistics come, by Detectron2's loader."""
    loader = build_detection_test_loader(
        _draw_images(cfg),
        mapper=DatasetMapper(cfg, is_train=False),
        batch_size=cfg.SEARCH.BN.IMAGES_PER_BATCH,
    )
    return [model.preprocess_image(inputs) for inputs in loader]


@pytest.mark.parametrize("images_per_batch", [1, 3])
def test_same_digits_as_the_plain_loop(config, images_per_batch):
    cfg = load(config, "SEARCH.BN.MODE", "running", "SEARCH.IMAGES_PER_BATCH", images_per_batch)
    evaluator = ArchitectureEvaluator(settled(cfg), build(cfg))
    paths = some_paths(evaluator.space, 6)
    evaluations = list(evaluator.evaluate(paths))
    expected = plain_loop(cfg, paths)
    assert [e.code for e in evaluations] == paths
    assert [dict(e.metrics) for e in evaluations] == [
        {name: value for name, value in metrics.items() if value == value} for metrics in expected
    ]
    scores = {e.metrics["bbox/AP"] for e in evaluations}
    assert len(scores) > 3 and max(scores) > 1
    assert {(e.status, e.images) for e in evaluations} == {("done", 7)}


def test_same_digits_with_statistics_of_the_path_alone(config):
    cfg = load(config, "SEARCH.BN.MODE", "recalibrate", "SEARCH.STRATEGY", "random")
    model = build(cfg)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    evaluator = ArchitectureEvaluator(settled(cfg), model)
    paths = some_paths(evaluator.space, 5)
    evaluations = list(evaluator.evaluate(paths))

    def recalibrate_alone(subnet):
        alone = mock.Mock(sharing_prefixes=torch.no_grad, modules=lambda: [])
        batches = statistics_batches(cfg, subnet)
        for norm, (mean, variance) in recalibrate(subnet.backbone, alone, [()], batches)[0].items():
            norm.running_mean, norm.running_var = mean, variance

    expected = plain_loop(cfg, paths, recalibrate_alone)
    assert [e.metrics["bbox/AP"] for e in evaluations] == [m["bbox/AP"] for m in expected]
    running = ArchitectureEvaluator(
        settled(load(config, "SEARCH.BN.MODE", "running")), model
    ).evaluate(paths)
    assert all(a.metrics != b.metrics for a, b in zip(evaluations, running))
    after = model.state_dict()
    assert all(torch.equal(tensor, after[key]) for key, tensor in before.items())


def test_statistics_are_those_of_precise_bn(config):
    """fvcore's estimate over the path's network alone, of images without padding."""
    cfg = load(config)
    model = build(cfg)
    supernet = find_supernet(model)
    tensors = [images.tensor for images in statistics_batches(cfg, model)]
    batches = [ImageList(tensor, [tensor.shape[-2:]] * len(tensor)) for tensor in tensors]
    paths = sorted(sample_paths(supernet.space, 4))
    found = recalibrate(model.backbone, supernet, paths, batches)
    for path, statistics in zip(paths, found):
        subnet = build_subnet(cfg, path)
        norms = active_norms(subnet.backbone)
        for norm in norms:
            norm.train()
        update_bn_stats(subnet.backbone, tensors, len(tensors))
        assert len(norms) == len(statistics)
        for norm, (mean, variance) in zip(norms, statistics.values()):
            torch.testing.assert_close(mean, norm.running_mean, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(variance, norm.running_var, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("frozen", [0, 1])
def test_statistics_are_those_of_the_images_alone(config, frozen):
    """One norm after the other is told the moments of its inputs, image by image."""
    cfg = load(config, "MODEL.BACKBONE.FREEZE_AT", frozen)
    model, generator = build(cfg), torch.Generator().manual_seed(0)
    supernet = find_supernet(model)
    shapes = [(50, 91), (91, 50), (64, 64), (33, 40)]
    images = [20 * torch.randn(3, *shape, generator=generator) + 30 for shape in shapes]
    (path,) = some_paths(supernet.space, 1)
    padded = ImageList.from_tensors(images, model.backbone.size_divisibility)
    assert padded.tensor.shape[-2:] == (96, 96)
    (found,) = recalibrate(model.backbone, supernet, [path], [padded])
    trunk = build_subnet(cfg, path).backbone.bottom_up
    norms = active_norms(trunk)
    for norm, (mean, variance) in zip(norms, [found[n] for n in active_norms(supernet)]):
        inputs = []
        hook = norm.register_forward_pre_hook(lambda _, x: inputs.append(x[0][0].flatten(1)))
        with hook, torch.no_grad():
            for image in images:
                trunk(image[None])
        values = torch.cat(inputs, 1).double()
        norm.running_mean, norm.running_var = (
            values.mean(1).float(),
            values.var(1, correction=0).float(),
        )
        torch.testing.assert_close(mean, norm.running_mean, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(variance, norm.running_var, rtol=1e-4, atol=1e-5)
    assert len(norms) > 8


def test_processes_share_the_scoring(config, monkeypatch):
    """Each trial is there before the next ones are scored, and nobody waits for them too long."""
    monkeypatch.setattr("crnas_d2.evaluation.scorer.hotcoco", None)  # its threads end in a fork
    cfg = settled(load(config, "SEARCH.STRATEGY", "random"))
    paths = some_paths(ArchitectureEvaluator(cfg, build(cfg)).space, 5)  # groups of 4 and 1

    def run():
        evaluator = ArchitectureEvaluator(cfg, build(cfg))
        scorer, events = evaluator.scorer, []
        evaluator.scorer = lambda *args: events.append("scores") or scorer(*args)
        trials = [events.append("trial") or trial for trial in evaluator.evaluate(paths)]
        if evaluator._scorers:
            timeout = evaluator._scorers._get_backend(torch.device("cpu")).options._timeout
            assert timeout.days >= 7
        return trials, events

    (alone, _), ranks = run(), run_forked(2, run)
    assert [trials for trials, _ in ranks] == [alone, alone]
    assert [trial.code for trial in alone] == paths
    assert ranks[0][1] == 2 * ["scores", "trial", "trial"] + ["scores", "trial"]
    assert ranks[1][1] == 2 * ["scores", "trial", "trial"] + ["trial"]


def test_resamples_of_archval(config):
    options = ["SEARCH.BN.MODE", "running", "SEARCH.METRIC", "bbox/AP50", "SEARCH.RESAMPLES"]
    cfg = settled(load(config, *options, 4))
    evaluator = ArchitectureEvaluator(cfg, build(cfg))
    paths = some_paths(evaluator.space, 2)
    content = read_json(MetadataCatalog.get(cfg.DATASETS.TEST[0]).json_file)
    weights = poisson_weights(7, 4, seed=0)
    for path, trial in zip(paths, evaluator.evaluate(paths)):
        (found,) = evaluator.detect([path], range(evaluator.mini_batches))
        assert evaluator.score(path, found) == trial
        # Copies of an image would have its equal scores in another order.
        untied = replace(found, scores=found.scores + 1e-4 * np.arange(len(found)))
        resampled = evaluator.score(path, untied).resampled
        assert resampled.metric == "bbox/AP50"
        expected = [ap50_of_copies(content, untied.to_json(), column) for column in weights.T]
        np.testing.assert_allclose(resampled.values, expected, rtol=1e-6)
    (part,) = evaluator.evaluate(paths[:1], range(2))
    without = ArchitectureEvaluator(settled(load(config, *options, 0)), build(cfg))
    (off,) = without.evaluate(paths[:1])
    assert part.resampled is off.resampled is None


def ap50_of_copies(content, results, weights):
    """By pycocotools, of a dataset in which images are there as often as their weights say."""
    category_ids = sorted(category["id"] for category in content["categories"])
    repeated, found = repeat_images(content, results, weights)
    coco = COCO()
    coco.dataset = repeated
    coco.createIndex()
    numbered = [{**r, "category_id": category_ids[r["category_id"]]} for r in found]
    evaluation = COCOeval(coco, coco.loadRes(numbered), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return 100 * evaluation.stats[1] if evaluation.stats[1] >= 0 else np.nan


def test_each_image_is_decoded_once(config, monkeypatch):
    cfg = load(config, "SEARCH.BN.MODE", "running")
    evaluator = ArchitectureEvaluator(settled(cfg), build(cfg))
    decoded = []
    mapper = evaluator._mapper
    evaluator._mapper = lambda image: decoded.append(image["image_id"]) or mapper(image)
    list(evaluator.evaluate(some_paths(evaluator.space, 4)))  # a group
    archval = get_detection_dataset_dicts(cfg.DATASETS.TEST[0], filter_empty=False)
    assert decoded == [image["image_id"] for image in archval]


def test_prefixes_are_completed_alike_for_each_mini_batch(config):
    """A prefix's detections on a mini-batch are those of the path that completes it there."""
    cfg = load(config, "SEARCH.BN.MODE", "running")
    evaluator = ArchitectureEvaluator(settled(cfg), build(cfg))
    first = evaluator.space.choices[0]
    prefixes = [(entry,) for entry in first]
    seen, found = set(), 0
    for number in range(evaluator.mini_batches):
        batch = range(number, number + 1)
        paths = [evaluator._complete(prefix, number) for prefix in prefixes]
        assert len({path[1:] for path in paths}) == 1
        assert all(path in evaluator.space for path in paths)
        seen.add(paths[0][1:])
        for one, other in zip(evaluator.detect(prefixes, batch), evaluator.detect(paths, batch)):
            assert one.to_json() == other.to_json()
            found += len(one)
    assert len(seen) > 1 and found > 0


def test_some_mini_batches(config):
    """A trial on a part of archval has what is found in its images alone."""
    cfg = load(config, "SEARCH.BN.MODE", "running")
    evaluator = ArchitectureEvaluator(settled(cfg), build(cfg))
    paths = some_paths(evaluator.space, 2)
    batches = range(0, evaluator.mini_batches, 3)
    assert len(batches) > 1
    image_ids = evaluator.image_ids(batches)
    everything = evaluator.detect(paths, range(evaluator.mini_batches))
    for found, part in zip(everything, evaluator.detect(paths, batches)):
        assert part.to_json() == [r for r in found.to_json() if r["image_id"] in image_ids]
    for trial, found in zip(evaluator.evaluate(paths, batches), everything):
        kept = Detections.from_json([r for r in found.to_json() if r["image_id"] in image_ids])
        assert trial == evaluator.score(trial.code, kept, image_ids)
        assert (trial.status, trial.images) == ("dropped", len(image_ids))


def test_what_is_found_is_in_memory_once(config):
    """And what is scored beside it."""
    cfg = load(config, "SEARCH.BN.MODE", "running", "SEARCH.GROUP_SIZE", 12)
    evaluator = ArchitectureEvaluator(settled(cfg), build(cfg))
    boxes = 5000

    def find(inputs):
        columns = (np.zeros(boxes, kind) for kind in (np.int64, np.int32, np.float32))
        images, categories, scores = columns
        masks = np.zeros((0, 3), object)
        return Detections(images, categories, np.zeros((boxes, 4), np.float32), scores, masks)

    evaluator._run = find
    evaluator.score = lambda code, found, _: Trial(code, "done", {"boxes": len(found)})
    paths = some_paths(evaluator.space, 12)
    tracemalloc.start()
    trials = list(evaluator.evaluate(paths))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    found = boxes * evaluator.mini_batches
    assert [trial.metrics for trial in trials] == [{"boxes": found}] * len(paths)
    assert len(paths) * found * 32 < peak < (len(paths) + 3) * found * 32


def test_a_path_that_is_not_finite_fails_alone(config):
    cfg = load(config, "SEARCH.BN.MODE", "running")
    model = build(cfg)
    evaluator = ArchitectureEvaluator(settled(cfg), model)
    supernet = find_supernet(model)
    paths = sorted(some_paths(evaluator.space, 6))
    last = supernet.choice_blocks[-1]
    broken = last.ops[str(paths[0][last.index])]
    for parameter in broken.parameters():
        parameter.data.fill_(float("nan"))
    for path, evaluation in zip(paths, list(evaluator.evaluate(paths))):
        supernet.set_path(path)
        failed = broken in last.active()
        assert (evaluation.status == "failed") == failed
        assert (evaluation.reason == "a feature is Inf or NaN") == failed
        assert bool(evaluation.metrics) != failed


def test_a_gpu_gets_several_images_at_once(config):
    at_once = {"stage": 8, "dilation": 4}[config.stem]
    for device, images in (("cpu", 1), ("cuda", at_once)):
        cfg = load(config, "SEARCH.IMAGES_PER_BATCH", 0, "MODEL.DEVICE", device)
        assert settled(cfg).SEARCH.IMAGES_PER_BATCH == images


def test_faults_are_told(config):
    for key, value, message in (
        ("SEARCH.METRIC", "segm/AP", "MODEL.MASK_ON is False"),
        ("SEARCH.METRIC", "bbox/APx", "SEARCH.METRIC is 'bbox/APx'; expected one of bbox/AP, "),
        (
            "SEARCH.METRIC",
            "bbox/AP-green",
            "expected one of bbox/AP, .* bbox/AP-red, bbox/AP-blue$",
        ),
        ("MODEL.META_ARCHITECTURE", "ProposalNetwork", "'ProposalNetwork' gives no boxes"),
        ("SEARCH.AMP", True, "there is no GPU"),
    ):
        with pytest.raises(ValueError, match=message):
            check_metric(settled(load(config, key, value)))
    cfg = load(config, "SEARCH.METRIC", "bbox/AP-red")
    check_metric(settled(cfg))
    archval = MetadataCatalog.get(cfg.DATASETS.TEST[0])
    MetadataCatalog.get("as_lvis").set(evaluator_type="lvis", json_file=archval.json_file)
    cfg.DATASETS.TEST = ("as_lvis",)
    with pytest.raises(ValueError, match="'as_lvis' of a search has evaluator_type 'lvis'; exp"):
        check_metric(settled(cfg))
    MetadataCatalog.remove("as_lvis")


def test_an_image_that_cannot_be_read_is_named(tmp_path):
    config = write_search_config(tmp_path, "stage")
    cfg = load(config, "SEARCH.BN.MODE", "running")
    evaluator = ArchitectureEvaluator(settled(cfg), build(cfg))
    image, *_ = get_detection_dataset_dicts(cfg.DATASETS.TEST[0], filter_empty=False)
    with open(image["file_name"], "r+b") as file:
        file.truncate(60)
    with pytest.raises(UnreadableError, match=rf"{image['file_name']}: .*truncated"):
        list(evaluator.evaluate(some_paths(evaluator.space, 1)))
