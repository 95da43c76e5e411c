"""How all figures of this project look, and how they become files."""

from __future__ import annotations

import contextlib
import io
import os

import matplotlib
from matplotlib.figure import Figure

from ..files import write_atomically

# The palette of Okabe and Ito, which readers with any kind of colour vision can tell apart.
BLUE, ORANGE, GREEN = "#0072B2", "#E69F00", "#009E73"
VERMILION, PURPLE, SKY = "#D55E00", "#CC79A7", "#56B4E9"
INK, GRAY, PALE = "#1A1A1A", "#6B6B6B", "#D9D9D9"
BASELINE, FOUND = ORANGE, BLUE
# From light to dark, so that they stay in order in a grey print. 4 and 6 are those of a DC5's res5.
DILATION_COLORS = {1: "#DDEBF4", 2: "#5FA8D3", 3: "#0B3C5D", 4: "#4A1F5C", 6: "#240C30"}

STYLE = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib
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
    # The same figure is the same bytes.
    "svg.hashsalt": "crnas_d2",
}
FORMATS = ("svg", "png", "pdf")


def styled() -> contextlib.AbstractContextManager:
    """Figures have the style of the project if they are made, drawn on and rendered within it."""
    return matplotlib.rc_context(STYLE)


def render(figure: Figure, file_format: str) -> bytes:
    """A figure as the content of a file: "svg", "png", "webp" or "pdf", the same bytes each time."""
    buffer = io.BytesIO()
    date = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(file_format)
    with styled():
        figure.savefig(buffer, format=file_format, metadata=date)
    return buffer.getvalue()


def figure_format(path: str) -> str:
    """The format that a file's name asks for.

    Raises:
        ValueError: it is none of :data:`FORMATS`.
    """
    file_format = os.path.splitext(path)[1].lower().lstrip(".")
    if file_format not in FORMATS:
        raise ValueError(f"picture {path!r}: expected a name that ends in .svg, .png or .pdf")
    return file_format


def write_figure(figure: Figure, path: str) -> None:
    """Write a figure, whole or not at all, in the format of the file's name. Missing folders are
    made.

    Raises:
        ValueError: the format is unknown.
        OSError: the file cannot be written.
    """
    content = render(figure, figure_format(path))
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    write_atomically(path, content)
