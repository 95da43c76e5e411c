"""The colors of a page in its light and its dark scheme, and figures that follow them."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from ..analysis.style import BASELINE, DILATION_COLORS, FOUND, GRAY, INK, PALE, render

# By the names of the page's CSS variables
THEMES: Mapping[str, Mapping[str, str]] = {
    "light": {
        "paper": "#ffffff",
        "pale": "#f4f6f8",
        "ink": INK,
        "gray": "#595959",
        "line": PALE,
        "accent": "#0b5a8a",
        "marked": "#e3eff7",  # background of the row that was found
        "note": "#b36b00",
        "mark": GRAY,
        "baseline": "#b36b00",
        "found": FOUND,
        **{f"dilation-{dilation}": color for dilation, color in DILATION_COLORS.items()},
    },
    "dark": {
        "paper": "#14181c",
        "pale": "#20262c",
        "ink": "#e6e8ea",
        "gray": "#a9b1b9",
        "line": "#3a424a",
        "accent": "#7cc0ee",
        "marked": "#17364b",
        "note": "#f0b030",
        "mark": "#98a1aa",
        "baseline": "#f0b030",
        "found": "#6cbcf0",
        "dilation-1": "#1e3a4d",
        "dilation-2": "#2a6a96",
        "dilation-3": "#b5dcf5",
        "dilation-4": "#dcb8f0",
        "dilation-6": "#f4e6fb",
    },
}
# CSS variables for the colors of the figures' style
VARIABLES: Mapping[str, str] = {
    color.lower(): name
    for color, name in {
        "#ffffff": "paper",
        INK: "ink",
        GRAY: "mark",
        PALE: "line",
        BASELINE: "baseline",
        FOUND: "found",
        **{color: f"dilation-{dilation}" for dilation, color in DILATION_COLORS.items()},
    }.items()
}
WIDE, NARROW = 11.0, 3.7  # in inches, for figures on wide screens and on phones
LARGEST_SVG = 300_000  # number of bytes


@dataclass(frozen=True)
class Chart:
    """A figure of a page.

    Attributes:
        caption: description of the figure, also for screen readers.
        wide: the figure in the width of a page.
        narrow: the figure in the width of a phone. Without it, the wide one is scaled down.
    """

    caption: str
    wide: Figure
    narrow: Figure | None = None

    @classmethod
    def draw(cls, caption: str, draw: Callable[..., Figure], *args: Any) -> Chart:
        """Draw both widths with a function that has an argument ``narrow``."""
        return cls(caption, draw(*args, narrow=False), draw(*args, narrow=True))

    def embed(self, name: str) -> dict[str, Any]:
        """Embed the figure in a template.

        Args:
            name: unique name of the figure on the page.
        """
        layouts = {"wide": self.wide, "narrow": self.narrow}
        return {
            "caption": self.caption,
            "layouts": [
                {"name": layout if self.narrow else "", **_embed(figure, f"{name}-{layout}-")}
                for layout, figure in layouts.items()
                if figure
            ],
        }


def _embed(figure: Figure, prefix: str) -> dict[str, Any]:
    """Embed a figure as SVG in the colors of the page, or as pixels if the SVG is too large."""
    svg = render(figure, "svg")
    pixels = len(svg) > LARGEST_SVG
    width, height = figure.get_size_inches()
    return {
        "svg": "" if pixels else themed(svg.decode(), prefix),
        "uri": data_uri("webp", render(figure, "webp")) if pixels else "",
        "width": round(width * 96),
        "height": round(height * 96),
    }


def themed(svg: str, prefix: str) -> str:
    """Convert an SVG of matplotlib for embedding in a page, which sets its size.

    Args:
        svg: content of the file.
        prefix: prefix that makes the ids of its parts unique on the page.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = svg.replace("<svg", '<svg aria-hidden="true"', 1)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}", svg)
    return re.sub(r"#[0-9a-f]{6}\b", _variable, svg)


def _variable(color: re.Match[str]) -> str:
    name = VARIABLES.get(color[0])
    return f"var(--{name})" if name else color[0]


def data_uri(kind: str, content: bytes) -> str:
    """Encode an image of a kind such as "png" as a data URI."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
