#!/usr/bin/env python3
"""Does a supernet rank stage codes as training each of them alone does?

ranking_signal.py --config-file configs/Digits/faster_rcnn_R_18_FPN.yaml --output output/alone \\
    --search output/stage_search --codes 12 --seeds 1
ranking_signal.py ... --search output/recalibrated output/running --only-report

Trains some of the stage codes that a search has evaluated, at equal steps of its ranking, alone and
with the recipe of the config; stopped, it goes on. Prints Kendall's tau between the APs alone and
those in each search, the highest tau to be expected, and the regret: by how much the search's choice
among these codes is worse than the best of them.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tabulate import tabulate

from crnas_d2.architecture import Code
from crnas_d2.engine import CRTrainer, setup
from crnas_d2.evaluation.rank_agreement import agree
from crnas_d2.files import write_atomically
from crnas_d2.procedure.outcome_text import format_number
from crnas_d2.report.runs import read_stage_ranking

from detectron2.engine import default_argument_parser


def choose(ranked: Sequence[Code], count: int) -> list[Code]:
    """Codes at equal steps from the first to the last."""
    return [ranked[round(i)] for i in np.linspace(0, len(ranked) - 1, count)]


def train_alone(args: argparse.Namespace, code: Code, seed: int) -> float:
    """AP of the detector with this stage code, on the test set of the config."""
    folder = Path(args.output, f"{'-'.join(map(str, code))}_seed{seed}")
    done = folder / "ap.json"
    if not done.exists():
        opts = ["MODEL.CR.STAGE_CODE", str(list(code)), "MODEL.CR.OPERATION_CODE", "[]"]
        opts += ["SEED", str(seed), "OUTPUT_DIR", str(folder), *args.opts]
        cfg = setup(
            default_argument_parser().parse_args(
                ["--resume", "--config-file", args.config_file, *opts]
            )
        )
        trainer = CRTrainer(cfg)
        trainer.resume_or_load(resume=True)
        trainer.train()
        ap = trainer._last_eval_results["bbox"]["AP"]
        write_atomically(str(done), json.dumps(ap).encode())
    return json.loads(done.read_text())


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, help="of the detector to train alone")
    parser.add_argument("--search", nargs="+", required=True, help="OUTPUT_DIR of stage searches")
    parser.add_argument("--output", required=True, help="folder of the detectors")
    parser.add_argument("--codes", type=int, default=12)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--part", default="1/1", help="train the i-th of n parts, such as 2/3")
    parser.add_argument("--only-report", action="store_true", help="of what is trained already")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="config keys, values")
    args = parser.parse_args(argv)

    tables = {os.path.normpath(folder): read_stage_ranking(folder).scores for folder in args.search}
    codes = choose(list(tables[os.path.normpath(args.search[0])]), args.codes)
    runs = [(code, seed) for seed in args.seeds for code in codes]
    if not args.only_report:
        part, parts = map(int, args.part.split("/"))
        for code, seed in runs[part - 1 :: parts]:
            train_alone(args, code, seed)
        if parts > 1:
            return
    alone = {code: [train_alone(args, code, seed) for seed in args.seeds] for code in codes}
    means = {code: np.mean(aps) for code, aps in alone.items()}
    print(
        tabulate(
            [
                ["-".join(map(str, code)), ap, *(table[code] for table in tables.values())]
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
