"""Curves of training losses and test metrics."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from detectron2.utils.file_io import PathManager

from ..analysis.style import BASELINE, FOUND, INK, styled
from ..procedure.networks import Network
from ..procedure.overview import StepOverview
from .runs import METRICS_FILE, parse_line
from .themes import NARROW, WIDE, Chart

MOST_POINTS = 400  # per curve
FEW_POINTS = 30  # below which points are marked
COLORS = {"baseline": BASELINE, "found": FOUND}
# In inches
HEIGHT, SMALL_HEIGHT = 2.9, 1.9
WIDEST = 4.6


@dataclass(frozen=True)
class Curves:
    """The curves of a training over its iterations.

    Attributes:
        name: name to show.
        loss: total loss by iteration.
        metric: metric of all tests in percent, by iteration.
    """

    name: str
    loss: Mapping[int, float]
    metric: Mapping[int, float]

    @classmethod
    def read(cls, name: str, folder: str, metric: str = "") -> Curves:
        """Read ``metrics.json``. The curves are empty if it does not exist.

        If an iteration was repeated after an interruption, the last run counts. Values that are not
        finite are left out.

        Args:
            name: name to show.
            folder: ``OUTPUT_DIR`` of the training.
            metric: name of the metric in ``metrics.json``. Empty for none.
        """
        loss: dict[int, float] = {}
        metrics: dict[int, float] = {}
        path = os.path.join(folder, METRICS_FILE)
        if PathManager.isfile(path):
            with PathManager.open(path, "r", errors="replace") as f:
                for line in map(parse_line, f):
                    for key, values in (("total_loss", loss), (metric, metrics)):
                        if _is_finite(line.get(key)) and isinstance(line.get("iteration"), int):
                            values[line["iteration"]] = line[key]
        return cls(name, dict(sorted(loss.items())), dict(sorted(metrics.items())))


def draw_curves(
    steps: Sequence[StepOverview], networks: Sequence[Network], metric: str
) -> list[Chart]:
    """Draw the trainings of the networks in one figure, and all others in another one.

    Args:
        steps: steps of a procedure.
        networks: the baseline and the network that was found, if it is another one.
        metric: metric of the tests, such as "bbox/AP".

    Returns:
        The charts. Empty if nothing was trained.
    """
    # Detectron2 adds the name of the dataset if there are several.
    tests = networks[0].cfg.DATASETS.TEST
    key = f"{tests[0]}/{metric}" if len(tests) > 1 else metric
    folders = {it.folder: network.name for network in networks for it in network.trainings}
    trained = [Curves.read(name, folder, key) for folder, name in folders.items()]
    others = [
        Curves.read(step.name.replace("_", " "), step.folder)
        for step in steps
        if not step.searches and step.folder not in folders
    ]
    trained, others = ([c for c in group if c.loss or c.metric] for group in (trained, others))
    charts = []
    if trained:
        several = any(len(network.trainings) > 1 for network in networks)
        of_each = ", a line for each seed" if several else ""
        names = " and ".join(network.name for network in networks)
        caption = f"Training of {names}: loss, and {metric} on {tests[0]}{of_each}"
        charts.append(Chart.draw(caption, _draw_networks, trained, metric))
    if others:
        caption = "Loss of the other trainings, each on its own scale"
        charts.append(Chart.draw(caption, _draw_losses, others))
    return charts


def _draw_networks(trained: Sequence[Curves], metric: str, narrow: bool) -> Figure:
    """Draw loss and metric on common axes."""
    panels = {
        "total loss": [(curves.name, curves.loss) for curves in trained],
        f"{metric}, %": [(curves.name, curves.metric) for curves in trained],
    }
    panels = {label: curves for label, curves in panels.items() if any(v for _, v in curves)}
    width = 1.5 if len(trained) <= 2 else 0.9
    with styled():
        figure, grid = _panels(len(panels), HEIGHT, narrow)
        for axes, (label, curves) in zip(grid, panels.items()):
            for name, values in curves:
                _draw(axes, values, COLORS[name], label=name, lw=width)
            axes.set_ylabel(label)
            axes.set_xlim(left=0)
        handles, labels = grid[0].get_legend_handles_labels()
        by_name = dict(zip(labels, handles))
        figure.legend(by_name.values(), by_name, loc="outside upper center", ncols=2)
    return figure


def _draw_losses(others: Sequence[Curves], narrow: bool) -> Figure:
    with styled():
        figure, grid = _panels(len(others), SMALL_HEIGHT, narrow)
        for axes, curves in zip(grid, others):
            _draw(axes, curves.loss, INK, lw=1)
            axes.set_title(curves.name, size=9)
            axes.set_ylabel("total loss", size=9)
            axes.tick_params(labelsize=8)
    return figure


def _panels(count: int, height: float, narrow: bool) -> tuple[Figure, Sequence[Axes]]:
    """Create panels side by side, or one below the other for phones."""
    if narrow:
        size, shape = (NARROW, height * count), (count, 1)
    else:
        size, shape = (min(WIDE, WIDEST * count), height), (1, count)
    figure = Figure(figsize=size, layout="constrained")
    grid = list(figure.subplots(*shape, squeeze=False).flat)
    for axes in grid:
        axes.set_xlabel("iteration", size=9)
    return figure, grid


def _draw(axes: Axes, values: Mapping[int, float], color: str, **options: Any) -> None:
    """Draw at most MOST_POINTS points, including the last one."""
    points = list(values.items())
    points = points[:: -max(1, math.ceil(len(points) / MOST_POINTS))][::-1]
    options["marker"] = "." if len(points) < FEW_POINTS else ""
    axes.plot([x for x, _ in points], [y for _, y in points], color=color, **options)


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
