"""Networks as points of the figures: measured ones, averaged over seeds, and the paper's."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from types import MappingProxyType

from ..analysis.flops import analyze_detector
from ..analysis.paper_results import PAPER_RESULTS
from ..analysis.style import BASELINE, FOUND, GREEN, SKY
from ..architecture import ARCHITECTURES, Architecture, format_code
from ..config import get_config
from ..config_files import name_in_configs
from .runs import BOX_AP, TOP1, Run, common_dataset, group_seeds

PAPER_DATASET, PAPER_CLASSIFICATION = "coco_2017_val", "imagenet_val"
# Figure 6 prints the accuracy and AP of two points: the best networks at the FLOPs of ResNet50 and
# of ResNet101. None of it was measured by this project.
PAPER_ACCURACY = (("FLOPs of ResNet50", 76.5, 38.3), ("FLOPs of ResNet101", 77.3, 40.2))


@dataclass(frozen=True)
class Kind:
    """The style of one kind of network, distinguishable by color and by shape."""

    label: str
    marker: str
    color: str
    line: str


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "": Kind("baseline", "o", BASELINE, "-"),
        "SCR": Kind("stages reallocated (SCR)", "s", SKY, ":"),
        "CR": Kind("with dilated convolutions (CR)", "^", FOUND, "--"),
        "best": Kind("best of equal FLOPs", "D", GREEN, "-"),
    }
)


@dataclass(frozen=True)
class Point:
    """One network in a figure.

    Attributes:
        label: its stage code, or its name in the paper.
        kind: key of :data:`KINDS`.
        xs: one value for each seed.
        ys: AP in percent, one value for each seed.
        series: networks with the same series and kind share a line. Empty for none.
        in_paper: whether the values are printed in the paper instead of measured.
    """

    label: str
    kind: str
    xs: tuple[float, ...]
    ys: tuple[float, ...]
    series: str = ""
    in_paper: bool = False

    @property
    def x(self) -> float:
        """The mean over the seeds."""
        return mean(self.xs)

    @property
    def y(self) -> float:
        """The mean over the seeds."""
        return mean(self.ys)


def kind_of(architecture: Architecture) -> str:
    """Get the key of :data:`KINDS`.

    A network without dilation is a baseline if it has the stage code of a published one.
    """
    if any(architecture.operation_code):
        return "CR"
    baselines = {a.stage_code for name, a in ARCHITECTURES.items() if "-" not in name}
    return "" if architecture.stage_code in baselines else "SCR"


def flops_points(runs: Sequence[Run]) -> list[Point]:
    """Get points of GMACs at 800x1088 and box AP of detectors, averaged over seeds.

    Raises:
        ValueError: a run has no box AP or cannot be counted.
    """
    return [
        network_point(group[0], [group[0].macs() / 1e9], [run.metric(BOX_AP) for run in group])
        for group in group_seeds(runs)
    ]


def paper_flops_points() -> list[Point]:
    """Get points of the paper's box AP of Faster R-CNN with FPN at 1x (Tables 1 and 4).

    They are at the GMACs of our configs, as Table 4 prints no FLOPs.
    """
    names = {name_in_configs(name): name for name in ARCHITECTURES}
    points = []
    for file, result in PAPER_RESULTS.items():
        match = re.fullmatch(r"COCO-Detection/faster_rcnn_(\w+)_FPN_1x\.yaml", file)
        if match is None or result.box_ap is None:
            continue
        kind, _, network = names[match[1]].rpartition("-")
        points.append(
            Point(
                label=names[match[1]],
                kind=kind,
                xs=(analyze_detector(get_config(file)).macs / 1e9,),
                ys=(result.box_ap,),
                series=network.rstrip("0123456789"),
                in_paper=True,
            )
        )
    return points


def accuracy_points(
    classifiers: Sequence[Run], detectors: Sequence[Run]
) -> tuple[list[Point], list[Run]]:
    """Get points of top-1 accuracy and box AP of networks trained as both, averaged over seeds.

    Returns:
        The points, and the runs without a counterpart of the same network.

    Raises:
        ValueError: no runs match, two classifiers of one network differ in more than the seed, or a
            run lacks the metric.
    """
    by_network: dict[tuple[str, ...], list[Run]] = {}
    for group in group_seeds(classifiers):
        other = by_network.setdefault(group[0].network, group)
        if other is not group:
            raise ValueError(
                f"{other[0].folder} and {group[0].folder} are classifiers of one network that "
                "differ in more than the seed; expected one of them"
            )
    groups = group_seeds(detectors)
    pairs = [(by_network[g[0].network], g) for g in groups if g[0].network in by_network]
    paired = {detectors[0].network for _, detectors in pairs}
    unpaired = [run for run in (*classifiers, *detectors) if run.network not in paired]
    if not pairs:
        raise ValueError(
            "no classifier has the network of a detector: "
            + "; ".join(f"{run.folder} is {_label(run)}" for run in unpaired)
        )
    return [
        network_point(
            group[0], [run.metric(TOP1) for run in seen], [run.metric(BOX_AP) for run in group]
        )
        for seen, group in pairs
    ], unpaired


def paper_accuracy_points() -> list[Point]:
    """Get the two points of figure 6 that have numbers."""
    return [Point(label, "best", (x,), (y,), in_paper=True) for label, x, y in PAPER_ACCURACY]


def network_point(run: Run, xs: Sequence[float], ys: Sequence[float]) -> Point:
    """Create the point of a run's network."""
    return Point(_label(run), kind_of(run.architecture), tuple(xs), tuple(ys))


def _label(run: Run) -> str:
    return format_code(run.architecture.stage_code)


def check_paper_datasets(detectors: Sequence[Run], classifiers: Sequence[Run] = ()) -> None:
    """Check that runs are on the paper's datasets, so that its numbers can share an axis.

    Raises:
        ValueError: they are not.
    """
    for runs, expected in ((detectors, PAPER_DATASET), (classifiers, PAPER_CLASSIFICATION)):
        if runs and common_dataset(runs) != expected:
            raise ValueError(
                f"the paper's numbers are on {expected}, those of {runs[0].folder} on "
                f"{runs[0].dataset}; expected one dataset on an axis"
            )
