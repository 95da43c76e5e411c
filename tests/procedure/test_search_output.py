"""What search_net.py shows of a whole procedure, in a pipe and on a terminal."""

import contextlib
import os
import pty
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hanging import HANGS_S
from tiny_search import STEPS, write_recipe
from warm_python import environment_of_tests, warm_python

import search_net

# With it, the page is made at the end alone
REDUCED = Path(__file__).resolve().parents[1] / "docs" / "reduced.py"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return write_recipe(tmp_path_factory.mktemp("output"))


def command(recipe, folder):
    return [search_net.__file__, "--config-file", recipe, "OUTPUT_DIR", folder]


@pytest.fixture(scope="module")
def piped(recipe):
    """Folder of a procedure, and what it printed into a pipe."""
    folder = recipe.parent / "piped"
    run = subprocess.run(
        list(map(str, [sys.executable, *command(recipe, folder)])),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment_of_tests(),
        cwd=recipe.parent,
        text=True,
        timeout=HANGS_S,
    )
    assert run.returncode == 0, run.stdout
    return folder, run.stdout


def test_a_pipe_gets_few_plain_lines(piped):
    _, text = piped
    # At most one line in half a minute is of the progress; how many, the machine decides.
    lines = [line for line in text.splitlines() if "] step " not in line]
    assert len(lines) <= 90, text
    assert "\x1b" not in text and "\r" not in text
    assert "Deprecat" not in text and "FutureWarning" not in text and "UserWarning" not in text
    warnings = [line.partition("WARNING ")[2] for line in lines if "WARN" in line]
    beginnings = ["1 of 7 images of archval have ", "Category ids in annotations ar"]
    assert [warning[:30] for warning in warnings] == beginnings
    for number, step in enumerate(STEPS, start=1):
        for event in ("begins", "took"):
            (line,) = [li for li in lines if f"Step {number} of 7, {step}: {event}" in li]
    assert "found " in text and "baseline " in text


def test_each_log_has_all_of_its_step_once(piped):
    folder, _ = piped
    for step in STEPS:
        log = (folder / step / "log.txt").read_text()
        assert "\x1b" not in log
        model = "ImageClassifier" if step == "stage_pretraining" else "GeneralizedRCNN"
        for text in ("Running with full config", "Environment info", f"\n{model}("):
            assert log.count(text) == 1, (step, text)
        assert f"  NAME: {'build_cr' if step in ('final', 'baseline') else 'build_'}" in log
        searches = step.endswith("_search")
        assert ("total_loss: " in log) is not searches
        assert (" evaluated, leader " in log) is searches
        scored = 1 if step in ("final", "baseline") else 0
        assert log.count(" Average Recall     (AR) @[ IoU=0.50:0.95 | area= large ") == scored


def run_on_a_terminal(arguments, cwd):
    """Returns the exit code, and what the terminal received."""
    ours, theirs = pty.openpty()
    process = warm_python().start(
        arguments,
        *(theirs, theirs, theirs),
        cwd=cwd,
        environment={**environment_of_tests(), "COLUMNS": "140"},
        prelude=REDUCED,
    )
    os.close(theirs)
    received = b""
    with contextlib.suppress(OSError):  # as Linux tells that the other side is closed
        while block := os.read(ours, 1 << 16):
            received += block
    os.close(ours)
    return process.wait(), received.decode()


def test_a_terminal_has_one_live_line(piped, recipe):
    """Of the step, and of the whole."""
    folder = recipe.parent / "terminal"
    shutil.copytree(piped[0], folder)
    open_steps = ["operation_search", "baseline", "final"]
    for step in open_steps:
        shutil.rmtree(folder / step)
    code, text = run_on_a_terminal(command(recipe, folder), recipe.parent)
    assert code == 0, text
    drawn = [line for line in text.split("\r") if line.startswith("step ")]
    times = r"\d:\d\d:\d\d left \(all ~\d:\d\d:\d\d\), [\d.e+]+ images/s"
    for number, step in zip((5, 6, 7), open_steps):
        of_step = [line for line in drawn if line.startswith(f"step {number} of 7, {step}: ")]
        assert of_step[0].endswith(": begins")
        unit = r"architecture \d+ of 39" if step.endswith("search") else r"iteration \d of 6"
        detail = r"leader [\d-]+ [\d.]+" if step.endswith("search") else r"loss [\d.]+"
        assert any(re.search(f"{unit}, {times}, {detail}", line) for line in of_step), of_step
    assert text.count("\n") <= 80
    assert all(len(line) < 140 for line in drawn)
    for step in open_steps:
        assert "\x1b" not in (folder / step / "log.txt").read_text()
