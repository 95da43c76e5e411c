#!/usr/bin/env python3
"""Measures whether a supernet ranks stage or operation codes like individual trainings do.

codes_alone.py --config-file configs/Digits/faster_rcnn_R_18_FPN.yaml --output output/alone \\
    --search output/stage_search --count 12
ranking_signal.py --alone output/alone/runs.csv --search output/stage_search output/recalibrated
ranking_signal.py --alone benchmarks/close_digits_codes.csv --search output/recalibrated_1

close_digits_codes.csv has 24 of the 35 codes of configs/Digits/stage_supernet_R_18_close.yaml, trained with
three seeds each (docs/results.md).

For each search, and for the mean of their scores, prints Kendall's tau between the scores and the
mean APs of individually trained codes, the highest tau to expect, and a one-sided p for no relation.
The regret is by how much the search's choice among these codes is worse than the best of them, the
gain by how much it is better than their mean. Then follows Kendall's tau between the searches.
"""

from __future__ import annotations

import argparse
import csv
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import kendalltau
from tabulate import tabulate

from crnas_d2.architecture import Code, format_code, parse_code
from crnas_d2.evaluation.rank_agreement import agree, pairwise_taus
from crnas_d2.procedure.outcome_text import format_number
from crnas_d2.search.result import read_ranking


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


def mean_scores(tables: Sequence[Mapping[Code, float]]) -> dict[Code, float]:
    """Average the scores of the codes that all tables have."""
    codes = [code for code in tables[0] if all(code in table for table in tables)]
    return {code: float(np.mean([table[code] for table in tables])) for code in codes}


def describe_scores(
    alone: Mapping[Code, Sequence[float]], tables: Mapping[str, Mapping[Code, float]]
) -> str:
    """Format the mean AP of each code, best first, and its score in each search."""
    means = {code: float(np.mean(aps)) for code, aps in alone.items()}
    rows = [
        [format_code(code), mean, *(table.get(code) for table in tables.values())]
        for code, mean in sorted(means.items(), key=lambda item: -item[1])
    ]
    return tabulate(rows, ["code", "alone", *tables], "github", floatfmt=".2f")


def describe_agreement(
    alone: Mapping[Code, Sequence[float]], tables: Mapping[str, Mapping[Code, float]]
) -> str:
    """Format how well each table of scores ranks and chooses."""
    rows = []
    for name, table in tables.items():
        found, codes = agree(table, alone), [code for code in alone if code in table]
        means = [np.mean(alone[code]) for code in codes]
        p = kendalltau([table[code] for code in codes], means, alternative="greater").pvalue
        rows.append(
            [
                name,
                *map(format_number, (found.tau, found.highest_tau)),
                f"{p:.2g}",
                format_code(found.choice),
                found.regret,
                np.mean(alone[found.choice]) - np.mean(means),
            ]
        )
    headers = ["search", "Kendall tau", "highest", "p", "choice", "regret (AP)", "gain (AP)"]
    return tabulate(rows, headers, "github", floatfmt=".2f", disable_numparse=[headers.index("p")])


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--alone", required=True, help="runs.csv of codes_alone.py")
    parser.add_argument(
        "--search", nargs="+", required=True, help="OUTPUT_DIR of searches over one space"
    )
    args = parser.parse_args(argv)

    alone = read_alone(args.alone)
    tables = {
        os.path.normpath(folder): {code: score for code, score in read_ranking(folder).scored}
        for folder in args.search
    }
    print(describe_scores(alone, tables))
    judged = dict(tables)
    if len(tables) > 1:
        judged["mean"] = mean_scores(list(tables.values()))
    print(f"\n{describe_agreement(alone, judged)}")
    for (first, second), tau in pairwise_taus(tables).items():
        print(f"{first} and {second}: Kendall tau {format_number(tau)} over all codes of both")


if __name__ == "__main__":
    main()
