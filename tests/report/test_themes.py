"""The colors of the page: readable, and those of the figures too."""

import re

import pytest
from pages import contrast

from crnas_d2.analysis import style
from crnas_d2.report.themes import LARGEST_SVG, THEMES, Chart, themed


def test_contrast_of_black_and_white():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)  # a well-known pair


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize(
    "text, ground",
    [(text, ground) for text in ("ink", "gray", "accent") for ground in ("paper", "pale")]
    + [("ink", "marked"), ("mark", "paper")]
    + [("ink", f"dilation-{i}") for i in (1, 2)]
    + [("paper", f"dilation-{i}") for i in (3, 4, 6)],
)
def test_text_is_readable(theme, text, ground):
    colors = THEMES[theme]
    assert contrast(colors[text], colors[ground]) >= 4.5


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("mark", ["baseline", "found", "note", "accent"])
def test_marks_are_seen(theme, mark):
    assert contrast(THEMES[theme][mark], THEMES[theme]["paper"]) >= 3


def test_both_schemes_have_the_same_colors():
    light, dark = (set(THEMES[theme]) for theme in ("light", "dark"))
    assert light == dark


def figure_with_everything():
    with style.styled():
        figure = style.Figure(figsize=(3, 2))
        axes = figure.subplots()
        for color in (style.BASELINE, style.FOUND, *style.DILATION_COLORS.values()):
            axes.plot([0, 1], [0, 1], "o-", color=color, label="a < b")
        axes.set_title("a title", color=style.GRAY)
        axes.legend()
    return figure


def test_a_figure_has_the_colors_of_the_page():
    svg = themed(style.render(figure_with_everything(), "svg").decode(), "figure-1-")
    assert not re.search("#[0-9a-fA-F]{6}\\b", svg)
    used = set(re.findall(r"var\(--([a-z0-9-]+)\)", svg))
    assert used == {
        *("paper", "ink", "mark", "line", "baseline", "found"),
        *(f"dilation-{i}" for i in style.DILATION_COLORS),
    }


def test_figures_do_not_share_names():
    """Two figures on one page: each has its own clip paths and characters."""
    parts = [themed(style.render(figure_with_everything(), "svg").decode(), p) for p in "ab"]
    names = [set(re.findall(r'\bid="([^"]*)"', part)) for part in parts]
    assert names[0] and not names[0] & names[1]
    for part, own in zip(parts, names):
        links = set(re.findall(r'href="#([^"]*)"|url\(#([^)]*)\)', part))
        assert links and {a or b for a, b in links} <= own
        assert "<style" not in part and part.startswith("<svg")


def test_a_figure_too_large_for_vectors():
    figure = figure_with_everything()
    axes = figure.axes[0]
    axes.plot(range(LARGEST_SVG // 5), [i * 7919 % 1000 for i in range(LARGEST_SVG // 5)], ".")
    (layout,) = Chart("many dots", figure).embed("figure-1")["layouts"]
    assert layout["uri"].startswith("data:image/webp;base64,") and not layout["svg"]
    assert len(layout["uri"]) < LARGEST_SVG
