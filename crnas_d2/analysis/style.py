"""The common style of all figures of this project, and how they are written to files."""

from __future__ import annotations

import contextlib
import io
import os
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from ..files import write_atomically

# The palette of Okabe and Ito, which is distinguishable with any kind of color vision
BLUE, ORANGE, GREEN = "#0072B2", "#E69F00", "#009E73"
VERMILION, PURPLE, SKY = "#D55E00", "#CC79A7", "#56B4E9"
INK, GRAY, PALE = "#1A1A1A", "#6B6B6B", "#D9D9D9"
BASELINE, FOUND = ORANGE, BLUE
# From light to dark, so that they stay in order in a gray print. 4 and 6 belong to the res5 of DC5.
DILATION_COLORS = {1: "#DDEBF4", 2: "#5FA8D3", 3: "#0B3C5D", 4: "#4A1F5C", 6: "#240C30"}

STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # ships with matplotlib
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GRAY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": PALE,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "savefig.dpi": 150,
    # makes SVG files reproducible
    "svg.hashsalt": "crnas_d2",
}
FORMATS = ("svg", "png", "pdf")


def styled() -> contextlib.AbstractContextManager:
    """Apply the project's style to figures created, drawn and rendered in a ``with`` block."""
    return matplotlib.rc_context(STYLE)


def render(figure: Figure, file_format: str) -> bytes:
    """Render a figure reproducibly as the content of an "svg", "png", "webp" or "pdf" file."""
    buffer = io.BytesIO()
    date = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(file_format)
    with styled():
        figure.savefig(buffer, format=file_format, metadata=date)
    return buffer.getvalue()


def figure_format(path: str) -> str:
    """Get the format of a figure from the name of its file.

    Raises:
        ValueError: the format is not one of :data:`FORMATS`.
    """
    file_format = os.path.splitext(path)[1].lower().lstrip(".")
    if file_format not in FORMATS:
        raise ValueError(f"figure is {path!r}; expected a name that ends in .svg, .png or .pdf")
    return file_format


def write_figure(figure: Figure, path: str) -> None:
    """Write a figure atomically, in the format of the file's name. Missing folders are created.

    Raises:
        ValueError: the format is unknown.
        OSError: the file cannot be written.
    """
    content = render(figure, figure_format(path))
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    write_atomically(path, content)
