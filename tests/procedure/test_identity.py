"""What makes a step another one, and what only ends it again or changes nothing."""

import dataclasses
import fnmatch
import json
import os

import pytest
from tiny_coco import write_tiny_coco

from crnas_d2.config import default_config, flatten_config
from crnas_d2.config_effects import EFFECTS, OF_TRAININGS, Effect, effect_of
from crnas_d2.files import file_sha256
from crnas_d2.procedure.identity import Identity, identify
from crnas_d2.procedure.standing import Standing
from crnas_d2.procedure.state import DONE, STATE_FILE, StepState
from crnas_d2.search.cost import COSTS

from detectron2.data import DatasetCatalog, MetadataCatalog

NAMES = ("known_train", "known_val")


@pytest.fixture
def cfg(tmp_path):
    """Of a detector with a training set that is drawn from, and a test set."""
    cfg = default_config()
    cfg.DATASETS.CACHE_DIR = str(tmp_path / "cache")
    for name in NAMES:
        write_tiny_coco(tmp_path / name, images=4, seed=len(name))
        entry = [name, str(tmp_path / name / "annotations.json"), str(tmp_path / name / "images")]
        cfg.DATASETS.COCO_JSON.append(entry)
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("known_archtrain",), ("known_val",)
    cfg.DATASETS.ARCHVAL.SIZE = 2
    yield cfg
    forget()


def forget():
    for name in NAMES:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def changed(cfg, change, searches=False):
    """Names of what a change of the config or of the data makes other: in the work, in the verdict."""
    before = identify(cfg, {}, searches=searches)
    change(cfg)
    changes = identify(cfg, {}, searches=searches).list_changes(before)
    return tuple([text.partition(": ")[0] for text in part] for part in changes)


def setter(key, value):
    return lambda cfg: cfg.merge_from_list([key, value])


@pytest.mark.parametrize(
    "key, value, training, search",
    [
        ("SOLVER.BASE_LR", 0.5, "work", ""),
        ("SOLVER.EMA.DECAY", 0.5, "work", ""),
        ("MODEL.ANCHOR_GENERATOR.SIZES", [[7]], "work", "work"),
        ("MODEL.INIT.REMAP", True, "work", ""),
        ("TEST.PRECISE_BN.ENABLED", True, "work", "work"),
        ("MODEL.SUPERNET.SEED", 3, "work", ""),
        ("MODEL.SUPERNET.SAMPLING", "cycles", "work", ""),
        ("MODEL.SUPERNET.SHARE_BLOCKS", True, "work", ""),
        ("INPUT.MIN_SIZE_TRAIN", [64], "work", ""),
        ("INPUT.CROP.ENABLED", True, "work", ""),
        ("MODEL.RPN.LOSS_WEIGHT", 2.0, "work", ""),
        ("MODEL.RPN.PRE_NMS_TOPK_TRAIN", 7, "work", ""),
        ("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 7, "work", ""),
        ("MODEL.PIXEL_MEAN", [1.0, 2.0, 3.0], "work", "work"),
        ("MODEL.ROI_HEADS.NMS_THRESH_TEST", 0.6, "verdict", "work"),
        ("INPUT.MIN_SIZE_TEST", 64, "verdict", "work"),
        ("MODEL.SUPERNET.TEST_PATHS", [[1]], "verdict", "work"),
        ("TEST.DETECTIONS_PER_IMAGE", 7, "verdict", "work"),
        ("SEARCH.SEED", 3, "", "work"),
        ("SEARCH.BUDGETS", [3], "", "verdict"),
        ("SEARCH.COST", "parameters", "", "verdict"),
        ("SEARCH.COST_SIZE", (480, 640), "", "verdict"),
        ("SEARCH.BUDGET_IS", "at_most", "", "verdict"),
        ("SEARCH.METRIC", "bbox/AP50", "", "verdict"),
        ("SEARCH.GROUP_SIZE", 3, "", ""),
        ("MODEL.CR.ACTIVATION_CHECKPOINT", True, "", ""),
        ("SOLVER.CHECKPOINT_PERIOD", 3, "", ""),
        ("TEST.EVAL_PERIOD", 3, "", ""),
        ("OUTPUT_DIR", "elsewhere", "", ""),
    ],
)
def test_what_a_key_changes(cfg, key, value, training, search):
    for searches, where in ((False, training), (True, search)):
        work, verdict = changed(cfg.clone(), setter(key, value), searches)
        assert (work, verdict) == (
            [key] if where == "work" else [],
            [key] if where == "verdict" else [],
        )


@pytest.mark.parametrize("cost", COSTS)
def test_a_choice_by_what_the_detector_costs_depends_on_the_detector(cfg, cost):
    cfg.SEARCH.COST = cost
    final = cfg.clone()
    before = identify(cfg, {}, searches=True, final_cfg=final)
    final.MODEL.FPN.OUT_CHANNELS = 32
    work, verdict = identify(cfg, {}, searches=True, final_cfg=final).list_changes(before)
    assert work == []
    assert len(verdict) == (cost not in ("blocks", "weighted"))


def test_there_is_every_key_of_the_list():
    keys = flatten_config(default_config())
    for beginning in EFFECTS:
        assert any(key.startswith(beginning) for key in keys), beginning
    assert effect_of("MODEL.RPN.POST_NMS_TOPK_TEST") is Effect.SCORES
    for pattern in OF_TRAININGS:
        found = fnmatch.filter(keys, pattern)
        assert found and {effect_of(key) for key in found} <= {Effect.TRAINING, Effect.SCORES}


def test_data_are_known_by_their_content(cfg, tmp_path):
    def cut(name):
        path = tmp_path / name / "annotations.json"
        coco = json.loads(path.read_text())
        coco["annotations"] = coco["annotations"][:-1]
        path.write_text(json.dumps(coco))

    def touch(name):
        image = next((tmp_path / name / "images").iterdir())
        os.utime(image, (0, 0))

    train, val = (f"annotations of {name}" for name in NAMES)
    assert changed(cfg, lambda _: cut("known_train")) == ([train], [])
    assert changed(cfg, lambda _: cut("known_val")) == ([], [val])
    images = "images of known_train, by size and time"
    assert changed(cfg, lambda _: touch("known_train")) == ([images], [])
    draw = "draw of known_archtrain"
    assert changed(cfg, setter("DATASETS.ARCHVAL.SEED", 1)) == ([draw], [])
    cfg.DATASETS.TRAIN = ("known_train",)
    assert changed(cfg, setter("DATASETS.ARCHVAL.SEED", 2)) == ([], [])


def test_data_may_move(cfg, tmp_path):
    before = identify(cfg, {}, searches=False)
    moved = tmp_path / "moved"
    (tmp_path / "known_train").rename(moved)
    cfg.DATASETS.COCO_JSON[0][1:] = [str(moved / "annotations.json"), str(moved / "images")]
    forget()
    assert identify(cfg, {}, searches=False) == before


def test_images_by_content_if_asked(cfg, tmp_path):
    cfg.DATASETS.HASH_IMAGES = True
    image = next((tmp_path / "known_train" / "images").iterdir())
    assert changed(cfg, lambda _: os.utime(image, (0, 0))) == ([], [])
    flipped = bytearray(image.read_bytes())
    flipped[-1] ^= 1
    images = "images of known_train, by content"
    assert changed(cfg, lambda _: image.write_bytes(flipped)) == ([images], [])


def test_a_key_that_is_new_stood_at_its_default(cfg):
    now = identify(cfg, {}, searches=False)
    before = {key: value for key, value in now.work.items() if key != "SOLVER.BASE_LR"}
    assert now.list_changes(Identity(before, now.verdict)) == ([], [])
    cfg.SOLVER.BASE_LR = 0.5
    work, _ = identify(cfg, {}, searches=False).list_changes(Identity(before, now.verdict))
    assert [change.partition(": ")[0] for change in work] == ["SOLVER.BASE_LR"]


def test_a_search_of_an_earlier_version_goes_on(cfg):
    """It knew a search by what only a training reads, too."""
    now = identify(cfg, {}, searches=True)
    before = {**now.work, "MODEL.SUPERNET.SEED": "7", "INPUT.MIN_SIZE_TEST": "1"}
    work, _ = now.list_changes(Identity(before, now.verdict))
    assert [change.partition(": ")[0] for change in work] == ["INPUT.MIN_SIZE_TEST"]


def test_how_far_a_step_has_come(tmp_path):
    identity = Identity({"a": "1", "processes": "2"}, {"b": "1"})
    (tmp_path / "model_final.pth").write_bytes(b"weights")
    state = StepState(identity)
    assert Standing.of("step", state, identity).why == "goes on"
    other = dataclasses.replace(identity, work={"a": "1", "processes": "1"})
    with pytest.raises(ValueError, match="step was begun .*\n  processes: 2 there, 1 now"):
        Standing.of("step", state, other).refuse_changes()
    assert not Standing.of("step", state, other).done
    sha256 = file_sha256(str(tmp_path / "model_final.pth"))
    StepState(identity, DONE, {"AP": 1.0}, 2.0, {"model_final.pth": sha256}).write(str(tmp_path))
    state = StepState.read(str(tmp_path))
    standing = Standing.of(str(tmp_path), state, other)  # by how many it was done does not matter
    assert standing.done and standing.results == {"AP": 1.0} and standing.seconds == 2.0
    tested = dataclasses.replace(identity, verdict={"b": "2"})
    standing = Standing.of(str(tmp_path), state, tested)
    assert standing.trained and not standing.done
    assert standing.why == "ends again: b: 1 there, 2 now"
    (tmp_path / "model_final.pth").write_bytes(b"others")
    why = "runs again: model_final.pth was changed"
    assert Standing.of(str(tmp_path), state, identity).why == why
    (tmp_path / "model_final.pth").unlink()
    why = "runs again: model_final.pth is not there any more"
    assert Standing.of(str(tmp_path), state, identity).why == why
    (tmp_path / STATE_FILE).write_text('{"MODEL.DEVICE": "cpu"}')
    with pytest.raises(ValueError, match="step.json is damaged, or an earlier version"):
        StepState.read(str(tmp_path))
