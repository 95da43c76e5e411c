"""Placement of point labels in a figure without overlaps."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise, product

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox
from numpy.typing import ArrayLike

from ..analysis.style import GRAY

# In points: distances of labels from their points, and half the size of a marker
DISTANCES = (7, 18, 32, 48, 66, 90)
MARKER = 5
# Right, left, above, below, then the corners
DIRECTIONS = ((1, 0), (-1, 0), (0, 1), (0, -1), *product((1, -1), (1, -1)))


def settle_layout(figure: Figure) -> None:
    """Fix the positions and limits of all axes, whatever is added later."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


def place_labels(axes: Axes, labels: Iterable[tuple[str, float, float]]) -> list[Annotation]:
    """Place labels next to their points, inside the axes and off all markers and other labels.

    Lines are avoided too if there is room. Each label in turn takes the nearest such place. Labels
    are placed last, after :func:`settle_layout`. A distant label gets a thin line to its point,
    which avoids other markers if possible.

    Args:
        axes: the axes.
        labels: text, x and y of each point, in data units.
    """
    figure = axes.figure
    assert isinstance(figure, Figure)  # there are no subfigures
    renderer = FigureCanvasAgg(figure).get_renderer()
    pixels = figure.dpi / 72
    markers, lines = _markers(axes), _points_on_lines(axes)
    taken = [_square(marker, MARKER * pixels) for marker in markers]
    crossed = [_square(point, pixels) for point in lines]
    placed = []
    for text, x, y in labels:
        label = axes.annotate(
            text,
            (x, y),
            (0, 0),
            textcoords="offset points",
            size=8,
            ha="center",
            va="center",
            arrowprops={"arrowstyle": "-", "color": GRAY, "lw": 0.6, "shrinkB": MARKER},
        )
        arrow = label.arrow_patch
        assert arrow is not None  # it has arrowprops
        arrow.set_visible(False)
        area = label.get_window_extent(renderer).padded(pixels)
        start = axes.transData.transform((x, y))
        spots = [
            (dx * (distance + area.width / pixels / 2), dy * (distance + area.height / pixels / 2))
            for distance in DISTANCES
            for dx, dy in DIRECTIONS
        ]
        areas = [area.translated(dx * pixels, dy * pixels) for dx, dy in spots]
        faults = [
            (
                not _contains(axes.bbox, spot) or any(map(spot.overlaps, taken)),
                any(map(spot.overlaps, crossed)),
                _line_hits(start, np.mean(spot, axis=0), markers, MARKER * pixels),
            )
            for spot in areas
        ]
        best = faults.index(min(faults))
        label.xyann = spots[best]
        arrow.set_visible(best >= len(DIRECTIONS))
        taken.append(areas[best])
        placed.append(label)
    return placed


def _markers(axes: Axes) -> list[np.ndarray]:
    """Get the centers of all markers, in pixels."""
    marked = (line for line in axes.lines if line.get_marker() != "None")
    return [c for line in marked for c in line.get_transform().transform(line.get_xydata())]


def _points_on_lines(axes: Axes) -> list[np.ndarray]:
    """Get points along all lines and error bars, 4 pixels apart."""
    paths: list[tuple[ArrayLike, Artist]] = [(line.get_xydata(), line) for line in axes.lines]
    paths += [(path.vertices, bars) for bars in axes.collections for path in bars.get_paths()]
    points = []
    for vertices, artist in paths:
        corners = artist.get_transform().transform(vertices)
        for start, end in pairwise(corners):
            points += [*np.linspace(start, end, 2 + int(np.hypot(*(end - start)) / 4))]
    return points


def _square(center: np.ndarray, radius: float) -> Bbox:
    return Bbox([center - radius, center + radius])


def _contains(page: Bbox, area: Bbox) -> bool:
    return page.x0 <= area.x0 and area.x1 <= page.x1 and page.y0 <= area.y0 and area.y1 <= page.y1


def _line_hits(
    start: np.ndarray, end: np.ndarray, markers: Iterable[np.ndarray], radius: float
) -> bool:
    """Whether a line from a marker's center passes near a marker that does not overlap this one."""
    length = np.hypot(*(end - start))
    way = (end - start) / length
    offsets = [m - start for m in markers if np.hypot(*(m - start)) > 2 * radius]
    return any(np.hypot(*(o - np.clip(o @ way, 0, length) * way)) < radius for o in offsets)
