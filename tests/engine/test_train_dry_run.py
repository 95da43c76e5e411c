"""crnas train --dry-run makes all checks of a training, tells what they find, and ends."""

import json
import logging

import pytest
from on_disk import contents

from crnas_d2.commands import train as train_command
from crnas_d2.data.findings import Findings
from crnas_d2.engine.examination import Examination, NotYet
from crnas_d2.engine.terminal import LOGGERS

pytestmark = pytest.mark.usefixtures("catalogs")


@pytest.fixture
def dry_run(tiny_config, capsys):
    """Exit code, and what is printed; the folder of the config is as it was before."""

    def run(*opts):
        before = contents(tiny_config.parent)
        args = ["--config-file", str(tiny_config), "--dry-run", *map(str, opts)]
        code = 0
        try:
            train_command.main(args)
        except SystemExit as end:
            code = end.code
        assert contents(tiny_config.parent) == before
        return code, capsys.readouterr().out

    return run


def edit(config, change):
    path = config.parent / "data" / "annotations.json"
    coco = json.loads(path.read_text())
    change(coco)
    path.write_text(json.dumps(coco))
    return path


def test_ready(dry_run):
    code, said = dry_run()
    assert code == 0 and said.splitlines()[-1].startswith("Ready: ")
    assert "the results will be too good" in said  # the test set is the training set


def test_the_parts_of_a_training_set(dry_run, tiny_config):
    """They are drawn for the checks, and not left anywhere."""
    name = tiny_config.read_text().split('TRAIN: ["')[1].split('_train"')[0]
    parts = [f"('{name}_archtrain',)", f"('{name}_archval',)"]
    opts = ["DATASETS.TRAIN", parts[0], "DATASETS.TEST", parts[1]]
    assert dry_run(*opts, "DATASETS.ARCHVAL.SIZE", 2)[0] == 0
    code, said = dry_run(*opts, "DATASETS.ARCHVAL.SIZE", 6)
    assert code == 1 and "expected more than DATASETS.ARCHVAL.SIZE, which is 6" in said


def test_each_fault_once_with_its_place(dry_run, tiny_config):
    def change(coco):
        for index in (3, 5):
            coco["annotations"][index]["bbox"] = "none"
        coco["annotations"][7]["category_id"] = 99

    path = edit(tiny_config, change)
    opts = ["MODEL.WEIGHTS", "none.pth", "SOLVER.AMP.ENABLED", True]
    code, said = dry_run(*opts)
    head, *faults = said[said.index("To be mended") :].splitlines()
    assert code == 1 and head == "To be mended, 5 faults:" and len(faults) == 5
    for number in (4, 6, 8):
        assert sum(str(path) in f and f"annotation {number}" in f for f in faults) == 1
    assert any("SOLVER.AMP.ENABLED is True" in fault for fault in faults)
    assert any("MODEL.WEIGHTS 'none.pth': no such file" in fault for fault in faults)


def test_what_a_test_of_the_training_will_not_give(dry_run):
    code, said = dry_run("TEST.BEST_METRIC", "bbox/APx", "TEST.EVAL_PERIOD", 1)
    assert code == 1 and "TEST.BEST_METRIC is 'bbox/APx'; expected one of" in said


def test_evaluation_and_resumption(dry_run, tiny_config):
    code, said = dry_run("--eval-only")
    assert code == 1 and "MODEL.WEIGHTS is empty: there is nothing to evaluate" in said
    train_command.main(["--config-file", str(tiny_config)])
    for name in LOGGERS:  # a dry run is a process of its own
        logging.getLogger(name).handlers.clear()
    weights = tiny_config.parent / "output" / "model_final.pth"
    assert dry_run("--resume")[0] == 0
    assert dry_run("--eval-only", "MODEL.WEIGHTS", weights)[0] == 0
    for option in ("--resume", "--eval-only"):
        code, said = dry_run(
            option, *("MODEL.WEIGHTS", weights, "MODEL.CR.STAGE_CODE", "[1, 1, 1, 1]")
        )
        assert code == 1 and "MODEL.CR.STAGE_CODE" in said
    code, said = dry_run("MODEL.WEIGHTS", weights)
    assert code == 1 and "which lies in OUTPUT_DIR" in said


def test_an_examination_keeps_everything_once():
    found = Examination()
    findings = Findings("a.json")
    findings.error("image 3: no width")
    findings.warn("box of height 0, which is left out", "annotation 7")
    found.add([findings, findings])

    def warn_and_raise():
        for _ in range(2):
            logging.getLogger("crnas_d2.data").warning("near-copies: 3")
        findings.raise_errors()

    def fail(error):
        raise error

    assert found.check(warn_and_raise) is None
    assert found.check(lambda: 7) == 7
    found.check(fail, FileNotFoundError(2, "No such file", "b.json"))
    found.check(fail, NotYet("digits"))
    with pytest.raises(KeyError):  # a bug, no fault
        found.check(fail, KeyError("x"))
    assert found.describe().splitlines() == [
        "Warning: a.json: box of height 0, which is left out (annotation 7)",
        "Warning: near-copies: 3",
        "Not checked: digits",
        "To be mended, 2 faults:",
        "  a.json: image 3: no width",
        "  b.json: No such file",
    ]


def test_of_many_faults_of_a_dataset_the_first_are_told():
    found = Examination()
    found.add([Findings("a.json", [f"image {i}: no width" for i in range(250)])])
    assert len(found.faults) == 101
    assert found.faults[99:] == ["a.json: image 99: no width", "a.json: 150 faults more"]
