"""search_net.py on a trained supernet of toy size."""

import hashlib
import os
import shutil
import signal

import numpy as np
import pytest
import torch
import yaml
from clean_forks import clean_forks
from hanging import HANGS_S
from killing import die_at
from supernet_searches import in_two_processes, result_of, search
from tiny_search import load, write_search_config

from crnas_d2 import report
from crnas_d2.config import configs_dir, read_config
from crnas_d2.data.digits import DigitsRecipe, generate
from crnas_d2.evaluation.evaluator import ArchitectureEvaluator
from crnas_d2.procedure.supernet_search import run_search
from crnas_d2.search import Ledger
from crnas_d2.search.ledger_file import LedgerError

KILLED_AT = (3, 9, 12)  # writes of a start: before the first trial, and between trials
BUDGET = ["SEARCH.BUDGETS", "[5, 6]"]  # 4 + 7 of the 24 stage codes
OPTIONS = {"stage": BUDGET, "dilation": []}

pytestmark = pytest.mark.usefixtures("without_report")


@pytest.fixture(scope="module", params=["stage", "dilation"])
def step(request):
    return request.param


@pytest.fixture(scope="module")
def config(step, tmp_path_factory):
    return write_search_config(tmp_path_factory.mktemp("search"), step)


@pytest.fixture(scope="module")
def whole(config, step):
    """Folder of a search that nothing has stopped."""
    folder = config.parent / "whole"
    search(config, folder, *OPTIONS[step])
    return folder


def test_result(whole, step, config):
    result = result_of(whole)
    assert result["step"] == ("stage" if step == "stage" else "operation")
    trials = Ledger.read(whole / "ledger.sqlite").trials
    scores = {"-".join(map(str, c)): trial.metrics["bbox/AP"] for c, trial in trials.items()}
    if step == "stage":
        assert list(result["rankings"]) == ["5", "6"]
        assert len(trials) == 4 + 7
        for budget, ranking in result["rankings"].items():
            expected = {
                c: s for c, s in scores.items() if sum(map(int, c.split("-"))) == int(budget)
            }
            assert dict(ranking["ranking"]) == expected
            assert ranking["best"] == min(expected, key=lambda c: (-expected[c], c))
        costs = {code: sum(map(int, code.split("-"))) for code in scores}
        assert result["limits"] == {
            "unit": "weighted blocks",
            "at_most": False,
            "tolerance": 0.0,
            "costs": costs,
        }
        best = result["rankings"]["5"]["best"]
        codes = {"STAGE_CODE": list(map(int, best.split("-"))), "OPERATION_CODE": [0] * 5}
    else:
        assert len(trials) == 3 + 9 * 4
        assert [len(kept) for kept in result["survivors"]] == [3] * 5
        best = result["rankings"]["all"]["best"]
        assert result["survivors"][-1][0] == [best, scores[best]]
        codes = {"STAGE_CODE": [1, 1, 2, 1], "OPERATION_CODE": list(map(int, best.split("-")))}
    assert yaml.safe_load((whole / "architecture.yaml").read_text()) == {"MODEL": {"CR": codes}}
    assert result["counts"] == {"done": len(trials), "failed": 0, "dropped": 0}
    drawn = {"-".join(map(str, c)): trial.resampled.values for c, trial in trials.items()}
    for ranking in result["rankings"].values():
        leader, *others = (code for code, _ in ranking["ranking"])
        errors = [np.nanstd(drawn[leader] - drawn[code], ddof=1) for code in others]
        leads = [scores[leader] - scores[code] for code in others]
        assert ranking["undistinguished"] == np.sum(leads <= 1.959964 * np.array(errors))


def test_the_result_says_what_was_searched(whole, step, config):
    cfg = read_config(str(config))
    digest = hashlib.sha256()
    for name, tensor in sorted(torch.load(cfg.MODEL.WEIGHTS, weights_only=True)["model"].items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    (archval,) = (config.parent / "data").glob("*_archval_size7_*.json")
    choices = {
        "stage": {"stage_choices": cfg.MODEL.SUPERNET.STAGE_CHOICES},
        "dilation": {"stage_code": [1, 1, 2, 1], "operations": [0, 1, 2]},
    }
    searched = result_of(whole)["searched"]
    parts = searched.pop("classes")["parts"]
    assert [parts[part]["images"] for part in ("archtrain", "archval")] == [5, 7]
    assert [found["other"] for found in searched.pop("near_copies")] == ["archtrain"]
    assert searched == {
        "supernet": {
            "backbone": f"build_{step}_supernet_fpn_backbone",
            "sha256": digest.hexdigest(),
            "seed_weights": None,
        },
        "space": {"family": "resnet", **choices[step]},
        "archval": {
            "name": cfg.DATASETS.TEST[0],
            "sha256": hashlib.sha256(archval.read_bytes()).hexdigest(),
        },
    }


def test_weights_of_another_network_are_refused(step, config, tmp_path):
    """Also where a file does not say whose weights it has, but has not all."""
    weights = read_config(str(config)).MODEL.WEIGHTS
    other = {"stage": "dilation", "dilation": "stage"}[step]
    swapped = ["MODEL.BACKBONE.NAME", f"build_{other}_supernet_fpn_backbone"]
    message = f"MODEL.BACKBONE.NAME: build_{step}_supernet_fpn_backbone in the checkpoint"
    with pytest.raises(ValueError, match=message):
        search(config, tmp_path / "out", *OPTIONS[step], *swapped)
    tensors = torch.load(weights, weights_only=True)["model"]
    torch.save({"model": tensors}, tmp_path / "silent.pth")
    message = r"silent.pth are of another backbone than the model's: .*missing \(bottom_up.res"
    with pytest.raises(ValueError, match=message):
        options = ["MODEL.WEIGHTS", tmp_path / "silent.pth", "MODEL.INIT.SOURCE", "torchvision"]
        search(config, tmp_path / "out", *OPTIONS[step], *options, *swapped)
    assert not (tmp_path / "out" / "ledger.sqlite").exists()


def search_and_die(config, folder, options, log, write):
    """In a process of its own: search, and write down how many architectures are evaluated.

    Args:
        write: at which it kills itself; 0 for none.
    """
    evaluate = ArchitectureEvaluator.evaluate

    def logged(self, codes, *batches):
        finished = Ledger.read(folder / "ledger.sqlite").trials
        assert finished.keys().isdisjoint(codes)
        for trial in evaluate(self, codes, *batches):
            with log.open("a") as file:
                file.write("scored\n")
            yield trial

    ArchitectureEvaluator.evaluate = logged
    report.report_search = lambda *_: None
    torch.set_num_threads(1)
    die_at(write)
    search(config, folder, *options)


def test_killed_at_any_write_it_ends_with_the_same_bytes(whole, step, config):
    """And evaluates nothing that was finished."""
    folder, log = config.parent / "killed", config.parent / "evaluated.txt"
    options = [*OPTIONS[step], "SEARCH.GROUP_SIZE", 2]
    for write in (*KILLED_AT, 0):
        child = clean_forks.Process(
            target=search_and_die, args=(config, folder, options, log, write)
        )
        child.start()
        child.join(HANGS_S)
        assert child.exitcode == (-signal.SIGKILL if write else 0)
    for name in ("result.json", "architecture.yaml"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()
    one, other = (Ledger.read(f / "ledger.sqlite").trials for f in (folder, whole))
    assert one == other
    evaluated = len(log.read_text().split())
    assert len(other) <= evaluated <= len(other) + len(KILLED_AT)


def test_two_processes_find_the_same_digits(whole, step, config):
    folder = config.parent / "two"
    printed = in_two_processes(config, folder, *OPTIONS[step])
    assert (folder / "result.json").read_bytes() == (whole / "result.json").read_bytes()
    one, other = (Ledger.read(f / "ledger.sqlite").trials for f in (folder, whole))
    assert one == other
    for ranking in result_of(folder)["rankings"].values():
        assert f" {ranking['best']} " in printed


def test_a_second_search_in_a_folder_is_refused(step, config, tmp_path, hold):
    output = tmp_path / "output"
    first = hold(output)
    message = f"{output} is being written by process {first.pid} on"
    with pytest.raises(BlockingIOError, match=message):
        search(config, output, *OPTIONS[step])
    with pytest.raises(BlockingIOError, match=message):  # also one that began at the same time
        run_search(load(config, "OUTPUT_DIR", output, *OPTIONS[step]))
    assert os.listdir(output) == [".lock"]


def test_another_search_on_the_same_ledger_is_refused(whole, step, config):
    for key, value in (("SEARCH.SEED", 1), ("INPUT.MIN_SIZE_TEST", 48)):
        with pytest.raises(LedgerError, match=rf"{key}: .* there, .*{value}.* now"):
            search(config, whole, *OPTIONS[step], key, value)
    replaced = config.parent / "replaced.pth"
    weights = read_config(str(config)).MODEL.WEIGHTS
    data = torch.load(weights, weights_only=True)
    next(iter(data["model"].values())).mul_(1.01)
    torch.save(data, replaced)
    with pytest.raises(LedgerError, match="\n  weights: .* there, .* now"):
        search(config, whole, *OPTIONS[step], "MODEL.WEIGHTS", replaced)


def test_what_does_not_change_an_ap_may_change(whole, step, config, monkeypatch):
    """A new budget evaluates what is new in it alone."""
    folder = config.parent / "changed"
    shutil.copytree(whole, folder)
    seen = []
    evaluate = ArchitectureEvaluator.evaluate
    monkeypatch.setattr(
        ArchitectureEvaluator,
        "evaluate",
        lambda s, codes, *b: seen.extend(codes) or evaluate(s, codes, *b),
    )
    if step == "stage":
        more = ["SEARCH.GROUP_SIZE", 3, "SEARCH.RESAMPLES", 0]
        search(config, folder, "SEARCH.BUDGETS", "[6, 9]", *more)
        assert seen == [(2, 2, 3, 2)]
        level = [ranking["undistinguished"] for ranking in result_of(folder)["rankings"].values()]
        assert level == [result_of(whole)["rankings"]["6"]["undistinguished"], None]
        assert list(result_of(folder)["rankings"]) == ["6", "9"]
    else:
        known = Ledger.read(whole / "ledger.sqlite").trials
        search(config, folder, "SEARCH.SURVIVORS", 1)
        assert len(seen) <= 9 and known.keys().isdisjoint(seen)
        assert result_of(folder)["counts"]["done"] == 3 * 5


@pytest.mark.parametrize("strategy", ["random", "evolutionary"])
@pytest.mark.parametrize("step", ["dilation"], indirect=True, scope="module")
def test_other_strategies(config, strategy, tmp_path):
    folder = config.parent / strategy
    root = generate(str(tmp_path / "digits"), DigitsRecipe(num_scenes=(3, 2), num_crops=(1, 1)))
    entries = [
        [f"{strategy}_{split}", f"{root}/annotations/instances_{split}.json", f"{root}/{split}"]
        for split in ("train", "val")
    ]
    (tmp_path / "few_digits.yaml").write_text(
        f'_BASE_: "{configs_dir()}/Digits/faster_rcnn_R_18_FPN.yaml"\n'
        f"DATASETS: {{COCO_JSON: {entries}, TRAIN: [{strategy}_train], TEST: [{strategy}_val]}}\n"
    )
    options = ["SEARCH.STRATEGY", strategy, "SEARCH.EVALUATIONS", 6]
    search(config, folder, *options, "SEARCH.FINAL", tmp_path / "few_digits.yaml")
    result = result_of(folder)
    assert result["counts"]["done"] == 6 and result["survivors"] == []
    final = read_config(str(folder / "final.yaml"))
    assert "-".join(map(str, final.MODEL.CR.OPERATION_CODE)) == result["rankings"]["all"]["best"]
    assert final.DATASETS.TRAIN == (f"{strategy}_train",)
    assert final.MODEL.CLASS_NAMES == list("0123456789") and final.MODEL.WEIGHTS == ""


def test_the_final_detector_has_what_the_search_was_told(whole, step, config):
    """But not what is the supernet's."""
    cfg = read_config(str(config))
    source = cfg.DATASETS.COCO_JSON[0][0]
    (config.parent / "detector.yaml").write_text(
        f'_BASE_: "{config.name}"\n'
        'MODEL: {WEIGHTS: "", BACKBONE: {NAME: "build_cr_fpn_backbone"}}\n'
        f'DATASETS: {{COCO_JSON: [], TRAIN: ["{source}"], TEST: []}}\n'
    )
    folder = config.parent / "told"
    shutil.copytree(whole, folder)
    options = ["SEARCH.FINAL", "detector.yaml", "SOLVER.MAX_ITER", 77]
    search(config, folder, *OPTIONS[step], "MODEL.WEIGHTS", cfg.MODEL.WEIGHTS, *options)
    final = read_config(str(folder / "final.yaml"))
    found = result_of(folder)["architecture"]
    assert final.MODEL.CR.STAGE_CODE == found["stage_code"]
    assert final.MODEL.CR.OPERATION_CODE == found["operation_code"]
    assert final.SOLVER.MAX_ITER == 77 and final.MODEL.WEIGHTS == ""
    assert final.MODEL.BACKBONE.NAME == "build_cr_fpn_backbone"
    assert final.MODEL.CLASS_NAMES == ["red", "blue"] and final.MODEL.ROI_HEADS.NUM_CLASSES == 2
    assert final.DATASETS.COCO_JSON == cfg.DATASETS.COCO_JSON
    assert final.DATASETS.TRAIN == (source,) and final.DATASETS.TEST == ()


def test_another_metric_goes_on_with_the_ledger(whole, step, config, monkeypatch):
    """What was evaluated is ranked by it; the greedy search may have others to evaluate."""
    folder = config.parent / "corrected"
    shutil.copytree(whole, folder)
    before = Ledger.read(folder / "ledger.sqlite").trials
    if step == "stage":
        fail = lambda _, codes, *b: pytest.fail("evaluated again") if codes else []
        monkeypatch.setattr(ArchitectureEvaluator, "evaluate", fail)
    search(config, folder, *OPTIONS[step], "SEARCH.METRIC", "bbox/AP50")
    after = Ledger.read(folder / "ledger.sqlite").trials
    assert {code: after[code] for code in before} == before
    result = result_of(folder)
    assert result["metric"] == "bbox/AP50"
    scores = {"-".join(map(str, code)): e.metrics["bbox/AP50"] for code, e in after.items()}
    for ranking in result["rankings"].values():
        assert all(scores[code] == score for code, score in ranking["ranking"])
        assert ranking["ranking"][0][1] == max(score for _, score in ranking["ranking"])


def test_files_of_the_user_are_left_alone(step, config, whole, tmp_path):
    for name in ("architecture.yaml", "final.yaml", "result.json", "config.yaml"):
        path = tmp_path / name.split(".")[0] / name
        path.parent.mkdir()
        path.write_text("MINE: True\n")
        with pytest.raises(ValueError, match=f"{path}; there is one already"):
            search(config, path.parent, *OPTIONS[step])
        assert [p.read_text() for p in path.parent.iterdir()] == ["MINE: True\n"]
    shutil.copy(config, tmp_path / "final" / "final.yaml")
    with pytest.raises(ValueError, match=f"{tmp_path}/final/final.yaml is read from there"):
        search(tmp_path / "final" / "final.yaml", tmp_path / "final", *OPTIONS[step])
    again = tmp_path / "again"
    shutil.copytree(whole, again)
    os.remove(again / "ledger.sqlite")  # to start over
    search(config, again, *OPTIONS[step])
    assert (again / "result.json").read_bytes() == (whole / "result.json").read_bytes()


def test_faults_are_told_before_any_work(step, config, tmp_path):
    with pytest.raises(FileNotFoundError, match="SEARCH.FINAL is 'nowhere.yaml'"):
        search(config, tmp_path / "out", "SEARCH.FINAL", "nowhere.yaml")
    with pytest.raises(FileNotFoundError, match="no such file"):
        search(config, tmp_path / "out", "MODEL.WEIGHTS", tmp_path / "none.pth")
    with pytest.raises(ValueError, match="expected the builder of a supernet"):
        search(config, tmp_path / "out", "MODEL.BACKBONE.NAME", "build_cr_fpn_backbone")
    assert not (tmp_path / "out" / "ledger.sqlite").exists()
