"""An outcome as text, within the width of a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator

from tabulate import tabulate

from ..evaluation.paired_comparison import PairedComparison
from ..evaluation.paired_statistics import MIN_SEEDS
from .outcome import Outcome, difference

WIDTH = 100


def describe_outcome(outcome: Outcome) -> str:
    """Format the metric of each seed, and the results of the comparison."""
    parts = [seed_table(outcome), fill(_comparison(outcome)), fill(_searches(outcome))]
    return "\n\n".join(filter(None, parts))


def seed_table(outcome: Outcome) -> str:
    """Format the metric of both networks for each seed, with mean and standard deviation.

    If the baseline itself was found, it has one column.
    """
    baseline, found = outcome.baseline, outcome.found
    rows = [
        [f"seed {seed}", before, after, difference(before, after)]
        for seed, before, after in zip(baseline.seeds, baseline.aps, found.aps)
    ]
    if len(rows) > 1:
        before, after = baseline.mean, found.mean
        rows.append(["mean", before, after, difference(before, after)])
        rows.append(["standard deviation", baseline.sd, found.sd, None])
    head = [outcome.metric, "baseline", "found", "difference"]
    if outcome.finds_baseline:
        rows, head = [row[:2] for row in rows], head[:2]
    return tabulate(rows, head, "github", floatfmt=("", ".2f", ".2f", "+.2f"), missingval="-")


def fill(lines: Iterable[str]) -> str:
    """Wrap each line to the width."""
    return "\n".join(textwrap.fill(line, WIDTH) for line in lines)


def _comparison(outcome: Outcome) -> Iterator[str]:
    if outcome.comparison and not outcome.finds_baseline:
        yield from describe_comparison(outcome.comparison, "Found", outcome.data.not_resampled)
        if len(outcome.comparison.differences) < MIN_SEEDS:
            yield f"No gain can be shown with fewer than {MIN_SEEDS} seeds (SEARCH.RECIPE.SEEDS)."


def describe_comparison(
    comparison: PairedComparison, found: str, not_resampled: str = ""
) -> Iterator[str]:
    """Describe the results of a comparison, line by line.

    Args:
        comparison: the comparison.
        found: name of the network that is compared with the baseline.
        not_resampled: why there is no interval for other test images. Empty if there is one.
    """
    for drawn, (low, high) in comparison.intervals.items():
        yield f"95 % interval of the difference, other {drawn}: {low:+.2f} to {high:+.2f}."
    if not_resampled:
        yield f"No interval for other test images: {not_resampled}."
    n = len(comparison.differences)
    ties = f", {comparison.ties} equal" if comparison.ties else ""
    yield (
        f"{found} won with {comparison.wins} of {n} seeds{ties}. Sign-flip p, one-sided: "
        f"{comparison.p_better:.3f} for better, {comparison.p_worse:.3f} for worse."
    )
    if comparison.smallest_gain is not None:
        yield (
            f"The smallest true gain that 4 of 5 such runs would show: {comparison.smallest_gain:.2f}."
        )


def _searches(outcome: Outcome) -> Iterator[str]:
    for ranking in outcome.ranking:
        if ranking.undistinguished is not None:
            yield (
                f"{ranking.step}: {ranking.undistinguished:,} of the {ranking.codes - 1:,} other codes "
                "cannot be told from the leader."
            )
        for rung in ranking.alone:
            tau, highest = format_number(rung["tau"]), rung["highest_tau"]
            expected = (
                "what a perfect ranking could expect is unknown"
                if highest is None
                else f"a perfect ranking could expect {highest:.2f}"
            )
            yield (
                f"{ranking.step} and {rung['codes']} codes trained alone for {rung['iterations']:,} "
                f"iterations: tau {tau} ({expected}), regret "
                f"{rung['regret']:.2f}."
            )
        for one, other, agreement in ranking.checkpoints:
            yield (
                f"{ranking.step}: the checkpoints {one} and {other} rank these codes with tau "
                f"{format_number(agreement)}."
            )


def format_number(value: float | None) -> str:
    """Format a number such as "0.33", or "unknown" for None."""
    return "unknown" if value is None else f"{value:.2f}"


def data_sentences(outcome: Outcome) -> list[str]:
    """Describe which images were used to train, to choose and to test."""
    data = outcome.data
    trained, chose, tested = (
        " and ".join(f"{name} ({count:,} images)" for name, count in part.items())
        for part in (data.trained, data.chose, data.tested)
    )
    first, of_budget = next(iter(data.tested)), " under this budget" if outcome.budget else ""
    return [
        f"Networks were trained on {trained}.",
        f"Architectures were chosen by {chose}.",
        f"Final detectors were tested on {tested}. None of these images has trained or chosen.",
        f"Tests on {first}{of_budget}: {data.looks:,}. The verdict alone depends on them.",
        *(f"Near-copies, {parts}: {count:,}." for parts, count in data.near_copies.items()),
    ]
