"""The charts of a search, by what stands in them."""

from random import Random

import numpy as np
import pytest

from crnas_d2 import ARCHITECTURES
from crnas_d2.analysis.style import render
from crnas_d2.report.charts import draw_depths, draw_dilations, draw_greedy_path
from crnas_d2.report.themes import NARROW, WIDE
from crnas_d2.search.operation_search import greedy_operation_search
from crnas_d2.spaces import get_operation_space, get_stage_space

METRIC = "bbox/AP"


def points(axes, marker, narrow=False):
    """Those of all lines with a marker, that have a place: along the blocks, and the score."""
    lines = [line for line in axes.get_lines() if line.get_marker() == marker]
    places = (xy for line in lines for xy in zip(line.get_xdata(), line.get_ydata()))
    return sorted((y, x) if narrow else (x, y) for x, y in places)


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize(
    "family, network, budget", [("resnet", "ResNet18", 8), ("mobilenetv2", "MobileNetV2", 16)]
)
def test_depths(family, network, budget, narrow):
    rng = Random(0)
    space = get_stage_space(family)
    scores = {code: rng.uniform(30, 40) for code in space.eligible(budget)}
    found, baseline = max(scores, key=scores.get), ARCHITECTURES[network].stage_code
    figure = draw_depths(space, scores, found, baseline, METRIC, narrow)
    assert figure.get_figwidth() <= (NARROW if narrow else WIDE)
    panels = [axes for axes in figure.axes if axes.axison]
    units = [unit.index for unit in space.units]
    assert len(panels) == len(units)
    for axes, stage in zip(panels, units):
        labels = [int(text.get_text()) for text in axes.get_xticklabels()]
        assert labels == sorted({code[stage] for code in scores})
        dots = points(axes, ".")
        assert dots == sorted((labels.index(code[stage]), s) for code, s in scores.items())
        for place, mean in points(axes, "_"):
            same = [s for code, s in scores.items() if code[stage] == labels[place]]
            assert mean == pytest.approx(np.mean(same))
        assert points(axes, "D") == [(labels.index(found[stage]), scores[found])]
        assert points(axes, "s") == [(labels.index(baseline[stage]), scores[baseline])]
    assert f"first {'-'.join(map(str, found))}" in legend(figure)
    assert render(figure, "svg").startswith(b"<?xml")


def test_depths_without_a_score_of_the_baseline():
    space = get_stage_space("resnet")
    scores = {code: float(sum(code[:2])) for code in space.eligible(8) if code != (2, 2, 2, 2)}
    figure = draw_depths(space, scores, max(scores, key=scores.get), (2, 2, 2, 2), METRIC)
    assert all(points(axes, "s") == [] for axes in figure.axes)
    assert not any("baseline" in text for text in legend(figure))


def searched(architecture, survivors):
    """A greedy search over random scores: the space, each step's scores, and its result."""
    space, rng, steps = get_operation_space(architecture), Random(1), []

    def evaluate(codes):
        steps.append({code: rng.uniform(30, 40) for code in codes})
        return list(steps[-1].values())

    return space, steps, greedy_operation_search(space, evaluate, survivors)


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("network, survivors", [("SCR-ResNet18", 3), ("SCR-MobileNetV2", 1)])
def test_greedy_path(network, survivors, narrow):
    space, steps, result = searched(ARCHITECTURES[network], survivors)
    figure = draw_greedy_path(space, steps, result.survivors, METRIC, narrow)
    assert not narrow or figure.get_figwidth() == NARROW
    (axes,) = figure.axes
    kept = [dict(step) for step in result.survivors]
    dots = points(axes, "o", narrow)
    assert [round(y, 9) for _, y in dots] == [
        round(score, 9) for step in kept for score in step.values()
    ]
    assert [round(x) for x, _ in dots] == [
        number for number, step in enumerate(kept, start=1) for _ in step
    ]
    dropped = [
        (number, score)
        for number, (step, scores) in enumerate(zip(kept, steps), start=1)
        for code, score in scores.items()
        if code not in step
    ]
    assert points(axes, "x", narrow) == sorted(dropped)
    bold = [
        line for line in axes.get_lines() if line.get_linewidth() > 2 and len(line.get_xdata()) > 1
    ]
    best = result.ranking.best
    path = [score for step in kept for code, score in step.items() if code == best[: len(code)]]
    scores = [tuple(line.get_xdata() if narrow else line.get_ydata()) for line in bold]
    assert scores == list(zip(path, path[1:]))
    digits = [text.get_text() for text in axes.texts]
    assert digits == [str(code[-1] + 1) for step in kept for code in step]


@pytest.mark.parametrize("narrow", [False, True])
def test_dilations(narrow):
    space, rng = get_operation_space(ARCHITECTURES["SCR-ResNet18"]), Random(2)
    scores = {space.sample(rng): rng.uniform(30, 40) for _ in range(40)}
    found = max(scores, key=scores.get)
    (axes,) = draw_dilations(space, scores, found, METRIC, narrow).axes
    expected = [
        (number + 1, np.mean([s for code, s in scores.items() if code[number] == operation]))
        for number in range(8)
        for operation in range(3)
        if any(code[number] == operation for code in scores)
    ]
    np.testing.assert_allclose(points(axes, "o", narrow), sorted(expected))
    framed = [line for line in axes.get_lines() if line.get_markeredgewidth() > 2]
    places = [line.get_xydata()[0] for line in framed if len(line.get_xydata())]
    shown = dict(place[::-1] if narrow else place for place in places)
    assert shown == pytest.approx(
        {
            number + 1: np.mean([s for code, s in scores.items() if code[number] == found[number]])
            for number in range(8)
        }
    )
