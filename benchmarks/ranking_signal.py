#!/usr/bin/env python3
"""Measures whether a supernet ranks stage codes like individual trainings do.

codes_alone.py --config-file configs/Digits/faster_rcnn_R_18_FPN.yaml --output output/alone \\
    --search output/stage_search --count 12
ranking_signal.py --alone output/alone/runs.csv --search output/stage_search output/recalibrated

Prints Kendall's tau between the APs of individually trained codes and those in each search, the
highest expected tau, and the regret: by how much the search's choice among these codes is worse
than the best of them.
"""

from __future__ import annotations

import argparse
import csv
import os
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from tabulate import tabulate

from crnas_d2.architecture import Code, format_code, parse_code
from crnas_d2.evaluation.rank_agreement import agree
from crnas_d2.procedure.outcome_text import format_number
from crnas_d2.report.runs import read_stage_ranking


def read_alone(path: str) -> dict[Code, list[float]]:
    """Read the APs of each code, in the order of the seeds, from the runs.csv of codes_alone.py.

    Raises:
        ValueError: the trainings have different configs.
    """
    with open(path, newline="") as file:
        runs = list(csv.DictReader(file))
    configs = {run["config"] for run in runs}
    if len(configs) > 1:
        raise ValueError(f"{path} has trainings of the configs {sorted(configs)}; expected one")
    aps = defaultdict(list)
    for run in sorted(runs, key=lambda run: int(run["seed"])):
        aps[parse_code(run["code"])].append(float(run["AP"]))
    return dict(aps)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--alone", required=True, help="runs.csv of codes_alone.py")
    parser.add_argument("--search", nargs="+", required=True, help="OUTPUT_DIR of stage searches")
    args = parser.parse_args(argv)

    alone = read_alone(args.alone)
    tables = {os.path.normpath(folder): read_stage_ranking(folder).scores for folder in args.search}
    means = {code: np.mean(aps) for code, aps in alone.items()}
    print(
        tabulate(
            [
                [format_code(code), ap, *(table.get(code) for table in tables.values())]
                for code, ap in sorted(means.items(), key=lambda item: -item[1])
            ],
            ["stage code", "alone", *tables],
            "github",
            floatfmt=".2f",
        )
    )
    for name, table in tables.items():
        found = agree(table, alone)
        tau, highest = map(format_number, (found.tau, found.highest_tau))
        print(f"{name}: Kendall tau {tau} (highest: {highest}), regret {found.regret:.2f} AP")


if __name__ == "__main__":
    main()
