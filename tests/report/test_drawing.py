"""Objects on images, and the fonts of their names, on machines with and without them."""

import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.font_manager import fontManager

from crnas_d2.report import drawing, fonts
from crnas_d2.report.drawing import class_color, draw_objects
from crnas_d2.report.fonts import find_families

GRAY = np.full((100, 200, 3), 90, np.uint8)
BOX = {"bbox": [20, 40, 100, 50], "bbox_mode": 1, "category_id": 0}
CAT, DOG = "\u732b", "\u72ac"  # in Chinese and Japanese


def write_font(path, name, characters):
    """A font of some characters, each of which is a full square; a missing one is empty."""
    builder = FontBuilder(1000, isTTF=True)
    glyphs = [".notdef", *(f"uni{ord(c):04X}" for c in characters)]
    builder.setupGlyphOrder(glyphs)
    builder.setupCharacterMap({ord(c): g for c, g in zip(characters, glyphs[1:])})
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for point in ((0, 900), (900, 900), (900, 0)):
        pen.lineTo(point)
    pen.closePath()
    square = pen.glyph()
    builder.setupGlyf({g: TTGlyphPen(None).glyph() if g == ".notdef" else square for g in glyphs})
    builder.setupHorizontalMetrics(dict.fromkeys(glyphs, (1000, 0)))
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable({"familyName": name, "styleName": "Regular"})
    builder.setupOS2(usWeightClass=400)
    builder.setupPost()
    builder.save(path)
    return str(path)


@pytest.fixture
def machine(monkeypatch):
    """Makes a machine that has matplotlib's fonts, and those that are named."""

    def forget():
        for cached in (fonts.find_families, fonts._other_fonts, fontManager._findfont_cached):
            cached.cache_clear()

    def make(*paths):
        own = os.path.join(matplotlib.get_data_path(), "")
        bare = [font for font in fontManager.ttflist if font.fname.startswith(own)]
        monkeypatch.setattr(fontManager, "ttflist", bare)
        monkeypatch.setattr(fonts, "findSystemFonts", lambda: list(paths))
        forget()

    yield make
    monkeypatch.undo()
    forget()


@pytest.fixture
def warned(caplog):
    """The sentences that were logged."""
    logging.getLogger("crnas_d2").propagate = True
    caplog.set_level(logging.WARNING)
    return lambda: [record.getMessage() for record in caplog.records]


def label(name):
    """The drawn label of a box, less its box and background."""
    return draw_objects(GRAY, [BOX], [name])[:38].astype(int)


def test_only_known_characters_need_no_other_font(machine, warned):
    machine()
    assert find_families(
        ("cat", "chat\n noir", "\u043a\u043e\u0448\u043a\u0430", "\u0393\u03ac\u03c4\u03b1")
    ) == ("DejaVu Sans",)
    assert not warned()


def test_each_character_comes_from_a_font_that_has_it(machine, warned, tmp_path):
    made = [
        write_font(tmp_path / "a.ttf", "A Sans", [CAT]),
        write_font(tmp_path / "b.ttf", "B Sans", [CAT, DOG]),
        write_font(tmp_path / "c.ttf", "C Serif", [CAT, DOG]),
        write_font(tmp_path / "d.ttf", "D Sans", ["\u0e01"]),
    ]
    (tmp_path / "damaged.ttf").write_bytes(b"no font")
    machine(*made, str(tmp_path / "damaged.ttf"), str(tmp_path / "gone.ttf"))
    assert find_families((CAT,)) == ("DejaVu Sans", "A Sans")
    assert find_families((f"cat {CAT}", DOG)) == ("DejaVu Sans", "B Sans")
    assert find_families((DOG, "\u0e01")) == ("DejaVu Sans", "B Sans", "D Sans")
    assert not warned()


def test_a_name_is_drawn_with_the_glyphs_of_the_font_that_has_them(machine, tmp_path):
    machine(write_font(tmp_path / "made.ttf", "Made Sans", [CAT]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = label(CAT)
    # A full square of the label's color, of some 9 points at 100 dots per inch.
    bright = (np.abs(drawn - np.multiply(class_color(0, 1), 255)).max(axis=2) < 10).nonzero()
    assert 90 < len(bright[0]) < 200
    height, width = (np.ptp(axis) + 1 for axis in bright)
    assert len(bright[0]) == height * width


def test_missing_characters_are_told_in_one_sentence(machine, warned):
    machine()
    names = [f"cat {CAT}", f"dog {DOG}{CAT}", "cow"]
    objects = [{**BOX, "category_id": i} for i in range(3)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            drawn = draw_objects(GRAY, objects, names)
    assert (drawn != GRAY).any()
    (sentence,) = warned()
    assert sentence.startswith(
        f"no font of this machine has the characters {DOG} {CAT}, which are drawn as boxes; install"
    )


@pytest.mark.parametrize("name", [CAT, "\ud55c\uad6d\uc5b4", "\u3072\u3089\u304c\u306a"])
def test_names_in_the_fonts_of_this_machine(machine, name):
    find_families.cache_clear()
    families = find_families((name,))
    if len(families) == 1:
        pytest.skip("no font of this machine has it")
    drawn = label(name)
    machine()
    assert (label(name) != drawn).any(axis=2).sum() > 20


def test_signs_of_mathematics_are_drawn_as_they_are():
    assert (label("a $x$") != label("a x")).any()
    assert (label(r"$\frac{$") != GRAY[:38]).any()


def at(panel, color):
    return np.abs(panel.astype(int) - np.multiply(color, 255)).max(axis=2) < 12


@pytest.mark.parametrize("scale", [0.5, 1, 3])
def test_boxes_have_their_places_and_the_colors_of_their_classes(scale):
    boxes = [[20, 40, 80, 50], [120, 30, 60, 50], [5, 5, 40, 20]]
    objects = [{**BOX, "bbox": box, "category_id": i} for i, box in enumerate(boxes)]
    drawn = draw_objects(GRAY, objects, [""] * 4, scale)
    assert drawn.shape == (100 * scale, 200 * scale, 3) and drawn.dtype == np.uint8
    for index, (x, y, w, h) in enumerate(boxes):
        color = class_color(index, 4)
        row = np.flatnonzero(at(drawn, color)[round((y + 0.6 * h) * scale)])
        column = np.flatnonzero(at(drawn, color)[:, round((x + 0.5 * w) * scale)])
        assert row.min() == pytest.approx(x * scale, abs=4)
        assert row.max() == pytest.approx((x + w) * scale, abs=4)
        assert np.abs(column - y * scale).min() <= 3 and np.abs(column - (y + h) * scale).min() <= 3
    assert not at(drawn, class_color(3, 4)).any()


def test_image_is_left_as_it_is_and_nothing_is_drawn_for_no_objects():
    pixels = np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8)
    before = pixels.copy()
    np.testing.assert_array_equal(draw_objects(GRAY, [], []), GRAY)
    draw_objects(pixels, [{**BOX, "bbox": [-5, 10, 100, 100], "score": 0.5}], ["a"])
    np.testing.assert_array_equal(pixels, before)


def test_keypoints_are_drawn():
    points = [60, 60, 2, 80, 70, 2]
    plain = draw_objects(GRAY, [BOX], ["a"]).astype(int)
    drawn = draw_objects(GRAY, [{**BOX, "keypoints": points}], ["a"])
    changed = (drawn != plain).any(axis=2)
    assert changed[60, 60] and changed[70, 80] and changed.sum() < 200


def test_without_opencv_all_but_drawing_works(monkeypatch):
    code = (
        "import sys; sys.modules['cv2'] = None; import crnas_d2.report, crnas_d2.search; "
        "import crnas_d2.commands.predict, crnas_d2.commands.search"
    )
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=True)
    monkeypatch.setattr(drawing, "Visualizer", None)
    with pytest.raises(RuntimeError, match="OpenCV: pip install opencv-python-headless"):
        draw_objects(GRAY, [BOX], ["a"])
