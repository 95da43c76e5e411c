"""A search whose budgets are milliseconds: measured before its first step, or read."""

import itertools
import json
import logging

import pytest
from tiny_search import write_recipe, write_search_config

from crnas_d2.analysis.latency import Latency
from crnas_d2.analysis.latency_table import LatencyTable
from crnas_d2.architecture import format_code
from crnas_d2.commands import latency as latency_command
from crnas_d2.commands import search as search_command
from crnas_d2.procedure import Procedure, Recipe, latency
from crnas_d2.procedure.dry_run import examine_recipe
from crnas_d2.procedure.overview import describe
from crnas_d2.procedure.search_extent import eligible_by_budget, get_space

from detectron2.engine import default_argument_parser

pytestmark = pytest.mark.usefixtures("catalogs")

CODES = list(itertools.product((1, 2), (1, 2), (1, 2, 3), (1, 2)))
BASELINE = (1, 1, 2, 1)
OPTIONS = ["SEARCH.RECIPE.STAGE_PRETRAINING", "", "SEARCH.RECIPE.DILATION_SUPERNET", ""]
OPTIONS += ["SEARCH.RECIPE.TRAIN_FINAL", False, "SEARCH.COST", "latency", "SEARCH.TOLERANCE", 0.05]
OPTIONS += ["SEARCH.BUDGETS", [33, 40]]


class Machine:
    """A device that takes a made time for each code."""

    def __init__(self):
        self.groups, self.breaks_after, self.slowness = [], None, 1.0

    def time(self, code):
        return 20.0 + sum(n * ms for n, ms in zip(code, (0.5, 1.1, 3.0, 5.3)))

    def __call__(self, cfgs, timing):
        if len(self.groups) == self.breaks_after:
            raise KeyboardInterrupt
        self.groups.append(list(cfgs))
        for code, cfg in cfgs.items():
            assert tuple(cfg.MODEL.CR.STAGE_CODE) == code and not any(cfg.MODEL.CR.OPERATION_CODE)
            assert cfg.MODEL.BACKBONE.NAME == "build_cr_fpn_backbone"
            assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 2  # as the data have
        times = {code: self.time(code) * self.slowness for code in cfgs}
        return {code: Latency(t, t - 1, t + 1, timing.runs) for code, t in times.items()}

    @property
    def measured(self):
        return [code for group in self.groups for code in group]

    def fitting(self, budget, tolerance=0.05):
        return [code for code in CODES if abs(self.time(code) - budget) <= tolerance * budget]


@pytest.fixture
def machine(monkeypatch):
    machine = Machine()
    monkeypatch.setattr(latency, "measure_latency", machine)
    return machine


@pytest.fixture
def recipe(tmp_path):
    return write_recipe(tmp_path / "recipe")


def made(recipe, *opts):
    return Recipe(str(recipe), list(map(str, [*OPTIONS, *opts])))


def run(recipe, *opts):
    return Procedure(made(recipe, *opts)).run()


def measure(recipe, *opts):
    """What a run begins with."""
    procedure = Procedure(made(recipe, *opts))
    procedure.look()
    procedure._measure_latencies()


def eligible(recipe, *opts):
    procedure = Procedure(made(recipe, *opts))
    return eligible_by_budget(procedure.config(procedure.searches[0]), procedure.final_config())


def search_folder(recipe):
    return recipe.parent / "data/output/stage_search"


def table_of(recipe):
    return LatencyTable.read(str(search_folder(recipe) / "latency.csv"))


def refused(recipe, *opts):
    """A run, and a dry run tells it, too. Returns the message."""
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        run(recipe, *opts)
    assert str(error.value) in examine_recipe(made(recipe, *opts))[1].faults
    return str(error.value)


def test_the_budgets_take_what_was_measured_and_nothing_is_measured_again(recipe, machine):
    run(recipe)
    assert sorted(machine.measured) == CODES and machine.measured[0] == BASELINE
    result = json.loads((search_folder(recipe) / "result.json").read_text())
    for budget, ranking in result["rankings"].items():
        fitting = {format_code(code) for code in machine.fitting(float(budget))}
        assert {code for code, _ in ranking["ranking"]} == fitting and len(fitting) > 1
    assert result["limits"]["unit"] == "ms"
    table = table_of(recipe)
    assert table.rows[2, 1, 3, 1] == Latency(36.4, 35.4, 37.4, 20)
    conditions = ("device", "torch", "threads", "runs", "SEARCH.COST_SIZE", "SEARCH.LATENCY.BATCH")
    assert set(conditions) <= table.conditions.keys()
    assert table.conditions["MODEL.ROI_HEADS.NUM_CLASSES"] == "2"

    procedure = Procedure(made(recipe))
    assert all(standing.done for standing in procedure.look().values())
    machine.breaks_after = 1
    procedure.run()
    (search_folder(recipe) / "step.json").unlink()  # the search goes on from its ledger
    run(recipe)
    assert len(machine.groups) == 1

    table.rows[1, 1, 1, 1] = Latency(33.0, 30.0, 34.0, 20)
    table.write(str(search_folder(recipe) / "latency.csv"))
    standing = Procedure(made(recipe)).look()["stage_search"]
    assert not standing.done and standing.trained and "latencies: " in standing.why
    assert "not there now" not in standing.why
    run(recipe)
    result = json.loads((search_folder(recipe) / "result.json").read_text())
    assert "1-1-1-1" in dict(result["rankings"]["33"]["ranking"])
    assert len(machine.groups) == 1


def test_no_code_fits_before_anything_is_trained(recipe, machine):
    message = r"SEARCH.BUDGETS is \[90\], in ms: budget 90: .*; the nearest costs are 42.8"
    with pytest.raises(ValueError, match=message):
        run(recipe, "SEARCH.BUDGETS", [90])
    folder = recipe.parent / "data/output"
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {"stage_search"}
    assert refused(recipe, "SEARCH.BUDGETS", [90]).startswith("SEARCH.BUDGETS is [90]")
    measure(recipe)  # with budgets that fit, and without measuring again
    assert len(machine.groups) == 1


def test_no_budget_is_the_baselines_latency(recipe, machine):
    measure(recipe, "SEARCH.BUDGETS", [])
    assert eligible(recipe, "SEARCH.BUDGETS", []) == {
        str(machine.time(BASELINE)): machine.fitting(machine.time(BASELINE))
    }


def test_a_dry_run_measures_nothing(recipe, machine):
    procedure, found = examine_recipe(made(recipe))
    assert found.is_ready
    table = describe(procedure)
    assert "Measured when the search begins: the latency of 24 stage codes" in table
    assert not machine.groups and not (recipe.parent / "data/output").exists()
    measure(recipe)
    procedure, found = examine_recipe(made(recipe))
    count = len(machine.fitting(33))
    assert found.is_ready
    assert f"{count} of 24 stage codes cost 31.35 to 34.65 ms" in describe(procedure)


def test_stopped_it_goes_on_with_the_next_group(recipe, machine, monkeypatch):
    monkeypatch.setattr(latency, "GROUP", 5)
    machine.breaks_after = 3
    with pytest.raises(KeyboardInterrupt):
        measure(recipe)
    assert len(table_of(recipe).rows) == 15
    machine.breaks_after = None
    measure(recipe)
    counts = {code: machine.measured.count(code) for code in machine.measured}
    assert counts.pop(BASELINE) == len(machine.groups) == 5
    assert set(counts.values()) == {1} and len(counts) == 23
    assert not all(group == sorted(group) for group in machine.groups)


def test_the_baseline_tells_how_the_machine_drifts(recipe, machine, monkeypatch, caplog):
    monkeypatch.setattr(latency, "GROUP", 12)
    time = machine.time

    def slower(code):
        return time(code) * (1 + 0.07 * (len(machine.groups) - 1))

    machine.time = slower
    measure(recipe)
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    drift = [text for text in warnings if text.startswith("The baseline takes")]
    assert drift == [
        "The baseline takes 35.2 ms, and took 32.9 ms in the first group (+7.0%)",
    ]
    rows = table_of(recipe).rows
    assert rows[BASELINE].median == time(BASELINE)
    assert all(row.median == pytest.approx(time(code)) for code, row in rows.items())
    assert all(row.upper >= row.median >= row.lower for row in rows.values())


@pytest.mark.parametrize(
    "opts, expected",
    [
        (["SEARCH.LATENCY.BATCH", 8], "SEARCH.LATENCY.BATCH: 1 there, 8 now"),
        (["SEARCH.LATENCY.PRECISION", "bfloat16"], "PRECISION: float32 there, bfloat16 now"),
        (["SEARCH.COST_SIZE", (64, 64)], "SEARCH.COST_SIZE: [800, 1088] there, [64, 64] now"),
        (["MODEL.FPN.OUT_CHANNELS", 24], "MODEL.FPN.OUT_CHANNELS: 16 there, 24 now"),
        (["MODEL.RPN.POST_NMS_TOPK_TEST", 1000], "POST_NMS_TOPK_TEST: 20 there, 1000 now"),
        (["TEST.DETECTIONS_PER_IMAGE", 10], "DETECTIONS_PER_IMAGE: 100 there, 10 now"),
    ],
)
def test_a_table_under_other_conditions_is_refused(recipe, machine, opts, expected):
    measure(recipe)
    message = refused(recipe, *opts)
    assert "latency.csv holds latencies under other conditions:" in message and expected in message
    assert len(machine.groups) == 1


def test_keys_of_trainings_alone_may_change(recipe, machine):
    measure(recipe)
    opts = ["MODEL.RPN.POST_NMS_TOPK_TRAIN", 30, "MODEL.RPN.LOSS_WEIGHT", 2.0, "MODEL.WEIGHTS", ""]
    measure(recipe, *opts, "MODEL.CR.ACTIVATION_CHECKPOINT", True)
    assert len(machine.groups) == 1


def test_codes_are_added_on_the_same_device_alone(recipe, machine, monkeypatch):
    monkeypatch.setattr(latency, "GROUP", 12)
    machine.breaks_after = 1
    with pytest.raises(KeyboardInterrupt):
        measure(recipe)
    machine.breaks_after = None
    here = latency.describe_device("cpu")
    monkeypatch.setattr(latency, "describe_device", lambda name: {**here, "threads": "64"})
    with pytest.raises(ValueError, match=f"threads: {here['threads']} there, 64 now"):
        measure(recipe)
    with pytest.raises(ValueError, match="runs: 20 there, 30 now"):
        measure(recipe, "SEARCH.LATENCY.RUNS", 30)
    monkeypatch.setattr(latency, "describe_device", lambda name: here)
    measure(recipe)
    monkeypatch.setattr(latency, "describe_device", lambda name: {**here, "device": "another"})
    measure(recipe, "SEARCH.LATENCY.RUNS", 30)  # all are there
    assert len(machine.groups) == 2


def test_a_table_of_another_device(recipe, machine, tmp_path, capsys):
    file = tmp_path / "jetson.csv"
    argv = ["--config-file", recipe, "--output", file, *OPTIONS, "MODEL.DEVICE", "cpu"]
    latency_command.main(list(map(str, argv)))
    out = capsys.readouterr().out
    assert f"{len(machine.fitting(40))} of 24 stage codes cost 38 to 42 ms" in out
    assert f"wrote {file}" in out
    text = file.read_text().splitlines()
    file.write_text("\n".join(["# device: another", *text[1:]]) + "\n")

    opts = ["SEARCH.LATENCY.FILE", file]
    measure(recipe, *opts)
    assert len(machine.groups) == 1 and not search_folder(recipe).exists()
    assert eligible(recipe, *opts)["33"] == machine.fitting(33)

    file.write_text("\n".join(["# device: another", *text[1:-2]]) + "\n")
    message = refused(recipe, *opts)
    assert "has not got the latency of 2 stage codes; go on with crnas latency" in message
    file.unlink()
    assert refused(recipe, *opts) == f"SEARCH.LATENCY.FILE is '{file}'; there is no such file"


def test_on_a_device_without_the_data(recipe, machine, tmp_path, capsys, monkeypatch):
    (recipe.parent / "data/annotations.json").unlink()
    monkeypatch.setattr(Machine, "__call__", lambda self, cfgs, timing: cfgs and self.look(cfgs))
    seen = set()

    def look(self, cfgs):
        seen.update(cfg.MODEL.ROI_HEADS.NUM_CLASSES for cfg in cfgs.values())
        return {code: Latency(self.time(code), 1.0, 99.0, 5) for code in cfgs}

    monkeypatch.setattr(Machine, "look", look, raising=False)
    file = tmp_path / "latency.csv"
    argv = ["--config-file", recipe, "--output", file, *OPTIONS, "MODEL.ROI_HEADS.NUM_CLASSES", 7]
    latency_command.main(list(map(str, argv)))
    assert seen == {7} and len(LatencyTable.read(str(file)).rows) == 24
    assert "The numbers of classes are those of the config" in capsys.readouterr().out


def test_measured_in_earnest(recipe):
    opts = ["SEARCH.COST_SIZE", (64, 64), "SEARCH.LATENCY.RUNS", 3, "SEARCH.LATENCY.WARM_UP", 1]
    measure(recipe, *opts, "SEARCH.BUDGETS", [])
    rows = table_of(recipe).rows
    assert sorted(rows) == CODES and {latency.runs for latency in rows.values()} == {3}
    (codes,) = eligible(recipe, *opts, "SEARCH.BUDGETS", []).values()
    assert BASELINE in codes


def test_a_search_without_a_recipe(tmp_path, machine, without_report):
    config = write_search_config(tmp_path / "search", "stage")
    opts = [*OPTIONS[6:], "OUTPUT_DIR", tmp_path / "output"]
    args = default_argument_parser().parse_args(["--config-file", str(config), *map(str, opts)])
    args.eval_only = True
    for _ in range(2):
        search_command.search_supernet(args)
        result = json.loads((tmp_path / "output/result.json").read_text())
        assert len(result["rankings"]["33"]["ranking"]) == len(machine.fitting(33))
    assert len(machine.groups) == 1 and (tmp_path / "output/latency.csv").exists()


def test_a_table_that_another_machine_sees_late(recipe, machine, monkeypatch):
    """What it was before is there all along."""
    measure(recipe)
    procedure = Procedure(made(recipe))
    cfg = procedure.config(procedure.searches[0])
    whole = table_of(recipe)
    part = LatencyTable(whole.conditions, {BASELINE: whole.rows[BASELINE]})
    path, waited = str(search_folder(recipe) / "latency.csv"), []
    part.write(path)

    def wait(seconds):
        waited.append(seconds)
        if len(waited) == 3:
            whole.write(path)

    monkeypatch.setattr(latency.time, "sleep", wait)
    latency._wait_for_latencies(cfg, get_space(cfg))
    assert len(waited) == 3


def test_no_two_latencies_are_equal(recipe, machine):
    message = refused(recipe, "SEARCH.TOLERANCE", 0.0)
    assert message.startswith("SEARCH.TOLERANCE is 0.0; expected more, as SEARCH.COST is 'latency'")
    opts = ["SEARCH.TOLERANCE", 0.0, "SEARCH.BUDGET_IS", "at_most", "SEARCH.BUDGETS", [31]]
    measure(recipe, *opts)
    assert eligible(recipe, *opts) == {"31": [c for c in CODES if machine.time(c) <= 31]}
