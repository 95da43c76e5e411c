"""AP against cost of the networks of all budgets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from ..analysis.style import BASELINE, FOUND, INK, styled
from ..evaluation.paired_statistics import half_width
from ..procedure.outcome import Outcome, TrainedNetwork
from .labels import place_labels, settle_layout
from .themes import NARROW, Chart

WIDTH, HEIGHT = 8.0, 4.6  # in inches
MARKERS = {"baseline": ("s", BASELINE), "found": ("D", FOUND)}


@dataclass(frozen=True)
class CostedNetwork:
    """One of the two networks of a budget.

    Attributes:
        budget: name of the budget.
        name: "baseline" or "found".
        cost: cost in the unit of the budgets.
        ap: mean over the seeds, in percent.
        half_width: half the width of the 95 % interval of the mean, had other seeds been drawn.
            None with one seed.
    """

    budget: str
    name: str
    cost: float
    ap: float
    half_width: float | None


def costed_networks(outcomes: Sequence[Outcome]) -> list[CostedNetwork]:
    """List the networks with a cost and an AP, once if the baseline itself was found."""
    networks = []
    for outcome in outcomes:
        pair = {"baseline": outcome.baseline, "found": outcome.found}
        if outcome.finds_baseline:
            del pair["found"]
        for costs in outcome.cost.values():
            networks += [
                CostedNetwork(outcome.budget, name, cost, it.mean, seeds_half_width(it))
                for name, it in pair.items()
                if it.mean is not None and (cost := costs[name]) is not None
            ]
    return networks


def seeds_half_width(network: TrainedNetwork) -> float | None:
    """Compute half the width of the 95 % interval of the mean AP over seeds, by Student's t.

    It is None with one seed. Other test images would move all networks together, so they are not
    included.
    """
    seeds = len(network.aps)
    return None if network.sd is None else float(half_width(seeds, network.sd**2, 0.0))


def pareto_front(networks: Sequence[CostedNetwork]) -> list[CostedNetwork]:
    """List the networks that no other one dominates, sorted by cost.

    A network dominates with at least the same AP for less, or a higher one for no more.
    """
    front: list[CostedNetwork] = []
    for network in sorted(networks, key=lambda it: (it.cost, -it.ap)):
        best = front[-1] if front else None
        if (
            best is None
            or network.ap > best.ap
            or (network.cost, network.ap) == (best.cost, best.ap)
        ):
            front.append(network)
    return front


def chart_pareto(outcomes: Sequence[Outcome]) -> list[Chart]:
    """Draw :func:`draw_pareto` with a caption. Empty if no network has a cost."""
    networks = costed_networks(outcomes)
    if not networks:
        return []
    unit, metric = next(iter(outcomes[0].cost)), outcomes[0].metric
    bars = any(network.half_width is not None for network in networks)
    caption = (
        f"{metric} against {unit}, baseline and found of each budget, means over the seeds"
        f"{' with 95 % intervals for other seeds' if bars else ''}. The numbers are the "
        "budgets; ringed and joined is the Pareto front, by the means"
    )
    return [Chart.draw(caption, draw_pareto, networks, unit, metric)]


def draw_pareto(
    networks: Sequence[CostedNetwork], unit: str, metric: str, narrow: bool = False
) -> Figure:
    """Draw AP against cost.

    Args:
        networks: networks of all budgets.
        unit: unit of their costs.
        metric: metric in percent.
        narrow: use a layout for phones.
    """
    front = pareto_front(networks)
    with styled():
        size = (NARROW, 1.1 * NARROW) if narrow else (WIDTH, HEIGHT)
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot(xlabel=unit, ylabel=f"{metric}, %")
        axes.margins(0.15)
        for network in networks:
            marker, color = MARKERS[network.name]
            wide = network.name == "baseline"  # to be visible behind the other one
            axes.errorbar(
                network.cost,
                network.ap,
                yerr=network.half_width,
                fmt=marker,
                ms=7,
                color=color,
                mec="white",
                elinewidth=3 if wide else 1.2,
                capsize=5 if wide else 3,
                zorder=3 if wide else 4,
            )
        xs, ys = [n.cost for n in front], [n.ap for n in front]
        axes.plot(xs, ys, "-o", color=INK, lw=1, ms=13, mfc="none", mec=INK, mew=1.1, zorder=2)
        for name, (marker, color) in MARKERS.items():
            axes.plot([], [], marker, color=color, ms=7, label=name)
        axes.plot([], [], "-o", color=INK, lw=1, ms=11, mfc="none", mew=1.1, label="Pareto front")
        low, high = axes.get_ylim()
        # range of an AP, which the bar of a few seeds may exceed
        axes.set_ylim(max(low, -5), min(high, 105))
        figure.legend(loc="outside upper center", ncols=3, fontsize=9)
        settle_layout(figure)
        place_labels(axes, [(n.budget, n.cost, n.ap) for n in networks])
    return figure
