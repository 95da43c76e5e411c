"""Figures of trainings: FLOPs or accuracy against AP, and how well a search ranks.

A run is the OUTPUT_DIR of a training, or the folder "final" or "baseline" of a search.

crnas plot flops output/search/baseline output/search/final --output flops.svg
crnas plot flops --paper --output figure_5.svg    # the paper's APs alone
crnas plot accuracy --classifiers output/r18_cls --detectors output/r18 --output accuracy.svg
crnas plot correlation --search output/search/stage_search --detectors output/alone/* \\
    --output correlation.svg
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from tabulate import tabulate

from ..analysis.style import figure_format, write_figure
from ..architecture import format_code
from ..report import correlation, plots, points
from ..report.runs import Run, common_dataset, read_runs, read_stage_ranking
from .command_line import command, command_parser


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = command_parser(__doc__)
    figures = parser.add_subparsers(dest="figure", required=True)
    flops = figures.add_parser("flops", help="multiply-adds against AP, as figure 5")
    flops.add_argument("runs", nargs="*", metavar="RUN", help="of detectors")
    accuracy = figures.add_parser("accuracy", help="top-1 accuracy against AP, as figure 6")
    accuracy.add_argument("--classifiers", nargs="+", default=[], metavar="RUN")
    accuracy.add_argument("--detectors", nargs="+", default=[], metavar="RUN")
    ranks = figures.add_parser("correlation", help="AP in a search against AP alone")
    ranks.add_argument(
        "--search", nargs="+", required=True, metavar="DIR", help="OUTPUT_DIR of stage searches"
    )
    ranks.add_argument("--detectors", nargs="+", required=True, metavar="RUN")
    for figure, draw in (
        (flops, draw_flops),
        (accuracy, draw_accuracy),
        (ranks, draw_correlation),
    ):
        figure.set_defaults(draw=draw)
        figure.add_argument("--output", required=True, metavar="FILE", help=".svg, .png or .pdf")
        if figure is not ranks:
            figure.add_argument("--paper", action="store_true", help="draw the paper's APs too")
    args = parser.parse_args(argv)
    try:
        figure_format(args.output)
    except ValueError as error:
        parser.error(f"--output: {error}")
    args.draw(parser, args)
    print(f"wrote {args.output}")


def draw_flops(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    if not args.runs and not args.paper:
        parser.error("flops has nothing to draw; expected runs, --paper, or both")
    runs = read_runs(args.runs)
    dataset = common_dataset(runs) if runs else points.PAPER_DATASET
    drawn = points.flops_points(runs)
    if args.paper:
        points.check_paper_datasets(runs)
        drawn += points.paper_flops_points()
    write_figure(plots.draw_flops(drawn, dataset), args.output)
    print_points(drawn, "GMACs", f"AP on {dataset}")
    print_iterations(runs)


def draw_accuracy(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    if bool(args.classifiers) != bool(args.detectors) or not (args.classifiers or args.paper):
        parser.error(
            "accuracy has nothing to draw; expected --classifiers with --detectors, --paper, or all of them"
        )
    classifiers, detectors = read_runs(args.classifiers), read_runs(args.detectors)
    drawn: list[points.Point] = []
    unpaired: list[Run] = []
    classification, dataset = points.PAPER_CLASSIFICATION, points.PAPER_DATASET
    if classifiers:
        classification, dataset = common_dataset(classifiers), common_dataset(detectors)
        drawn, unpaired = points.accuracy_points(classifiers, detectors)
    if args.paper:
        points.check_paper_datasets(detectors, classifiers)
        drawn += points.paper_accuracy_points()
    write_figure(plots.draw_accuracy(drawn, classification, dataset), args.output)
    print_points(drawn, f"top-1 on {classification}", f"AP on {dataset}")
    print_left_out(unpaired, "has no partner of the same network")
    print_iterations((*classifiers, *detectors))


def draw_correlation(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    rankings = [read_stage_ranking(folder) for folder in args.search]
    runs = read_runs(args.detectors)
    dataset = common_dataset(runs)
    correlations = [correlation.correlate(ranking, runs) for ranking in rankings]
    write_figure(correlation.draw_correlations(correlations, dataset), args.output)
    for found in correlations:
        metric = found.ranking.metric
        print_points(found.points, f"{metric} in the search", f"{metric} alone, on {dataset}")
        print(
            f"{found.ranking.folder}: Kendall's tau {found.tau:.2f} (p {found.p:.3f}), "
            f"the search's choice is {format_code(found.choice)}"
        )
        print_left_out(found.unmatched, "has a stage code that the search did not rank")
    print_iterations(runs)


def print_points(drawn: Sequence[points.Point], x: str, y: str) -> None:
    rows = [
        [
            point.label,
            points.KINDS[point.kind].label,
            "paper" if point.in_paper else f"measured, {len(point.ys)}",
            f"{point.x:.2f}",
            f"{point.y:.2f}",
        ]
        for point in drawn
    ]
    headers = ["network", "kind", "source, seeds", x, y]
    print(tabulate(rows, headers, "github", disable_numparse=True))


def print_left_out(runs: Sequence[Run], why: str) -> None:
    for run in runs:
        print(f"Left out: {run.folder} {why}.")


def print_iterations(runs: Sequence[Run]) -> None:
    for run in runs:
        if run.iteration < run.cfg.SOLVER.MAX_ITER:
            print(
                f"Note: {run.folder} was evaluated at iteration {run.iteration} of "
                f"{run.cfg.SOLVER.MAX_ITER} last."
            )
