import pickle
import random
from itertools import islice

import numpy as np
import pytest
import torch
from runs import mixed_data, parse

from crnas_d2.engine import CRTrainer, setup
from crnas_d2.engine.loader import build_train_loader, own_random_state, seed_from

from detectron2.data import build_detection_train_loader, get_detection_dataset_dicts
from detectron2.data.samplers import RepeatFactorTrainingSampler, TrainingSampler
from detectron2.utils import comm

SEED = 5
SIZES = [(64, 48), (48, 64), (64, 64), (64, 48), (90, 30), (30, 90), (64, 63)]
IMAGES = [
    {"file_name": f"{i}.png", "width": width, "height": height}
    for i, (width, height) in enumerate(SIZES)
]


def draw_numbers(image):
    """A mapper whose augmentations are numbers from all three generators."""
    numbers = (random.random(), np.random.rand(), torch.rand(()).item())
    return {**image, "numbers": numbers}


def make_loader(mapper=draw_numbers, sampler=None, **options):
    options = {"total_batch_size": 2, "seed": SEED, **options}
    return build_train_loader(
        IMAGES, mapper, sampler or TrainingSampler(len(IMAGES), seed=SEED), **options
    )


def batches(loader, count, start=0):
    loader.batch_sampler.start = start
    return list(islice(loader, count))


def names(batches):
    return [[image["file_name"] for image in batch] for batch in batches]


def on_rank(monkeypatch, rank, world_size):
    monkeypatch.setattr(comm, "get_rank", lambda: rank)
    monkeypatch.setattr(comm, "get_world_size", lambda: world_size)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("rank, world_size", [(0, 1), (0, 2), (1, 2)])
def test_batches_against_a_simulation(monkeypatch, rank, world_size, workers):
    on_rank(monkeypatch, rank, world_size)
    got = batches(make_loader(total_batch_size=2 * world_size, num_workers=workers), 8)

    generator = torch.Generator().manual_seed(SEED)
    stream = torch.cat([torch.randperm(len(IMAGES), generator=generator) for _ in range(5)])
    mine = [(p, i) for p, i in enumerate(stream.tolist()) if p % world_size == rank]
    assert len(got) == 8
    for batch, expected in zip(got, zip(mine[::2], mine[1::2])):
        for sample, (position, index) in zip(batch, expected, strict=True):
            state = int(np.random.SeedSequence([SEED, position]).generate_state(1)[0])
            assert sample["file_name"] == f"{index}.png"
            assert sample["numbers"] == (
                random.Random(state).random(),
                np.random.RandomState(state).rand(),
                torch.rand((), generator=torch.Generator().manual_seed(state)).item(),
            )


@pytest.mark.parametrize("grouping", [False, True])
@pytest.mark.parametrize("workers", [0, 2])
def test_start_leaves_out_that_many_batches(grouping, workers):
    whole = batches(make_loader(aspect_ratio_grouping=grouping), 12)
    for start in (1, 5, 11):
        loader = make_loader(aspect_ratio_grouping=grouping, num_workers=workers)
        assert batches(loader, 12 - start, start) == whole[start:]


def test_what_is_left_out_costs_no_image():
    read = []
    loader = make_loader(mapper=lambda image: read.append(image) or image)
    batches(loader, 1, start=1000)
    assert len(read) == 2


def test_grouping_is_that_of_detectron2():
    sampler = TrainingSampler(len(IMAGES), seed=SEED)
    theirs = build_detection_train_loader(
        IMAGES,
        mapper=lambda image: image,
        sampler=sampler,
        total_batch_size=3,
        aspect_ratio_grouping=True,
    )
    ours = make_loader(sampler=sampler, total_batch_size=3, aspect_ratio_grouping=True)
    expected = names(islice(theirs, 30))
    assert names(batches(ours, 30)) == expected
    is_wide = {image["file_name"]: image["width"] > image["height"] for image in IMAGES}
    assert {len({is_wide[name] for name in batch}) for batch in expected} == {1}
    ungrouped = names(batches(make_loader(sampler=sampler, total_batch_size=3), 30))
    assert ungrouped != expected


@pytest.mark.parametrize("sampler", ["TrainingSampler", "RepeatFactorTrainingSampler"])
def test_loader_of_a_config_is_that_of_detectron2(tiny_config, tmp_path, sampler):
    """As to images and batches; the augmentations have other seeds."""
    cfg = setup(
        parse(
            tiny_config,
            *mixed_data(tmp_path / "mixed"),
            *("DATALOADER.SAMPLER_TRAIN", sampler, "DATALOADER.REPEAT_THRESHOLD", 2.5),
        )
    )
    images = get_detection_dataset_dicts(cfg.DATASETS.TRAIN)
    if sampler == "TrainingSampler":
        same_sampler = TrainingSampler(len(images), seed=cfg.SEED)
    else:
        factors = torch.full((len(images),), 2.5**0.5)
        same_sampler = RepeatFactorTrainingSampler(factors, seed=cfg.SEED)
    theirs = build_detection_train_loader(cfg, sampler=same_sampler)
    expected = names(islice(theirs, 12))
    assert len(set(sum(expected, []))) == len(images)
    loader = CRTrainer.build_train_loader(cfg)
    whole = batches(loader, 12)
    assert names(whole) == expected
    for image, same in zip(sum(batches(loader, 5, start=7), []), sum(whole[7:], [])):
        assert torch.equal(image["image"], same["image"])
        assert torch.equal(image["instances"].gt_boxes.tensor, same["instances"].gt_boxes.tensor)


def test_refused_image_is_replaced_by_the_same_one_with_any_start_and_workers():
    def refuse_some(image):
        return None if image["file_name"] in ("1.png", "4.png") else draw_numbers(image)

    whole = batches(make_loader(refuse_some), 20)
    assert set(sum(names(whole), [])) == {f"{i}.png" for i in (0, 2, 3, 5, 6)}
    assert batches(make_loader(refuse_some, num_workers=2), 8, start=12) == whole[12:]


def test_workers_that_are_spawned_get_a_mapper_that_is_a_closure():
    """Those of the processes that Detectron2's launcher has spawned are."""
    seen = "seen"
    loader = make_loader(mapper=lambda image: {**image, seen: True})
    dataset = pickle.loads(pickle.dumps(loader.dataset))
    pickle.dumps(loader.worker_init_fn)
    assert dataset[0, 3] == {**IMAGES[3], "seen": True}


def test_own_random_state_leaves_no_trace():
    def draw():
        return random.random(), np.random.rand(), torch.rand(()).item()

    seed_from(1, 2, 3)
    expected = [draw() for _ in range(3)]
    seed_from(1, 2, 3)
    assert draw() == expected[0]
    with own_random_state():
        seed_from(4)
        inside = draw()
    assert draw() == expected[1]
    with pytest.raises(KeyError), own_random_state():
        seed_from(4)
        assert draw() == inside
        raise KeyError
    assert draw() == expected[2]
    seed_from(1, 2, 4)
    assert draw() != expected[0]


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_leaves_no_trace_in_the_generators(workers):
    def draw():
        return random.random(), np.random.rand(), torch.rand(()).item()

    seed_from(SEED)
    expected = draw()
    seed_from(SEED)
    batches(make_loader(num_workers=workers), 3)
    assert draw() == expected


def test_loader_seeds_no_gpu(monkeypatch):
    """A step draws from them, and the images of the next one are read in between."""
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("seeded"))
    batches(make_loader(), 1)


@pytest.mark.parametrize("batch_size", [0, 3])
def test_batch_that_cannot_be_shared_is_an_error(monkeypatch, batch_size):
    on_rank(monkeypatch, 0, 2)
    with pytest.raises(ValueError, match=f"IMS_PER_BATCH is {batch_size}; .* of the 2 processes"):
        make_loader(total_batch_size=batch_size)
