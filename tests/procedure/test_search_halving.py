"""Successive halving of a stage search, by search_net.py."""

import json
import shutil
from pathlib import Path

import pytest
from supernet_searches import in_two_processes, result_of, search
from tiny_search import load, write_search_config

from crnas_d2.evaluation.evaluator import ArchitectureEvaluator
from crnas_d2.search import Ledger

from detectron2.data import MetadataCatalog

pytestmark = pytest.mark.usefixtures("without_report")

HALVES = [
    *("SEARCH.BUDGETS", "[7]", "SEARCH.TOLERANCE", 0.3, "SEARCH.IMAGES_PER_BATCH", 1),
    *("SEARCH.HALVING.ENABLED", True, "SEARCH.HALVING.FACTOR", 2, "SEARCH.HALVING.MIN_IMAGES", 2),
]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return write_search_config(tmp_path_factory.mktemp("search"), "stage")


@pytest.fixture(scope="module")
def halved(config):
    """Of the 23 stage codes of 5 to 9 blocks, on 2, 4 and 7 images."""
    search(config, config.parent / "halved", *HALVES)
    return config.parent / "halved"


def trials_of(folder):
    trials = Ledger.read(folder / "ledger.sqlite").trials
    return {code: (t.status, t.images, dict(t.metrics)) for code, t in trials.items()}


def test_halving(halved, config):
    """Who stays to the end has the AP of a search without halving; that one goes on from it."""
    found = trials_of(halved)
    assert sorted(images for _, images, _ in found.values()) == 11 * [2] + 6 * [4] + 6 * [7]
    assert {(images == 7, status) for status, images, _ in found.values()} == {
        *((True, "done"), (False, "dropped"))
    }
    counts = {"done": 6, "failed": 0, "dropped": 17}
    assert result_of(halved)["counts"] == counts and len(result_of(halved)["dropped"]) == 17
    folder = config.parent / "not_halved"
    search(config, folder, *HALVES, "SEARCH.HALVING.ENABLED", False)
    expected = trials_of(folder)
    for code, trial in found.items():
        assert trial == expected[code] or trial[0] == "dropped"
    shutil.copytree(halved, config.parent / "on")
    search(config, config.parent / "on", *HALVES, "SEARCH.HALVING.ENABLED", False)
    assert trials_of(config.parent / "on") == expected


def test_ids_that_are_texts(halved, config):
    """On the same parts, with a text in place of each number, halving has the same digits."""
    cfg = load(config)
    root, entries = cfg.DATASETS.COCO_JSON[0][2], []
    for part, name in (("archtrain", cfg.DATASETS.TRAIN[0]), ("archval", cfg.DATASETS.TEST[0])):
        coco = json.loads(Path(MetadataCatalog.get(name).json_file).read_text())
        for entry in (*coco["images"], *coco["annotations"]):
            key = "image_id" if "image_id" in entry else "id"
            entry[key] = f"image {entry[key]:03}"
        path = config.parent / f"texts_{part}.json"
        path.write_text(json.dumps(coco))
        entries.append([f"texts_{part}", str(path), root])
    folder = config.parent / "texts"
    data = ("DATASETS.COCO_JSON", entries, "DATASETS.TRAIN", ("texts_archtrain",))
    search(config, folder, *HALVES, *data, "DATASETS.TEST", ("texts_archval",))
    assert trials_of(folder) == trials_of(halved)


def test_halving_of_two_processes(halved, config):
    folder = config.parent / "halved_by_two"
    in_two_processes(config, folder, *HALVES)
    assert trials_of(folder) == trials_of(halved)


def test_halving_that_was_stopped_goes_on(halved, config, monkeypatch):
    folder = config.parent / "stopped_halving"
    detect = ArchitectureEvaluator.detect
    calls = []

    def stop_at_the_fifth(self, codes, batches):
        calls.append((batches, codes))
        if len(calls) == 5:
            raise KeyboardInterrupt
        return detect(self, codes, batches)

    monkeypatch.setattr(ArchitectureEvaluator, "detect", stop_at_the_fifth)
    options = [*HALVES, "SEARCH.GROUP_SIZE", 7]
    with pytest.raises(KeyboardInterrupt):
        search(config, folder, *options)
    before = calls[:4]
    search(config, folder, *options)
    done = [(batches, code) for batches, codes in before + calls[5:] for code in codes]
    assert len(set(done)) == len(done)
    assert trials_of(folder) == trials_of(halved)
    assert (folder / "result.json").read_bytes() == (halved / "result.json").read_bytes()


def test_what_cannot_be_halved(config, tmp_path):
    operations = write_search_config(tmp_path / "operations", "dilation")
    enabled = ["SEARCH.HALVING.ENABLED", True]
    for wrong, *opts in ([operations], [config, "SEARCH.BUDGETS", "[5, 6]"]):
        with pytest.raises(ValueError, match="a stage search of one budget"):
            search(wrong, tmp_path / "wrong", *enabled, *opts)
    for key, value, expected in (
        ("FACTOR", 1, "expected at least 2"),
        ("MIN_IMAGES", 0, "expected at least 1"),
        ("MIN_IMAGES", 8, "expected at most 3, as archval has 7 images"),
    ):
        message = f"SEARCH.HALVING.{key} is {value}; {expected}"
        with pytest.raises(ValueError, match=message):
            search(config, tmp_path / "wrong", *HALVES, f"SEARCH.HALVING.{key}", value)
