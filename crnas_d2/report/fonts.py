"""Which of the machine's fonts have the characters of a text."""

from __future__ import annotations

import contextlib
import functools
import logging
import unicodedata
import warnings
from collections.abc import Iterator, Sequence

import matplotlib
from matplotlib.font_manager import FontEntry, findSystemFonts, fontManager
from matplotlib.ft2font import FT2Font

logger = logging.getLogger(__name__)

FIRST = "DejaVu Sans"  # comes with matplotlib
REGULAR = 400  # weight


@functools.lru_cache
def find_families(texts: Sequence[str]) -> tuple[str, ...]:
    """The font families that draw some texts, for matplotlib's ``family``, which takes each
    character from the first one that has it.

    Characters that no font of this machine has are drawn as boxes. That is logged, once for equal
    texts, in one sentence with all of them.

    Args:
        texts: a tuple.

    Returns:
        matplotlib's own font first, and as few others as were found.
    """
    families = [FIRST]
    missing = {c for text in texts for c in text if unicodedata.category(c)[0] not in "CZ"}
    missing -= _covered(_first_font(), missing)
    while missing:
        best = max(_other_fonts(), key=lambda font: len(_covered(font, missing)), default=None)
        covered = _covered(best, missing) if best else set()
        if not covered:
            logger.warning(
                f"no font of this machine has the characters {' '.join(sorted(missing))}, which are "
                "drawn as boxes; install one that has them, such as Noto (on Debian and Ubuntu: "
                "fonts-noto-cjk for Chinese, Japanese and Korean, fonts-noto-core for other scripts)"
            )
            break
        families.append(best.name)
        missing -= covered
    return tuple(families)


@contextlib.contextmanager
def unheeded_glyphs() -> Iterator[None]:
    """Draw without matplotlib's warning for each character that :func:`find_families` told of, and
    for each script that it does not shape."""
    with warnings.catch_warnings():
        for message in ("Glyph .* missing from", "Matplotlib currently does not support"):
            warnings.filterwarnings("ignore", message, UserWarning)
        yield


def _first_font() -> FontEntry:
    return min((font for font in fontManager.ttflist if font.name == FIRST), key=_faults)


@functools.cache
def _other_fonts() -> tuple[FontEntry, ...]:
    """One font of each other family that is installed, those that fit best beside others first.

    What was installed since matplotlib last looked is among them.
    """
    known = {font.fname for font in fontManager.ttflist}
    for path in sorted(set(findSystemFonts()) - known):
        # Not all that is installed is a font of outlines, and whole.
        with contextlib.suppress(OSError, RuntimeError, NotImplementedError, ValueError):
            fontManager.addfont(path)
    fonts: dict[str, FontEntry] = {}
    for font in sorted(fontManager.ttflist, key=_faults):
        if not _is_of_matplotlib(font) and getattr(font, "index", 0) == 0:
            fonts.setdefault(font.name, font)
    return tuple(sorted(fonts.values(), key=_faults))


def _is_of_matplotlib(font: FontEntry) -> bool:
    """Its other fonts have mathematical characters, at places of their own."""
    return font.fname.startswith(matplotlib.get_data_path())


def _faults(font: FontEntry) -> tuple:
    """What keeps a font from being the plain one of a family without serifs."""
    weight = font.weight if isinstance(font.weight, int) else REGULAR
    return (
        font.style != "normal" or font.stretch != "normal",
        abs(weight - REGULAR),
        "Serif" in font.name or "Mono" in font.name,
        "Sans" not in font.name,
        font.name,
        font.fname,
    )


def _covered(font: FontEntry, characters: set[str]) -> set[str]:
    """The characters that a font has."""
    file = _open(font.fname)
    return {c for c in characters if file.get_char_index(ord(c))}


@functools.lru_cache(maxsize=64)
def _open(path: str) -> FT2Font:
    return FT2Font(path)
