"""The pairs of trainings behind a verdict: figure and tables, against the comparison's numbers."""

import numpy as np
import pytest
from made_outcomes import BETTER, make_outcome
from matplotlib.colors import to_hex

from crnas_d2.analysis.style import BASELINE, FOUND
from crnas_d2.report.seeds import chart_seeds, describe_difference, draw_seeds, seeds_table


@pytest.mark.parametrize("narrow", [False, True])
def test_figure(narrow):
    """Each pair is a line from the baseline to what was found; intervals are where they are known."""
    comparison = make_outcome().comparison
    pairs, differences = draw_seeds(comparison, "bbox/AP", narrow).axes
    lines = [tuple(line.get_ydata()) for line in pairs.lines if len(line.get_xdata()) == 2]
    assert lines == list(zip(BETTER["baseline"], BETTER["found"]))
    dots = {
        to_hex(line.get_color()).upper(): line for line in pairs.lines if line.get_marker() == "o"
    }
    assert list(dots[BASELINE].get_ydata()) == list(BETTER["baseline"])
    assert list(dots[FOUND].get_ydata()) == list(BETTER["found"])
    means = [line.get_ydata()[0] for line in pairs.lines if line.get_marker() == "_"]
    assert means == [np.mean(BETTER["baseline"]), np.mean(BETTER["found"])]
    drawn = [tuple(line.get_xdata()) for line in differences.lines if line.get_marker() == "|"]
    assert drawn == [comparison.interval, comparison.interval_seeds, comparison.interval_images]
    names = [label.get_text() for label in differences.get_yticklabels()]
    assert names == ["each seed", "other seeds\nand images", "other seeds", "other images"]


@pytest.mark.parametrize(
    "seeds, resampled, names",
    [
        (5, False, ["each seed", "other seeds"]),
        (1, True, ["each seed", "other images"]),
        (1, False, ["each seed"]),
    ],
)
def test_figure_of_what_is_known(seeds, resampled, names):
    aps = {name: values[:seeds] for name, values in BETTER.items()}
    comparison = make_outcome(**aps, resampled=resampled).comparison
    (chart,) = chart_seeds(comparison, "bbox/AP")
    for figure in (chart.wide, chart.narrow):
        assert [label.get_text() for label in figure.axes[1].get_yticklabels()] == names
    assert ("95 %" in chart.caption) == (len(names) > 1)


def test_table():
    """By NumPy alone."""
    found, baseline = (np.array(BETTER[name]) for name in ("found", "baseline"))
    *rows, mean, deviation = seeds_table(make_outcome())
    for seed, row in enumerate(rows):
        assert row == {
            "name": f"seed {seed + 1}",
            "baseline": f"{baseline[seed]:.2f}",
            "found": f"{found[seed]:.2f}",
            "difference": f"{found[seed] - baseline[seed]:+.2f}",
        }
    assert list(mean.values())[1:] == [
        f"{baseline.mean():.2f}",
        f"{found.mean():.2f}",
        f"{(found - baseline).mean():+.2f}",
    ]
    assert [deviation[n] for n in ("baseline", "found")] == [
        f"{aps.std(ddof=1):.2f}" for aps in (baseline, found)
    ]


def test_numbers_of_the_difference():
    comparison = make_outcome().comparison
    told = dict(describe_difference(comparison))
    low, high = comparison.interval
    assert (
        told["95 % interval, had other seeds and images been drawn"] == f"{low:+.2f} to {high:+.2f}"
    )
    assert told["seeds with which found won"] == "5 of 5"
    assert told["sign-flip p that found is no better"] == "0.031"
    assert f"{comparison.smallest_gain:.2f} AP" in told.values()


def test_one_seed_and_the_baseline_itself():
    one = dict(describe_difference(make_outcome((71.0,), (70.0,), resampled=False).comparison))
    assert not any("interval" in name or "smallest" in name for name in one)
    assert [row["name"] for row in seeds_table(make_outcome((71.0,), (70.0,)))] == [
        "seed 1",
    ]
    same = make_outcome(None)
    assert {row["difference"] for row in seeds_table(same)[:-1]} == {"0"}
    assert dict(describe_difference(same.comparison))["seeds with which found won"] == (
        "0 of 5, 5 with no difference"
    )


def test_nothing_without_a_comparison():
    assert seeds_table(make_outcome(comparison=None)) == []
