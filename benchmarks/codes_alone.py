#!/usr/bin/env python3
"""Trains codes individually with several seeds each, and tests if they differ beyond noise.

codes_alone.py --config-file configs/Digits/faster_rcnn_R_18_FPN.yaml --output output/alone
codes_alone.py ... --codes 5-1-1-1 2-2-2-2 --seeds 1 2 3 --opts SOLVER.MAX_ITER 600
codes_alone.py ... --search output/stage_search --count 12
codes_alone.py ... --operation-codes 0-0-0-0-0-0-0-0 1-1-0-0-0-0-0-0
codes_alone.py ... --part 2/3; codes_alone.py ... --only-report

Without --codes it takes six ResNets with as many blocks as the config's: the corners of the space,
an even one, and one like the paper's result. If interrupted, it resumes. Finished trainings are
listed in runs.csv of the output, by which ranking_signal.py judges a search.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import math
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from crnas_d2.architecture import Code, format_code, parse_code
from crnas_d2.config import default_config, flatten_config, read_config
from crnas_d2.engine import CRTrainer, setup
from crnas_d2.engine.evaluators import AP
from crnas_d2.evaluation.code_variance import CodeVariance, split_variance
from crnas_d2.files import read_json, write_atomically, write_json
from crnas_d2.procedure.outcome_text import format_number
from crnas_d2.report.runs import read_stage_ranking

from detectron2.engine import default_argument_parser

OF_A_RUN = ("MODEL.CR.OPERATION_CODE", "OUTPUT_DIR", "SEED")


def corner_codes(blocks: int) -> list[Code]:
    """List ResNets: each stage as deep as possible, all even, and 1 : 1 : 2 : 4 as in the paper."""
    corners = [tuple(blocks - 3 if i == j else 1 for j in range(4)) for i in range(4)]
    even, late = (
        tuple(blocks * b // shares[-1] - blocks * a // shares[-1] for a, b in pairwise(shares))
        for shares in ((0, 1, 2, 3, 4), (0, 1, 2, 4, 8))
    )
    return [code for code in dict.fromkeys([*corners, even, late]) if min(code) > 0]


def equal_steps(ranked: Sequence[Code], count: int) -> list[Code]:
    """Get evenly spaced codes from the first to the last."""
    return [ranked[round(i)] for i in np.linspace(0, len(ranked) - 1, count)]


def read_run(args: argparse.Namespace, code: Code, seed: int) -> dict[str, Any] | None:
    """Read a row of runs.csv. None if this training is not finished.

    Raises:
        ValueError: it was run with another config.
    """
    file = _folder(args, code, seed) / "run.json"
    if not file.exists():
        return None
    run = read_json(str(file))
    if run["config"] != digest(args):
        raise ValueError(
            f"{file}: a training with the config {run['config']}; expected {digest(args)}, or another "
            "--output"
        )
    return run


def train_alone(args: argparse.Namespace, code: Code, seed: int) -> None:
    """Train a detector with this code, and test it on the test set of the config."""
    begin = time.process_time()
    folder = _folder(args, code, seed)
    if args.operation_codes:
        opts = ["MODEL.CR.OPERATION_CODE", str(list(code))]
    else:
        opts = ["MODEL.CR.STAGE_CODE", str(list(code)), "MODEL.CR.OPERATION_CODE", "[]"]
    opts += [*args.opts, "SEED", str(seed), "OUTPUT_DIR", str(folder)]
    cfg = setup(
        default_argument_parser().parse_args(["--resume", "--config-file", args.config_file, *opts])
    )
    trainer = CRTrainer(cfg)
    trainer.resume_or_load(resume=True)
    anew = trainer.start_iter == 0
    trainer.train()
    results = trainer._last_eval_results["bbox"]
    if math.isnan(results["AP"]):  # it finds nothing at all
        results = dict.fromkeys(AP, 0.0)
    write_json(
        str(folder / "run.json"),
        {
            "code": format_code(code),
            "seed": seed,
            **{name: results[name] for name in AP},
            "cpu_seconds": round(time.process_time() - begin, 1) if anew else None,
            "config": digest(args),
        },
    )


def digest(args: argparse.Namespace) -> str:
    """Compute a digest of the keys that are not at their defaults and equal in all trainings."""
    defaults = flatten_config(default_config())
    keys = flatten_config(read_config(args.config_file, args.opts))
    own = OF_A_RUN if args.operation_codes else (*OF_A_RUN, "MODEL.CR.STAGE_CODE")
    set_here = {k: v for k, v in keys.items() if v != defaults[k] and k not in own}
    return hashlib.sha256(json.dumps(set_here, sort_keys=True).encode()).hexdigest()[:12]


def write_table(path: Path, runs: Sequence[dict[str, Any]]) -> None:
    """Write the CSV of all finished trainings, with a row for each."""
    text = io.StringIO()
    table = csv.DictWriter(text, runs[0], lineterminator="\n")
    table.writeheader()
    table.writerows(runs)
    write_atomically(str(path), text.getvalue().encode())


def describe(spread: CodeVariance) -> str:
    """Describe whether a search can be judged by these trainings."""
    tau = format_number(spread.highest_tau)
    return (
        f"{spread.codes} codes, {spread.seeds} seeds: mean {spread.mean:.2f} AP; standard deviation "
        f"between codes {spread.between:.2f} (of their means {spread.of_means:.2f}), within codes "
        f"{spread.within:.2f} ({spread.paired:.2f} without what a seed does to all codes), ratio "
        f"{spread.ratio:.2f}; F-test p {spread.p:.2g}; highest Kendall tau {tau}"
    )


def report(args: argparse.Namespace, codes: Sequence[Code]) -> None:
    """Write and print the trainings that have finished so far."""
    done = [[read_run(args, code, seed) for seed in args.seeds] for code in codes]
    runs = [run for of_code in done for run in of_code if run]
    if not runs:
        return
    write_table(Path(args.output, "runs.csv"), runs)
    whole = [of_code for of_code in done if all(of_code)]
    rows = [
        [
            of_code[0]["code"],
            *(run["AP"] for run in of_code),
            *(_mean([run[name] for run in of_code]) for name in AP),
        ]
        for of_code in whole
    ]
    seeds = [f"AP, seed {seed}" for seed in args.seeds]
    rows.sort(key=lambda row: -row[1 + len(seeds)])
    print(tabulate(rows, ["code", *seeds, *AP], "github", floatfmt=".2f"))
    times = [run["cpu_seconds"] for run in runs if run["cpu_seconds"]]
    if times:
        print(f"CPU time of a training: {np.mean(times):.0f} s on average")
    if len(whole) > 1 and len(args.seeds) > 1:
        print(describe(split_variance([[run["AP"] for run in of_code] for of_code in whole])))


def _mean(values: Sequence[float | None]) -> float | None:
    """Average values. None if there are no objects of that size."""
    return None if None in values else float(np.mean(values))


def _folder(args: argparse.Namespace, code: Code, seed: int) -> Path:
    return Path(args.output, f"{format_code(code)}_seed{seed}")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, help="of the detector to train")
    parser.add_argument("--output", required=True, help="folder of the detectors and of runs.csv")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--codes", type=parse_code, nargs="+", help="stage codes such as 5-1-1-1")
    which.add_argument("--search", help="OUTPUT_DIR of a stage search, whose codes are taken")
    which.add_argument(
        "--operation-codes",
        type=parse_code,
        nargs="+",
        help="operation codes for the config's stage code",
    )
    parser.add_argument(
        "--count", type=int, default=12, help="of codes of --search, at equal steps"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--part", default="1/1", help="train the i-th of n parts, such as 2/3")
    parser.add_argument("--only-report", action="store_true", help="of what is trained already")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="config keys, values")
    args = parser.parse_args(argv)

    if args.search:
        codes = equal_steps(list(read_stage_ranking(args.search).scores), args.count)
    else:
        stage_code = read_config(args.config_file, args.opts).MODEL.CR.STAGE_CODE
        codes = args.codes or args.operation_codes or corner_codes(sum(stage_code))
    if not args.only_report:
        part, parts = map(int, args.part.split("/"))
        trainings = [(code, seed) for seed in args.seeds for code in codes]
        for code, seed in trainings[part - 1 :: parts]:
            if read_run(args, code, seed) is None:
                train_alone(args, code, seed)
    report(args, codes)


if __name__ == "__main__":
    main()
