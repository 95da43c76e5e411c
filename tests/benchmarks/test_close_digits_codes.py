"""The trainings by which a supernet of close_digits is judged: complete, and of the config that is there."""

import argparse
import csv
import re
import runpy
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"
RUNS = BENCHMARKS / "close_digits_codes.csv"
SEEDS = [1, 2, 3]


@pytest.fixture(scope="module")
def runs():
    with RUNS.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def recorded():
    return (ROOT / "docs/results.md").read_text().split("### A setting in which codes differ")[1]


def test_codes_of_eight_blocks_with_the_same_seeds(runs):
    seeds = defaultdict(list)
    for run in runs:
        seeds[run["code"]].append(int(run["seed"]))
    assert all(sorted(of_code) == SEEDS for of_code in seeds.values())
    assert all(sum(map(int, code.split("-"))) == 8 for code in seeds)
    assert len(seeds) == 24
    ranking_signal = runpy.run_path(str(BENCHMARKS / "ranking_signal.py"))
    assert ranking_signal["read_alone"](str(RUNS)).keys() == {
        tuple(map(int, code.split("-"))) for code in seeds
    }


def test_the_recorded_command_would_train_the_same_again(runs, recorded):
    """Else the file describes other networks than those that a supernet has today."""
    codes_alone = runpy.run_path(str(BENCHMARKS / "codes_alone.py"))
    command = re.search(r"codes_alone\.py (.+?)```", recorded, re.DOTALL)[1].replace("\\\n", "")
    words = command.replace('"', "").split()
    args = argparse.Namespace(
        config_file=words[words.index("--config-file") + 1],
        opts=words[words.index("--opts") + 1 :],
        operation_codes=None,
    )
    assert {run["config"] for run in runs} == {codes_alone["digest"](args)}


def test_the_recorded_table_is_that_of_the_file(runs, recorded):
    aps = {(run["code"], int(run["seed"])): float(run["AP"]) for run in runs}
    rows = re.findall(
        r"^\| (\d-\d-\d-\d) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", recorded, re.M
    )
    assert {code for code, *_ in rows} == {run["code"] for run in runs}
    for code, *values in rows:
        of_code = [aps[code, seed] for seed in SEEDS]
        assert values == [f"{ap:.1f}" for ap in [*of_code, sum(of_code) / 3]]
