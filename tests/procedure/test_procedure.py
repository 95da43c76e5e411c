"""The whole procedure of section 3.3 from one recipe, on a tiny dataset."""

import contextlib
import json
import math
import shutil

import pytest
import torch
import yaml
from tiny_search import STEPS, write_recipe
from torchvision.models import mobilenet_v2, resnet50

from crnas_d2 import ARCHITECTURES, get_config
from crnas_d2.analysis import analyze_detector
from crnas_d2.commands import search as search_command
from crnas_d2.commands import train as train_command
from crnas_d2.config import configs_dir, get_architecture, read_config
from crnas_d2.engine import CRTrainer
from crnas_d2.procedure import Procedure, Recipe, is_recipe
from crnas_d2.procedure.dry_run import examine_recipe
from crnas_d2.procedure.networks import Network, Training, compare
from crnas_d2.procedure.overview import describe, overview
from crnas_d2.procedure.search_extent import get_space
from crnas_d2.procedure.state import StepState
from crnas_d2.procedure.steps import plan

from detectron2.engine import default_argument_parser
from detectron2.utils import comm


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """Path of a recipe."""
    return write_recipe(tmp_path_factory.mktemp("procedure"))


@pytest.fixture(scope="module")
def output(recipe):
    """Folder of the whole procedure, and what it has printed."""
    folder = recipe.parent / "whole"
    return folder, run(recipe, folder)


def run(recipe, folder, *opts):
    return Procedure(Recipe(str(recipe), ["OUTPUT_DIR", str(folder), *map(str, opts)])).run()


def test_products_of_the_steps(output):
    folder, _ = output
    products = {"architecture.yaml", "final.yaml", "near_copies.csv", "result.json", "README.md"}
    assert {path.name for path in folder.iterdir()} == {".lock", *STEPS, *products}
    stage = json.loads((folder / "stage_search/result.json").read_text())["architecture"]
    found = json.loads((folder / "operation_search/result.json").read_text())["architecture"]
    assert sum(stage["stage_code"]) == 5 and found["stage_code"] == stage["stage_code"]
    assert yaml.safe_load((folder / "architecture.yaml").read_text()) == {
        "MODEL": {
            "CR": {
                "STAGE_CODE": found["stage_code"],
                "OPERATION_CODE": found["operation_code"],
            }
        }
    }
    for step, codes in (
        ("dilation_supernet", (stage["stage_code"], stage["operation_code"])),
        ("final", (found["stage_code"], found["operation_code"])),
        ("baseline", ([1, 1, 2, 1], [])),
    ):
        cfg = read_config(str(folder / step / "config.yaml"))
        assert (list(cfg.MODEL.CR.STAGE_CODE), list(cfg.MODEL.CR.OPERATION_CODE)) == codes
        assert cfg.SOLVER.MAX_ITER == 6
    for step in ("stage_supernet", "stage_search", "operation_search"):
        cfg = read_config(str(folder / step / "config.yaml"))
        before = {"stage_supernet": "stage_pretraining", "stage_search": "stage_supernet"}
        weights = folder / before.get(step, "dilation_supernet") / "model_final.pth"
        assert cfg.MODEL.WEIGHTS == str(weights)


def test_each_log_has_its_step_alone(output):
    folder, _ = output
    for step in STEPS:
        text = (folder / step / "log.txt").read_text()
        assert text.count("Full config saved to") == 1
        assert f"Full config saved to {folder / step}" in text


def test_table(output):
    folder, table = output
    assert max(map(len, table.splitlines())) <= 100
    *_, codes, numbers = table.split("\n\n")
    assert codes.splitlines()[0].split() == ["baseline", "stage", "code", "1-1-2-1"]
    results = [json.loads((folder / s / "step.json").read_text()) for s in ("baseline", "final")]
    header, _, *rows = ([c.strip() for c in row.split("|")[1:-1]] for row in numbers.splitlines())
    assert header == ["", "baseline", "found", "difference"]
    rows = {n: [math.nan if v == "-" else float(v) for v in values] for n, *values in rows}
    assert rows.keys() == {
        *(f"bbox {name}" for name in ("AP", "AP50", "AP75", "APs", "APm", "APl")),
        *("GMACs", "M parameters"),
    }
    one, other = (result["results"]["bbox"]["AP50"] for result in results)
    assert rows["bbox AP50"] == pytest.approx([one, other, other - one], abs=0.0051)
    cost = analyze_detector(read_config(str(folder / "final" / "config.yaml")))
    assert rows["GMACs"][1] == pytest.approx(cost.macs / 1e9, abs=0.0051)


def test_the_table_of_the_deepest_network_fits_a_terminal():
    cfgs = [
        get_config(f"COCO-Detection/faster_rcnn_{name}_FPN_1x.yaml")
        for name in ("R_101", "CR_R_101")
    ]
    results = {task: {"AP": 41.23, "AP50": 60.0, "AP-person": 50.0} for task in ("bbox", "segm")}
    trainings = [Training(1, "folder", results)]
    networks = [Network(n, cfg, trainings) for n, cfg in zip(("baseline", "found"), cfgs)]
    table = compare(*networks)
    assert max(map(len, table.splitlines())) <= 100
    assert "-".join(map(str, cfgs[1].MODEL.CR.OPERATION_CODE)) in table


def test_final_config_is_taken_by_train_net(output, recipe):
    folder, _ = output
    opts = ["OUTPUT_DIR", folder.parent / "again"]
    args = ["--eval-only", "--config-file", folder / "final.yaml", *opts]
    results = train_command.train(default_argument_parser().parse_args(list(map(str, args))))
    taken = "baseline"  # as one seed does not show that what was found is better
    assert get_architecture(read_config(str(folder / "final.yaml"))) == get_architecture(
        read_config(str(folder / taken / "config.yaml"))
    )
    expected = json.loads((folder / taken / "step.json").read_text())["results"]["bbox"]
    expected = {name: math.nan if ap is None else ap for name, ap in expected.items()}
    assert results["bbox"] == pytest.approx(expected, nan_ok=True, abs=1e-9)


def test_done_steps_are_not_run_again(output, recipe, monkeypatch):
    folder, table = output
    monkeypatch.setattr(CRTrainer, "train", lambda self: pytest.fail("trained again"))
    monkeypatch.setattr(
        "crnas_d2.procedure.procedure.run_search", lambda *_: pytest.fail("searched")
    )
    written = []
    monkeypatch.setattr(
        "crnas_d2.procedure.products.write_architecture", lambda _, found: written.append(found)
    )
    free = ["DATALOADER.NUM_WORKERS", 1, "SOLVER.CHECKPOINT_PERIOD", 3]
    assert run(recipe, folder, *free) == table
    found = json.loads((folder / "operation_search/result.json").read_text())["architecture"]
    assert [vars(architecture) for architecture in written] == [
        {name: tuple(code) for name, code in found.items()}
    ]


def test_stopped_in_any_step_it_goes_on(output, recipe, monkeypatch):
    """And gives the same weights and the same results."""
    whole, table = output
    folder = recipe.parent / "stopped"
    begin = Procedure._run
    stops = ["stage_supernet", "stage_search", "operation_search", "final"]
    ran = []

    def stop(self, step):
        ran.append(step.name)
        if step.name in stops:
            stops.remove(step.name)
            if step.searches:
                raise KeyboardInterrupt
            monkeypatch.setattr(CRTrainer, "after_step", stop_at_the_third)
        begin(self, step)

    def stop_at_the_third(self):
        after_step(self)
        if self.iter == 2:
            monkeypatch.setattr(CRTrainer, "after_step", after_step)
            self.checkpointer.save("model_0000002", iteration=2)
            raise KeyboardInterrupt

    after_step = CRTrainer.after_step
    monkeypatch.setattr(Procedure, "_run", stop)
    for _ in range(4):
        with pytest.raises(KeyboardInterrupt):
            run(recipe, folder)
    assert run(recipe, folder) == table
    assert len(ran) == len(STEPS) + 4
    for step in ("stage_supernet", "dilation_supernet", "final"):
        one, other = (
            torch.load(f / step / "model_final.pth", weights_only=True)["model"]
            for f in (folder, whole)
        )
        assert all(torch.equal(one[key], other[key]) for key in other)
    for step in ("stage_search", "operation_search"):
        one, other = ((f / step / "result.json").read_bytes() for f in (folder, whole))
        assert one == other


def test_a_changed_config_is_refused(output, recipe):
    folder = recipe.parent / "changed"
    shutil.copytree(output[0], folder)
    with pytest.raises(
        ValueError, match="stage_pretraining was .*\n  SOLVER.BASE_LR: 0.04 there, 0.03 now"
    ):
        run(recipe, folder, "SOLVER.BASE_LR", 0.03)
    for _ in range(2):
        with pytest.raises(ValueError, match="SEARCH.SEED: .*0.* there, .*5.* now"):
            run(recipe, folder, "SEARCH.SEED", 5)
    before = read_state(folder, "stage_pretraining")
    with pytest.raises(  # a training would be tested again, the searches behind it are others
        ValueError, match="stage_search was .*\n  TEST.DETECTIONS_PER_IMAGE: 100 there, 7 now"
    ):
        run(recipe, folder, "TEST.DETECTIONS_PER_IMAGE", 7)
    assert read_state(folder, "stage_pretraining") == before
    assert run(recipe, folder) == output[1]


@pytest.fixture
def told(monkeypatch):
    """What is logged of the steps."""
    told = []
    for level in ("info", "warning"):
        monkeypatch.setattr(f"crnas_d2.procedure.procedure.logger.{level}", told.append)
        monkeypatch.setattr(f"crnas_d2.procedure.outputs.logger.{level}", told.append)
    return told


def read_state(folder, step):
    return json.loads((folder / step / "step.json").read_text())


@contextlib.contextmanager
def one_annotation_less(path):
    text = path.read_text()
    coco = json.loads(text)
    coco["annotations"].pop()
    path.write_text(json.dumps(coco))
    yield
    path.write_text(text)


def test_changed_data_are_refused_or_tested_again(output, recipe, told):
    folder = recipe.parent / "other_data"
    shutil.copytree(output[0], folder)
    with one_annotation_less(recipe.parent / "data" / "annotations.json"):
        with pytest.raises(ValueError, match="was begun with other values:\n  annotations of "):
            run(recipe, folder)
    before = read_state(folder, "final")
    with one_annotation_less(recipe.parent / "data" / "val" / "annotations.json"):
        run(recipe, folder)
    assert any("final: ends again: annotations of " in line for line in told)
    assert any("stage_supernet: done already" in line for line in told)
    after = read_state(folder, "final")
    assert after["products"] == before["products"]
    assert after["identity"]["work"] == before["identity"]["work"]
    assert after["identity"]["verdict"] != before["identity"]["verdict"]


def test_products_that_are_gone_or_changed_are_made_again(output, recipe, told):
    folder = recipe.parent / "gone"
    shutil.copytree(output[0], folder)
    (folder / "stage_search/result.json").unlink()
    (folder / "operation_search/architecture.yaml").unlink()
    changed = folder / "final/model_final.pth"
    content = torch.load(changed)
    next(iter(content["model"].values())).add_(1)
    torch.save(content, changed)
    written = changed.read_bytes()
    assert run(recipe, folder) == output[1]
    assert changed.with_name("model_final.pth.changed").read_bytes() == written
    for step, name, why in (
        ("stage_search", "result.json", "is not there any more"),
        ("operation_search", "architecture.yaml", "is not there any more"),
        ("final", "model_final.pth", "was changed"),
    ):
        assert any(f"{step}: runs again: {name} {why}" in line for line in told)
        assert read_state(folder, step)["products"] == read_state(output[0], step)["products"]
    assert any("dilation_supernet: done already" in line for line in told)


def test_a_report_that_fails_ends_nothing(output, recipe, told):
    def report(changed):
        raise KeyError("figure")

    procedure = Procedure(Recipe(str(recipe), ["OUTPUT_DIR", str(output[0])]))
    assert procedure.run(report) == output[1]
    assert told[-1] == "The report was not made: KeyError: 'figure'"


def test_the_main_process_alone_looks_at_the_disk(output, recipe, monkeypatch):
    """Another one, which does not see the files yet, is told."""
    folder, _ = output
    told = Procedure(Recipe(str(recipe), ["OUTPUT_DIR", str(folder)])).look()
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    monkeypatch.setattr(comm, "all_gather", lambda own, group: [told, own])
    monkeypatch.setattr(StepState, "read", lambda folder: pytest.fail("read"))
    assert run(recipe, folder) is told  # as all that the main process decides


def test_faults_of_a_later_step_are_told_before_the_first(recipe, tmp_path):
    for key, value, message in (
        ("SEARCH.FINAL", "nowhere.yaml", "recipe.yaml: SEARCH.FINAL is 'nowhere.yaml'"),
        ("SEARCH.BN.MODE", "other", "SEARCH.BN.MODE is 'other'"),
        ("SEARCH.METRIC", "bbox/ap", "SEARCH.METRIC is 'bbox/ap'; expected one of bbox/AP, "),
        ("DATASETS.ARCHVAL.SIZE", 12, "more than DATASETS.ARCHVAL.SIZE, which is 12"),
        ("MODEL.BACKBONE.FREEZE_AT", 2, "MODEL.BACKBONE.FREEZE_AT is 2"),
        ("TEST.AUG.ENABLED", True, "TEST.AUG.ENABLED is True; expected False for"),
        ("TEST.BEST_METRIC", "bbox/AP", "TEST.BEST_METRIC is 'bbox/AP' and TEST.EVAL_PERIOD 0"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            run(recipe, tmp_path / "out", key, value)
        assert not (tmp_path / "out").exists()


def test_final_detectors_inherit_from_the_supernets(output, recipe):
    folder = recipe.parent / "inherited"
    shutil.copytree(output[0], folder, ignore=shutil.ignore_patterns("final", "baseline"))
    run(recipe, folder, "SEARCH.RECIPE.INHERIT", True)
    for step, supernet in (("final", "dilation_supernet"), ("baseline", "stage_supernet")):
        text = (folder / step / "log.txt").read_text()
        assert (
            f"{supernet}/model_final.pth is of a supernet: loading the weights of its path" in text
        )
        assert "Starting at iteration 0 of 6 from weights" in text
    with pytest.raises(ValueError, match="INHERIT is True and STAGE_SUPERNET is empty"):
        run(recipe, folder, "SEARCH.RECIPE.INHERIT", True, "SEARCH.RECIPE.STAGE_SUPERNET", "")


def test_dry_run(recipe, output, capsys):
    assert is_recipe(read_config(str(recipe)))
    steps, parts = describe(Procedure(Recipe(str(recipe)))).split("\n\n")
    *table, limits = steps.splitlines()[2:]
    assert limits == "4 of 24 stage codes cost 5 weighted blocks"
    assert [row.split()[0] for row in table] == STEPS
    rows = dict(zip(STEPS, table))
    assert "6 iterations x 2 images " in rows["stage_supernet"]
    assert " 12 forward and backward " in rows["stage_supernet"]
    assert (
        "4 architectures x 7 images " in rows["stage_search"]
        and " 28 forward " in rows["stage_search"]
    )
    assert f"{3 + 9 * 4} architectures x 7 images " in rows["operation_search"]
    assert all(row.endswith(" open") for row in table)
    *parts, copies = parts.splitlines()
    assert copies.startswith("1 of 7 images of archval have a near-copy in archtrain; ")
    assert [row.split() for row in parts[3:]] == [
        ["red", *"557744"],
        ["blue", *"557744"],
        ["all", "5", "10", "7", "14", "4", "8"],
    ]
    again = describe(Procedure(Recipe(str(recipe), ["OUTPUT_DIR", str(output[0])])))
    assert all(row.endswith(" done") for row in again.split("\n\n")[0].splitlines()[2:-1])


def test_counts_are_those_of_an_archval_of_whole_groups(tmp_path):
    """Of 4, 5 and 3 images; the nearest to 6 are 5 and 7, of which the smaller is taken."""
    recipe = write_recipe(tmp_path)
    path = tmp_path / "data/annotations.json"
    coco = json.loads(path.read_text())
    for image in coco["images"]:
        image["video"] = "abbcccaaabbb"[image["id"] - 1]
    path.write_text(json.dumps(coco))
    opts = ["DATASETS.ARCHVAL.GROUP_KEY", "video", "DATASETS.ARCHVAL.SIZE", "6"]
    procedure, found = examine_recipe(Recipe(str(recipe), opts))
    assert found.is_ready
    steps, parts = describe(procedure).split("\n\n")
    assert "4 architectures x 5 images " in steps and " 20 forward " in steps
    assert "archval has 5 images, as near to DATASETS.ARCHVAL.SIZE, 6, as" in parts
    works = {record.name: record.work for record in overview(procedure)}
    assert works["operation_search"].forward == 39 * 5
    assert not list((tmp_path / "data").glob("*_archval_*"))


@pytest.mark.parametrize(
    "name, network, stage_codes, evaluations",
    [
        ("R_18", "ResNet18", 9, 66),
        ("R_50", "ResNet50", 153, 138),
        ("R_101", "ResNet101", 374, 291),
        ("X_50_32x4d", "ResNeXt50", 153, 138),
        ("X_101_32x4d", "ResNeXt101", 374, 291),
        ("MNV2", "MobileNetV2", 43, 147),
    ],
)
def test_recipes_of_the_paper(name, network, stage_codes, evaluations):
    """The budget is the baseline's, and the numbers of architectures follow from sections 3.2 and
    3.3: 3 + 9 (B - 1) partial ones for B choice blocks."""
    recipe = Recipe(f"{configs_dir()}/Search/{name}.yaml")
    steps = {step.name: step for step in plan(recipe)}
    assert len(steps) == 10
    final = recipe.config(recipe.names["FINAL"])
    assert tuple(final.MODEL.CR.STAGE_CODE) == ARCHITECTURES[network].stage_code
    rows = describe(Procedure(recipe)).splitlines()
    assert f" {stage_codes} architectures x 5,000 images " in rows[4]
    assert f" {evaluations} architectures x 5,000 images " in rows[7]
    for step in ("stage_pretraining", "dilation_pretraining", "final_pretraining"):
        assert recipe.config(steps[step].config).MODEL.META_ARCHITECTURE == "ImageClassifier"
    for step in ("stage_supernet", "dilation_supernet", "final"):
        cfg = recipe.config(steps[step].config)
        for key in ("FAMILY", "BLOCK", "WIDTH_MULTIPLIER"):
            assert cfg.MODEL.CR[key] == final.MODEL.CR[key]


@pytest.mark.parametrize("name", ["R_50_101", "X_50_101_32x4d"])
def test_one_recipe_for_two_budgets_of_the_paper(name):
    """One stage supernet; each budget has a published network as its baseline."""
    recipe = Recipe(f"{configs_dir()}/Search/{name}.yaml")
    procedure = Procedure(recipe)
    steps = [step.name for step in procedure.steps]
    shared = ["stage_pretraining", "stage_supernet", "stage_search"]
    own = ["dilation_pretraining", "dilation_supernet", "operation_search", "final_pretraining"]
    assert steps[:3] == shared
    rows = {row.split()[0]: row for row in describe(procedure).splitlines() if row}
    for budget, network, evaluations in (("16", "ResNet50", 138), ("33", "ResNet101", 291)):
        searched = rows[f"budget_{budget}/operation_search"]
        assert f" {evaluations} architectures x 5,000 images " in searched
        assert {f"budget_{budget}/{step}" for step in (*own, "baseline", "final")} < set(steps)
        baseline = get_architecture(procedure.baseline(budget))
        assert baseline == ARCHITECTURES[network]


@pytest.mark.parametrize(
    "name, make, stage_codes, evaluations",
    [
        ("digits", None, 25, 66),
        ("own_data", None, 25, 66),
        ("own_data_MNV2", mobilenet_v2, 11, 147),
        ("own_data_R_50", resnet50, 13, 138),
    ],
)
def test_recipes_of_small_data(name, make, stage_codes, evaluations, tmp_path):
    opts = []
    if make:
        torch.save(make().state_dict(), tmp_path / "weights.pth")
        opts = ["SEARCH.RECIPE.SEED_WEIGHTS", str(tmp_path / "weights.pth")]
    recipe = Recipe(f"{configs_dir()}/Search/{name}.yaml", opts)
    rows = describe(Procedure(recipe))
    assert f" {stage_codes} architectures x " in rows
    assert f" {evaluations} architectures x " in rows
    assert "would freeze" not in rows
    architectures = [
        get_architecture(recipe.config(path)) for path in recipe.names.values() if path
    ]
    space = get_space(recipe.config(recipe.names["STAGE_SUPERNET"]))
    assert {space.cost(a.stage_code) for a in architectures} == set(recipe.cfg.SEARCH.BUDGETS)
    assert all(a.stage_code in space for a in architectures)


def test_search_net_prints_the_table(output, recipe, capsys):
    folder, table = output
    args = ["--config-file", str(recipe), "OUTPUT_DIR", str(folder)]
    args = default_argument_parser().parse_args(args)
    search_command.search(args)
    assert capsys.readouterr().out.rstrip().endswith(table)


def test_recipe_without_a_search(recipe):
    assert not is_recipe(get_config("Digits/faster_rcnn_R_18_FPN.yaml"))
    with pytest.raises(ValueError, match="STAGE_SUPERNET and DILATION_SUPERNET are empty"):
        plan(Recipe(str(recipe.parent / "final.yaml")))
